"""An inventory over runtimes whose answers a test decides."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from falcon_agent.container import CgroupPaths, Container
from falcon_agent.discovery.describe import is_alive
from falcon_agent.discovery.filters import Filter
from falcon_agent.discovery.inventory import Inventory
from falcon_agent.discovery.runtime import Change, Found
from falcon_agent.discovery.sources import Source
from falcon_agent.procfs.process import parse_starttime
from falcon_agent.selfstat import SelfStat
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from falcon_agent.discovery.runtime import Runtime

LONG = 3600.0
NOTHING: Mapping[str, Sequence[str]] = {}


def container(name: str, pid: int | None = None, **more: object) -> Container:
    """One whose first process is a real one: this one unless another is given."""
    pid = pid or os.getpid()
    starttime = parse_starttime(Path(f"/proc/{pid}/stat").read_bytes())
    plain = Container(f"id-{name}", name, "told", pid, starttime, CgroupPaths({}, "/"))
    return dataclasses.replace(plain, **more)  # type: ignore[arg-type]


class Told:
    """A runtime whose answers and events a test decides."""

    def __init__(self, *containers: Container, name: str = "told") -> None:
        self.name = name
        self.found = Found(list(containers))
        self.error: Exception | None = None
        self.looks = 0
        self.notify: Callable[[Change], None] = lambda _: None
        self.hold = threading.Event()
        self.hold.set()
        self._watched = threading.Event()
        self._closed = threading.Event()

    def find(self) -> Found:
        self.looks += 1
        found = self.found
        self.hold.wait()
        if self.error:
            raise self.error
        return found

    def watch(self, notify: Callable[[Change], None]) -> None:
        self.notify = notify
        notify(Change())
        self._watched.set()
        self._closed.wait()

    def tell(self, change: Change) -> None:
        self._watched.wait()
        self.notify(change)

    def alive(self, container: Container) -> bool:
        return is_alive("/proc", container)

    def close(self) -> None:
        self._closed.set()
        self.hold.set()


def source(runtime: Runtime) -> Source:
    """The runtime as the configuration's choice; one that is called `cgroups` stands for the tree."""
    return Source(runtime.name, lambda: runtime, is_tree=runtime.name == "cgroups")


@contextlib.contextmanager
def started(
    *runtimes: Runtime | Source,
    chosen: Filter | None = None,
    resync: float = LONG,
    stat: SelfStat | None = None,
) -> Iterator[Inventory]:
    sources = [one if isinstance(one, Source) else source(one) for one in runtimes]
    inventory = Inventory(sources, chosen or Filter(NOTHING, NOTHING), stat or SelfStat(), resync)
    inventory.start()
    try:
        yield inventory
    finally:
        inventory.stop()
        own = ("look-", "watch-", "probe-")
        wait_until(
            lambda: not [thread for thread in threading.enumerate() if thread.name.startswith(own)],
            "its threads have ended",
        )


def names(inventory: Inventory) -> list[str]:
    return [one.name for one in inventory.snapshot()]


def reasons(inventory: Inventory) -> dict[str, str]:
    return {one.name: one.reason for one in inventory.left_out()}
