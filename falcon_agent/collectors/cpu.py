"""CPU time of a container, as a share of what it may use."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from falcon_agent.collectors.base import with_value
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.metric import Metric, Source
from falcon_agent.procfs.cpus import count_online_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from falcon_agent.cgroupfs import CpuQuota, CpuStat
    from falcon_agent.collectors.base import Outcome, Scope, Target
    from falcon_agent.metric import Sample, Tags

_NS_PER_SECOND = 1_000_000_000
_NS_PER_USEC = 1000

_NOTHING: tuple[_Reading | None, _Reading | None] = (None, None)
_NO_CPUS = "the number of CPUs is not known"
_NEEDS_TWO = "a rate needs two samples"
_WENT_BACK = "the counter went back"
_NOT_COUNTED = "the kernel does not count throttling"

_USAGE = (Source("cpu.stat", ("usage_usec",), "v2"), Source("cpuacct.usage", (), "v1"))
_LIMIT = (
    Source("cpu.max", (), "v2"),
    Source("cpuset.cpus.effective", (), "v2"),
    Source("cpu.cfs_quota_us", (), "v1"),
    Source("cpu.cfs_period_us", (), "v1"),
    Source("cpuset.effective_cpus", (), "v1"),
    Source("proc/stat", ("cpu",)),
)
_LIMIT_FORMULA = (
    "the smallest of quota / period here and in every parent, the CPUs of the cpuset, and the host's"
)

LIMIT_CORES = Metric(
    "container.cpu.limit.cores",
    "GAUGE",
    "cores",
    "CPUs the container may use; what the percentages are of.",
    _LIMIT_FORMULA,
    _LIMIT,
)
CORES = Metric(
    "container.cpu.cores",
    "GAUGE",
    "cores",
    "CPUs in use on average since the last cycle; x 100 is the CPU % of docker stats.",
    "delta usage / delta time",
    _USAGE,
)
BUSY = Metric(
    "container.cpu.busy",
    "GAUGE",
    "percent",
    "Share of the CPUs it may use that was in use since the last cycle.",
    "delta usage / delta time / container.cpu.limit.cores x 100",
    _USAGE + _LIMIT,
)
USER = Metric(
    "container.cpu.user",
    "GAUGE",
    "percent",
    "The part of container.cpu.busy spent in programs.",
    "delta user / delta time / container.cpu.limit.cores x 100",
    (Source("cpu.stat", ("user_usec",), "v2"), Source("cpuacct.stat", ("user",), "v1"), *_LIMIT),
)
SYSTEM = Metric(
    "container.cpu.system",
    "GAUGE",
    "percent",
    "The part of container.cpu.busy spent in the kernel.",
    "delta system / delta time / container.cpu.limit.cores x 100",
    (Source("cpu.stat", ("system_usec",), "v2"), Source("cpuacct.stat", ("system",), "v1"), *_LIMIT),
)
THROTTLED_PERCENT = Metric(
    "container.cpu.throttled.percent",
    "GAUGE",
    "percent",
    "Share of the periods it ran in that used up its CPU quota; only with a quota of its own.",
    "delta nr_throttled / delta nr_periods x 100; 0 if it did not run",
    (Source("cpu.stat", ("nr_periods", "nr_throttled")),),
)
THROTTLED_TIME = Metric(
    "container.cpu.throttled.time",
    "COUNTER",
    "microseconds",
    "Time for which its CPU quota kept it from running, over all CPUs; only with a quota of its own.",
    "throttled_usec (v2), throttled_time / 1000 (v1)",
    (Source("cpu.stat", ("throttled_usec",), "v2"), Source("cpu.stat", ("throttled_time",), "v1")),
)


class _Reading(NamedTuple):
    """What was read of a container, and when, on the monotonic clock in seconds; `limit` in CPUs."""

    at: float
    stat: CpuStat | None
    quota: CpuQuota
    limit: float | None


class CpuCollector:
    """How much CPU time containers use, of how much they may, and how long a quota held them back.

    Rates compare two cycles, so a new container has none in its first one. It costs about 0.02 ms of CPU for each
    container and needs no privilege.

    Args:
        proc: where /proc is.
        clock: monotonic seconds.
    """

    name = "cpu"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = (BUSY, USER, SYSTEM, CORES, LIMIT_CORES, THROTTLED_PERCENT, THROTTLED_TIME)

    def __init__(self, proc: str = "/proc", clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._host_cpus: int | None = None
        self._readings: dict[str, tuple[_Reading | None, _Reading]] = {}
        """What was read in the last cycle, after the reading that its rates are held against."""

    def begin(self, targets: Sequence[Target]) -> None:
        """Count the host's CPUs.

        Raises:
            KernelFileError, ParseError: /proc/stat does not tell.
        """
        self._host_cpus = count_online_cpus(read_to_eof(f"{self._proc}/stat"))

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The samples of one container; errors as the methods of `Cgroup`."""
        if target is None:
            return ()
        cgroup = target.cgroup
        quota = cgroup.cpu_quota()
        at = self._clock()
        stat = cgroup.cpu(throttling=quota.own is not None)
        limit = _least(quota.smallest, cgroup.cpuset(), self._host_cpus)
        key = target.key
        now = _Reading(at, stat, quota, limit)
        before, last = self._readings.get(key, _NOTHING)
        if last is not None and last.stat is not None:
            before = last
        self._readings[key] = before, now
        return with_value(_outcomes(before, now))

    def forget(self, target: Target) -> None:
        """Drop the readings of a container that left."""
        self._readings.pop(target.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why `metric` had no value for `target` in the last cycle."""
        if target.key not in self._readings:
            return None
        before, now = self._readings[target.key]
        outcome = next(
            (one for about, one, _ in _outcomes(before, now) if about is metric), _no_quota(now.quota)
        )
        if now.stat is None and metric is not LIMIT_CORES:
            return target.cgroup.reason("cpuacct") or str(outcome)
        return outcome if isinstance(outcome, str) else None


def _outcomes(before: _Reading | None, now: _Reading) -> list[tuple[Metric, Outcome, Tags]]:
    """The metrics with their values or the reason why there is none; no quota is reason enough for throttling."""
    limit, stat = now.limit, now.stat
    limit_cores = _NO_CPUS if limit is None else round(limit, 4)
    if stat is None:
        reason = "the kernel keeps no CPU account of this cgroup"
        rest = (CORES, BUSY, USER, SYSTEM, THROTTLED_PERCENT, THROTTLED_TIME)
        return [(LIMIT_CORES, limit_cores, ()), *((metric, reason, ()) for metric in rest)]
    last = before.stat if before else None
    cores: float | str = _NEEDS_TWO
    user: float | str = _NEEDS_TWO
    system: float | str = _NEEDS_TWO
    if before is not None and last is not None:
        between_ns = (now.at - before.at) * _NS_PER_SECOND
        cores = _cores(last.usage_ns, stat.usage_ns, between_ns)
        user = _cores(last.user_ns, stat.user_ns, between_ns)
        system = _cores(last.system_ns, stat.system_ns, between_ns)
    outcomes: list[tuple[Metric, Outcome, Tags]] = [
        (LIMIT_CORES, limit_cores, ()),
        (CORES, cores if isinstance(cores, str) else round(cores, 4), ()),
        (BUSY, _percent(cores, limit), ()),
        (USER, _percent(user, limit), ()),
        (SYSTEM, _percent(system, limit), ()),
    ]
    if now.quota.own is not None:
        withheld = _NOT_COUNTED if stat.throttled_ns is None else stat.throttled_ns // _NS_PER_USEC
        outcomes += (
            (THROTTLED_PERCENT, _throttled_percent(last, stat), ()),
            (THROTTLED_TIME, withheld, ()),
        )
    return outcomes


@lru_cache(maxsize=256)
def _least(*cpus: float | None) -> float | None:
    return min((known for known in cpus if known is not None), default=None)


def _cores(before_ns: int | None, now_ns: int | None, between_ns: float) -> float | str:
    """CPUs in use on average, from CPU time at two points."""
    if now_ns is None:
        return "the kernel does not tell user and system time apart"
    if before_ns is None:
        return _NEEDS_TWO
    if now_ns < before_ns:
        return _WENT_BACK
    if between_ns <= 0:
        return "no time has passed since the last sample"
    return (now_ns - before_ns) / between_ns


def _percent(cores: float | str, limit: float | None) -> Outcome:
    if isinstance(cores, str):
        return cores
    return _NO_CPUS if limit is None else round(cores / limit * 100, 3)


def _throttled_percent(before: CpuStat | None, now: CpuStat) -> Outcome:
    if now.nr_periods is None or now.nr_throttled is None:
        return _NOT_COUNTED
    if before is None or before.nr_periods is None or before.nr_throttled is None:
        return _NEEDS_TWO
    periods = now.nr_periods - before.nr_periods
    throttled = now.nr_throttled - before.nr_throttled
    if periods < 0 or throttled < 0:
        return _WENT_BACK
    # Periods pass only while something wants to run: without any, nothing was held back.
    return round(throttled / periods * 100, 3) if periods else 0.0


def _no_quota(quota: CpuQuota) -> str:
    """A parent's quota throttles its children too, but their own counters stay 0, which would be a lie."""
    if quota.smallest is None:
        return "no CPU quota is set, so nothing can be throttled"
    return "the CPU quota is that of a parent cgroup, and the kernel counts throttling only there"
