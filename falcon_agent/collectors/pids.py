"""Tasks of a container, and of how many."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from falcon_agent.metric import Metric, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from falcon_agent.cgroupfs import PidsStat
    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample

_Outcome: TypeAlias = int | float | str
"""A value, or in words why there is none."""

_CURRENT = Source("pids.current")
_MAX = Source("pids.max")

CURRENT = Metric(
    "container.pids.current",
    "GAUGE",
    "tasks",
    "Tasks of the container: every thread of every process is one.",
    "pids.current",
    (_CURRENT,),
)
LIMIT = Metric(
    "container.pids.limit",
    "GAUGE",
    "tasks",
    "Tasks the container may have: its limit or that of a parent cgroup; absent without one.",
    "the smallest pids.max here and in every parent cgroup",
    (_MAX,),
)
USED_PERCENT = Metric(
    "container.pids.used.percent",
    "GAUGE",
    "percent",
    "Share of the tasks it may have that there are; absent without a limit.",
    "container.pids.current / container.pids.limit x 100",
    (_CURRENT, _MAX),
)
DENIED = Metric(
    "container.pids.denied",
    "COUNTER",
    "tasks",
    "How often it was refused a new process or thread because of a limit of tasks.",
    "max; since Linux 6.11 v2 counts what a parent's limit refused in the parent only",
    (Source("pids.events", ("max",)),),
)


class PidsCollector:
    """How many tasks containers have, of how many they may; needs no privilege.

    Where no cgroup has a limit there is none to compare with: what bounds the host (kernel.pid_max and threads-max) is
    no share of one container's. Three small files are read for each container (0.04 ms of CPU), and those of its
    parents once.
    """

    name = "pids"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = (CURRENT, LIMIT, USED_PERCENT, DENIED)

    def __init__(self) -> None:
        self._absent: dict[str, dict[str, str]] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Nothing is cheaper at once here."""

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The samples of one container; errors as the methods of `Cgroup`."""
        if target is None:
            return
        absent = self._absent[target.container.key] = {}
        stat = target.cgroup.pids()
        reason = target.cgroup.reason("pids") if stat is None else None
        for metric, outcome in _outcomes(stat, reason):
            if isinstance(outcome, str):
                absent[metric.name] = outcome
            else:
                yield metric, outcome, ()

    def forget(self, target: Target) -> None:
        """Drop what was said about a container that left."""
        self._absent.pop(target.container.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why `metric` had no value for `target` in the last cycle."""
        return self._absent.get(target.container.key, {}).get(metric.name)


def _outcomes(stat: PidsStat | None, reason: str | None) -> Iterable[tuple[Metric, _Outcome]]:
    """Every metric with its value or the reason why there is none."""
    if stat is None:
        for metric in PidsCollector.metrics:
            yield metric, reason or "the kernel does not count the tasks of this cgroup"
        return
    no_limit = "no limit of tasks is set, here or in a parent cgroup"
    yield CURRENT, stat.current
    yield LIMIT, no_limit if stat.limit is None else stat.limit
    yield USED_PERCENT, no_limit if stat.limit is None else _percent(stat.current, stat.limit)
    yield DENIED, "the kernel does not count what it refuses" if stat.denied is None else stat.denied


def _percent(current: int, limit: int) -> _Outcome:
    return round(current / limit * 100, 3) if limit else "the limit is 0 tasks"
