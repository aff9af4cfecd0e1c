"""Whose the kills are that the kernel's log tells of, and which of them nobody has reported yet."""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from falcon_agent.errors import FalconAgentError
from falcon_agent.procfs.kmsg import News

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from falcon_agent.container import Container
    from falcon_agent.procfs.kmsg import Kill

log = logging.getLogger(__name__)

KEEP_SECONDS = 600.0
"""How long the cgroup of a container that ended goes on to be its own: one that is started again and again may be down
whenever a cycle looks."""
KEEP_MAX = 250
"""Containers that ended and are remembered so, each with its labels: some 4 KB."""

_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

Series: TypeAlias = tuple[str, str]
"""What a container's records are told apart by: its name, and its pod's key if it has one."""


def series(container: Container) -> Series:
    """The series of a container's records."""
    return container.name, container.pod.key if container.pod is not None else ""


class TellsOfKills(Protocol):
    """The kernel's log."""

    def read(self) -> News:
        """The kills since the last reading."""


class _Known(NamedTuple):
    container: Container
    seen: float


class OomLog:
    """Kills that the log told of, by series, until they are reported.

    The log outlasts the container; the cgroup's counter does not, but it is the kernel's word while it is there. So of
    the kills since the last cycle the greater number counts: the counter's growth, or, if lives ended with kills in
    them that no cycle has read, what the log told.

    Args:
        open_log: the log from now on; errors as FalconAgentError: then there is none.
        has_host_pids: whether `Container.pid` is the number by which the log names a process.
    """

    def __init__(self, open_log: Callable[[], TellsOfKills], *, has_host_pids: bool) -> None:
        self._open = open_log
        self._has_host_pids = has_host_pids
        self._log: TellsOfKills | None = None
        self._began = False
        self._lost = True  # whatever was told before
        self._known: dict[str, _Known] = {}
        self._ids: dict[str, Container] = {}
        self._nobodys: deque[tuple[float, Kill]] = deque(maxlen=KEEP_MAX)
        self._cycle = (0.0, 0.0)
        """When the last cycle began, and this one."""
        self._told: Counter[Series] = Counter()
        self._whose: dict[Series, Container] = {}
        self._early: Counter[Series] = Counter()
        self._late: list[Kill] = []
        self.complete = False
        """Whether it knows of all kills since the last cycle."""

    def begin(self, running: Iterable[Container], ended: Iterable[Container], now: float) -> None:
        """Read what was told since the last cycle; once in each.

        Args:
            running: the containers that are measured.
            ended: others in which kills were heard of; with a path or an id at least.
            now: seconds on any clock that goes on.
        """
        self._cycle = (self._cycle[1], now)
        heard = list(ended)
        for container in (*heard, *running):
            path = container.cgroup.path("memory")
            if path is not None and path != "/":
                self._known.pop(path, None)
                self._known[path] = _Known(container, now)
        self._forget(now)
        self._ids = {one.container.id: one.container for one in self._known.values()}
        for container in heard:
            self._ids.setdefault(container.id, container)
        if not self._began:
            self._began = True
            self._start()
        self._settle_late()
        kept = [(seen, kill) for seen, kill in self._nobodys if now - seen <= KEEP_SECONDS]
        self._nobodys.clear()
        for seen, kill in (*kept, *((now, kill) for kill in self._read())):
            self._settle(seen, kill)
        self.complete, self._lost = not self._lost, False

    def end(self) -> None:
        """Read once more, after the counters: what they had already, and the log tells only now, is no news."""
        self._late += self._read()

    def _settle_late(self) -> None:
        for kill in self._late:
            container = self._container(kill)
            if container is not None and self._early[series(container)] > 0:
                self._early[series(container)] -= 1
            else:
                self._settle(self._cycle[1], kill)
        self._late.clear()
        self._early.clear()

    def _settle(self, seen: float, kill: Kill) -> None:
        """Count a kill, or keep it: whose cgroup that was may be known in the next cycle."""
        container = self._container(kill)
        if container is not None:
            self._told[series(container)] += 1
            self._whose[series(container)] = container
        elif kill.cgroup is None:
            self._lost = True
        else:
            self._nobodys.append((seen, kill))

    def _forget(self, now: float) -> None:
        gone = [path for path, known in self._known.items() if known.seen < now]
        for number, path in enumerate(gone):
            if len(gone) - number > KEEP_MAX or now - self._known[path].seen > KEEP_SECONDS:
                del self._known[path]
        self._whose = {key: self._whose[key] for key in self._told}

    def _start(self) -> None:
        try:
            self._log = self._open()
        except FalconAgentError as error:
            log.info("%s; of kills for want of memory that end a container only Docker tells then", error)

    def _read(self) -> list[Kill]:
        news = self._log.read() if self._log is not None else News([], lost=True)
        self._lost |= news.lost
        return news.kills

    def _container(self, kill: Kill) -> Container | None:
        path = kill.cgroup or ""
        while path:
            if (known := self._known.get(path)) is not None:
                return known.container
            path = path.rpartition("/")[0]
        # The first: inside of its cgroup a container may make others, with any name.
        if kill.cgroup is not None and (named := _ID.search(kill.cgroup)) is not None:
            return self._ids.get(named[0])
        if kill.cgroup is None and self._has_host_pids:
            # A pid is soon another's.
            lately = (one.container for one in self._known.values() if one.seen >= self._cycle[0])
            return next((one for one in lately if one.pid == kill.pid), None)
        return None

    def settle(self, key: Series, counted: int | None) -> int:
        """The kills to report for a series.

        Args:
            key: the series.
            counted: how far the cgroup's counter has grown since the last cycle; None if that cannot be told.
        """
        told = self._told.pop(key, 0)
        if counted is None:
            return told
        self._early[key] = max(counted - told, 0)
        return max(counted, told)

    def left(self, living: Collection[Series]) -> Iterator[tuple[Container, int]]:
        """What is to be reported for series of which no container runs; each once."""
        for key in [key for key in self._told if key not in living]:
            yield self._whose[key], self._told.pop(key)
