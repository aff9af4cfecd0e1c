"""A transfer that accepts everything, as a process of its own, and prints when it got how many records."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from falcon_agent.transfer.receiver import Push, Receiver
from falcon_agent.transfer.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

_OK = Verdict("ok")


class Willing(Receiver):
    """Judges nothing: what a transfer refuses is not the subject here, and looking costs CPU."""

    def judge(self, items: Sequence[Any]) -> tuple[tuple[Any, Verdict], ...]:
        """Everything is fine."""
        return tuple((item, _OK) for item in items)


def main() -> None:
    """Print the port, then a line `MONOTONIC_SECONDS RECORDS TIMESTAMP` for each push with records."""

    def show(push: Push) -> None:
        if push.items:
            print(time.monotonic(), len(push.items), push.items[0][0]["timestamp"], flush=True)

    server = Willing(("127.0.0.1", 0), show)
    print(server.server_port, flush=True)
    server.serve_until_stopped()


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)
