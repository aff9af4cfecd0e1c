"""The other process of `validation`: validates, writes the answer to standard output, and ends."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

from falcon_agent.config.loading import load_tree
from falcon_agent.errors import ConfigError


def main(path: str | None) -> None:
    """Write `{"settings": tree}` or `{"error": message}`, as JSON.

    Args:
        path: as for `loading.load_tree`, with the environment of this process.
    """
    try:
        answer: dict[str, object] = {"settings": load_tree(path)}
    except ConfigError as error:
        answer = {"error": str(error)}
    # Where nobody waits for it any more there is nothing to do.
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(answer))
        sys.stdout.flush()
    # Nothing is left to clean up, and taking the interpreter apart takes time that the daemon would wait for.
    os._exit(0)
