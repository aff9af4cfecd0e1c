"""How a container lives: for how long, started again how often, healthy or not, killed for want of memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from falcon_agent.collectors.oomlog import OomLog, series
from falcon_agent.metric import Metric, Source
from falcon_agent.procfs.kmsg import KernelLog, numbers_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.collectors.oomlog import Series, TellsOfKills
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
    "growth of oom_kill, or where that is more the kills that the kernel's log names; without the log, for lives that"
    " ended, the oom events that came after it was read last",
    (
        Source("memory.events", ("oom_kill",), "v2"),
        Source("memory.oom_control", ("oom_kill",), "v1"),
        Source("/dev/kmsg"),
        Source("GET /events"),
    ),
)

_TICKS = os.sysconf("SC_CLK_TCK")
_LATE_SECONDS = 30.0
"""How long a container may run before it is measured for the first time and still counts as new, and how long after
a kill Docker may tell of it."""
_HEALTH = {"healthy": 1, "unhealthy": 0}


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was known of a life in the last cycle.

    Attributes:
        series: the container's.
        kills: its cgroup's counter, or None where the kernel has none.
        ooms: events heard by then; the counter has them.
        ahead: kills that the counter had, and of which no event was heard yet.
    """

    series: Series
    kills: int | None
    ooms: int
    ahead: int = 0


class LifeCollector:
    """For how long containers run, how often they were started again, whether they are healthy, OOM kills.

    Costs one cgroup file for each container, about 15 us of CPU time, and one descriptor in all; the rest comes
    with the runtime's list and events, without a request for any container that is known.

    The kernel's count of kills goes with the container's cgroup, mostly before a cycle has read the kill that ended
    it. What outlasts it is the kernel's log (/dev/kmsg), which names the cgroup. Kills that only the log tells are
    reported under the container's name in the next cycle, together with those of its next life, or, if it did not
    come back, alone. Of more than ten kills in five seconds on a host it names no cgroup, only the process: by it
    the first one of a container is known. Of a container that no cycle has seen only Docker tells the name.

    To read the log needs CAP_SYSLOG where the sysctl kernel.dmesg_restrict is 1, and in a container the device.
    Without it, and in a cycle before which something in it was overwritten or is nobody's, kills that ended a
    container are those of which Docker told (its event `oom`) while it was heard. Docker 20.10 itself misses some
    under cgroup v1, most under v2; podman and Kubernetes tell of none. Under v1 Docker also tells of a want of
    memory in a parent cgroup, whoever in it was killed. The first cycle has nothing to compare with.

    Docker tells of health with its list; podman does not.

    Args:
        ended: lives that ended since it was last called and in which kills were heard of (`Container.ooms`).
        boottime: seconds since boot, as the start times of processes count them. A time namespace shifts both
            alike.
        proc: where the procfs is that numbers the processes.
        open_log: the kernel's log from now on.
    """

    name = "life"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = (UPTIME, RESTARTS, HEALTH, OOM)

    def __init__(
        self,
        ended: Callable[[], Iterable[Container]] = tuple,
        boottime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        proc: str = "/proc",
        open_log: Callable[[], TellsOfKills] = KernelLog,
    ) -> None:
        self._heard = ended
        self._boottime = boottime
        self._now: float | None = None
        self._last: float | None = None
        self._log = OomLog(open_log, has_host_pids=numbers_like(proc))
        self._readings: dict[str, _Reading] = {}
        self._told: dict[Series, int] = {}
        """Kills in lives that ended of which Docker has told since the last cycle."""
        self._expected: dict[Series, tuple[int, float]] = {}
        """Events that may come yet, and until when."""
        self._owed: dict[Series, int] = {}
        self._alone: list[tuple[Container, int]] = []

    def begin(self, targets: Sequence[Target]) -> None:
        """Settle what is owed of lives that ended."""
        self._last, self._now = self._now, self._boottime()
        heard = list(self._heard())
        self._log.begin((target.container for target in targets), heard, self._now)
        owed: dict[Series, tuple[Container, int]] = {}
        for container in heard:
            kills = self._unread(container)
            if kills > 0:
                before = owed.get(series(container))
                owed[series(container)] = (container, kills + (before[1] if before is not None else 0))
        self._told = {key: kills for key, (_, kills) in owed.items()}
        if self._log.complete:
            owed = {}
        living = {series(target.container) for target in targets}
        self._owed = {key: kills for key, (_, kills) in owed.items() if key in living}
        alone = {key: one for key, one in owed.items() if key not in living}
        for container, kills in self._log.left(living):
            _, heard_of = alone.get(series(container), (container, 0))
            alone[series(container)] = (container, max(kills, heard_of))
            self._expect(series(container), kills - self._told.get(series(container), 0))
        self._alone = list(alone.values())
        # Only now: what has just ended was asked for above.
        keys = {target.container.key for target in targets}
        for ended in self._readings.keys() - keys:
            reading = self._readings.pop(ended)
            self._expect(reading.series, reading.ahead)
        self._expected = {key: one for key, one in self._expected.items() if one[1] > self._now}

    def collect(self, target: Target | None) -> Iterator[Sample]:
        """The samples of one container; errors as `Cgroup.oom_kills`."""
        if target is None or self._now is None:
            return
        container = target.container
        kills = target.cgroup.oom_kills()
        ahead = self._ahead(container, kills)
        oom = self._ooms(container, kills)
        self._readings[container.key] = _Reading(series(container), kills, container.ooms, ahead)
        yield UPTIME, round(max(self._now - container.starttime / _TICKS, 0.0), 2), ()
        if container.restarts is not None:
            yield RESTARTS, container.restarts, ()
        if container.health in _HEALTH:
            yield HEALTH, _HEALTH[container.health], ()
        if oom is not None:
            yield OOM, oom, ()

    def _unread(self, container: Container) -> int:
        """Kills in a life that ended, of which Docker told and nobody else did before."""
        reading = self._readings.get(container.key)
        kills = container.ooms - (reading.ooms + reading.ahead if reading is not None else 0)
        if reading is not None:
            # What the counter had, these have told now.
            self._readings[container.key] = replace(reading, ooms=container.ooms, ahead=max(-kills, 0))
        expected, until = self._expected.get(series(container), (0, 0.0))
        self._expected[series(container)] = (max(expected - max(kills, 0), 0), until)
        return kills - expected

    def _expect(self, key: Series, events: int) -> None:
        """Kills of lives that ended are known without Docker: its events may come yet, and are no news then."""
        if events > 0 and self._now is not None:
            expected, _ = self._expected.get(key, (0, 0.0))
            self._expected[key] = (expected + events, self._now + _LATE_SECONDS)

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
        owed = self._owed.pop(series(container), None)
        counted = self._counted(container, kills)
        told = self._log.settle(series(container), counted)
        self._expect(series(container), told - (counted or 0) - self._told.get(series(container), 0))
        if counted is None and owed is None and not (self._log.complete or told):
            return None
        return max((counted or 0) + (owed or 0), told)

    def _counted(self, container: Container, kills: int | None) -> int | None:
        """By how much the counter has grown in this life since the last cycle, or None if that cannot be told."""
        before = self._readings.get(container.key)
        if kills is None or (before is not None and before.kills is None):
            return None
        if before is None:
            # What was counted before anybody looked is no news; a life that has just begun brings only news.
            return kills if self._is_new(container) else None
        return max(kills - (before.kills or 0), 0)

    def ended(self) -> Iterator[tuple[Container, Sample]]:
        """Of containers that ended and did not come back: what is left to say, once in a cycle."""
        self._log.end()
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
