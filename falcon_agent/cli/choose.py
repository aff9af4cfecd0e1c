"""What commands that measure share: the parts they need, and the container that a person means."""

from __future__ import annotations

import difflib
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from falcon_agent.errors import FalconAgentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from falcon_agent.collectors.runner import Runner
    from falcon_agent.config import Settings
    from falcon_agent.container import Container
    from falcon_agent.discovery.inventory import Inventory
    from falcon_agent.selfstat import SelfStat

_NAMED = 10


@contextmanager
def measuring(chosen: Settings, stat: SelfStat) -> Iterator[tuple[Runner, Inventory]]:
    """A runner, and an inventory that has looked once; both end with the block.

    Raises:
        FalconAgentError: there is no cgroup hierarchy to measure.
    """
    from falcon_agent.agent import build_inventory, build_runner  # noqa: PLC0415

    inventory = build_inventory(chosen, stat)
    runner = build_runner(chosen, stat, inventory)
    try:
        inventory.start()
        yield runner, inventory
    finally:
        inventory.stop()
        runner.close()


def one_container(containers: Sequence[Container], wanted: str) -> Container:
    """The container with this name, or whose id begins so; those that only hold a pod's namespaces are none.

    Raises:
        FalconAgentError: there is none, or more than one; the message names what there is.
    """
    containers = [container for container in containers if not container.pause]
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
