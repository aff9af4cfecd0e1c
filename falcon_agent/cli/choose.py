"""Finding the container that a person means."""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING

from falcon_agent.errors import FalconAgentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from falcon_agent.container import Container
    from falcon_agent.discovery.inventory import Inventory

_NAMED = 10


def one_container(containers: Sequence[Container], wanted: str) -> Container:
    """The container with this name, or whose id begins so.

    Raises:
        FalconAgentError: there is none, or more than one; the message names what there is.
    """
    by_name = [container for container in containers if container.name == wanted]
    found = by_name or [container for container in containers if wanted and container.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{container.name} ({container.short_id})" for container in found[:_NAMED])
        raise FalconAgentError(f"cannot tell which container {wanted!r} is: {names}; give more of the id")
    running = [container.name for container in containers]
    close = difflib.get_close_matches(wanted, running, _NAMED) or running[:_NAMED]
    there = f"running are {', '.join(map(repr, close))}" if close else "no container is running"
    raise FalconAgentError(f"cannot find container {wanted!r}: {there}; `falcon-agent containers` lists all")


def warn_about_runtimes(inventory: Inventory) -> None:
    """Say on standard error which runtime does not answer, so that a short list is not taken for the truth."""
    for state in inventory.states():
        if not state.ok:
            print(f"falcon-agent: warning: {state.error}", file=sys.stderr)
