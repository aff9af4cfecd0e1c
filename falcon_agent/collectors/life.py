"""How a container lives: for how long, started again how often, healthy or not, killed for want of memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from falcon_agent.metric import Metric, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.container import Container
    from falcon_agent.metric import Sample

UPTIME = Metric(
    "container.uptime",
    "GAUGE",
    "seconds",
    "How long its first process has been running.",
    "CLOCK_BOOTTIME - field 22 (starttime) / USER_HZ",
    (Source("stat"),),
)
RESTARTS = Metric(
    "container.restarts",
    "GAUGE",
    "restarts",
    "How often the runtime started it again by itself; Docker begins at 0 again when somebody starts it by hand.",
    "RestartCount (Docker, podman), attempt (Kubernetes)",
    (Source("GET /containers/ID/json"), Source("CRI ListContainers")),
)
HEALTH = Metric(
    "container.health",
    "GAUGE",
    "1",
    "1 while its health check succeeds, 0 when it has failed; absent without one and before its first result.",
    "1 for healthy, 0 for unhealthy in Status",
    (Source("GET /containers/json"),),
)
OOM = Metric(
    "container.oom",
    "GAUGE",
    "processes",
    "Processes of the container that the kernel killed for want of memory since the last cycle, also where that ended"
    " the container.",
    "growth of oom_kill, and for lives that ended the oom events that came after it was read last",
    (
        Source("memory.events", ("oom_kill",), "v2"),
        Source("memory.oom_control", ("oom_kill",), "v1"),
        Source("GET /events"),
    ),
)

_TICKS = os.sysconf("SC_CLK_TCK")
_LATE_SECONDS = 30.0
"""How long a container may run before it is measured for the first time and still counts as new."""
_HEALTH = {"healthy": 1, "unhealthy": 0}

_Series: TypeAlias = tuple[str, str]
"""What a container's records are told apart by: its name, and its pod's key if it has one."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was known of a life in the last cycle.

    Attributes:
        kills: its cgroup's counter, or None where the kernel has none.
        ooms: events heard by then; the counter has them.
        ahead: kills that the counter had, and of which no event was heard yet.
    """

    kills: int | None
    ooms: int
    ahead: int = 0


class LifeCollector:
    """For how long containers run, how often they were started again, whether they are healthy, OOM kills.

    Costs one cgroup file for each container, about 15 us of CPU time; the rest comes with the runtime's list
    and events, without a request for any container that is known. Needs no privilege.

    The kernel's count of kills goes with the container's cgroup. So when a life ends, the kills in it that no
    cycle has read are those of which Docker told (its event `oom`): they are reported under the container's
    name in the next cycle, together with those of its next life, or, if it did not come back, alone. Nothing
    is told of kills that ended a container while Docker was not heard, nor by podman and Kubernetes. Docker 20.10
    itself misses some that end a container under cgroup v1, and most under v2: then only exit code 137 tells.
    Under v1 it also tells of a want of memory in a parent cgroup, whoever in it was killed. The first cycle has
    nothing to compare with.

    Docker tells of health with its list; podman does not.

    Args:
        ended: lives that ended since it was last called and in which kills were heard of (`Container.ooms`).
        boottime: seconds since boot, as the start times of processes count them. A time namespace shifts both
            alike.
    """

    name = "life"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = (UPTIME, RESTARTS, HEALTH, OOM)

    def __init__(
        self,
        ended: Callable[[], Iterable[Container]] = tuple,
        boottime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._heard = ended
        self._boottime = boottime
        self._now: float | None = None
        self._last: float | None = None
        self._readings: dict[str, _Reading] = {}
        self._owed: dict[_Series, int] = {}
        self._alone: list[tuple[Container, int]] = []

    def begin(self, targets: Sequence[Target]) -> None:
        """Settle what is owed of lives that ended."""
        self._last, self._now = self._now, self._boottime()
        owed: dict[_Series, tuple[Container, int]] = {}
        for container in self._heard():
            reading = self._readings.get(container.key)
            kills = container.ooms - (reading.ooms + reading.ahead if reading is not None else 0)
            if kills > 0:
                before = owed.get(_series(container))
                owed[_series(container)] = (container, kills + (before[1] if before is not None else 0))
        living = {_series(target.container) for target in targets}
        self._owed = {series: kills for series, (_, kills) in owed.items() if series in living}
        self._alone = [one for series, one in owed.items() if series not in living]
        # Only now: what has just ended was asked for above.
        keys = {target.container.key for target in targets}
        self._readings = {key: reading for key, reading in self._readings.items() if key in keys}

    def collect(self, target: Target | None) -> Iterator[Sample]:
        """The samples of one container; errors as `Cgroup.oom_kills`."""
        if target is None or self._now is None:
            return
        container = target.container
        kills = target.cgroup.oom_kills()
        ahead = self._ahead(container, kills)
        oom = self._ooms(container, kills)
        self._readings[container.key] = _Reading(kills, container.ooms, ahead)
        yield UPTIME, round(max(self._now - container.starttime / _TICKS, 0.0), 2), ()
        if container.restarts is not None:
            yield RESTARTS, container.restarts, ()
        if container.health in _HEALTH:
            yield HEALTH, _HEALTH[container.health], ()
        if oom is not None:
            yield OOM, oom, ()

    def _ahead(self, container: Container, kills: int | None) -> int:
        """By how many kills the counter is ahead of the events: theirs are on their way, and no news."""
        before = self._readings.get(container.key)
        if kills is None or (before is not None and before.kills is None):
            return 0
        if before is None:
            return max(kills - container.ooms, 0) if self._is_new(container) else 0
        counted = max(kills - (before.kills or 0), 0)
        return max(before.ahead + counted - (container.ooms - before.ooms), 0)

    def _is_new(self, container: Container) -> bool:
        """Whether this life has begun since the last cycle."""
        return self._last is not None and container.starttime / _TICKS >= self._last - _LATE_SECONDS

    def _ooms(self, container: Container, kills: int | None) -> int | None:
        """Kills since the last cycle, in this life and in those before it, or None if nothing is known."""
        owed = self._owed.pop(_series(container), None)
        if kills is None:
            return owed
        before = self._readings.get(container.key)
        if before is None:
            # What was counted before anybody looked is no news; a life that has just begun brings only news.
            return kills + (owed or 0) if self._is_new(container) else owed
        if before.kills is None:
            return owed
        return max(kills - before.kills, 0) + (owed or 0)

    def ended(self) -> Iterator[tuple[Container, Sample]]:
        """Of containers that ended and did not come back: what is left to say, once in a cycle."""
        alone, self._alone = self._alone, []
        for container, kills in alone:
            yield container, (OOM, kills, ())

    def forget(self, target: Target) -> None:
        """The next `begin` drops it: it may have to be settled before."""

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why `metric` had no value for `target` in the last cycle."""
        if metric is RESTARTS:
            return f"{target.container.runtime} does not tell" if target.container.restarts is None else None
        if metric is HEALTH:
            if target.container.health == "starting":
                return "its health check has no result yet"
            return (
                "it has no health check, or the runtime's list does not tell of it"
                if (target.container.health not in _HEALTH)
                else None
            )
        if metric is OOM:
            reading = self._readings.get(target.container.key)
            if reading is not None and reading.kills is None:
                return "the kernel does not count them for this cgroup"
            return "there was no cycle before to compare with"
        return None


def _series(container: Container) -> _Series:
    return container.name, container.pod.key if container.pod is not None else ""
