"""Memory of a container, and of how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.collectors.base import with_value
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.metric import Metric, Source
from falcon_agent.procfs.meminfo import parse_meminfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from falcon_agent.cgroupfs import MemoryStat
    from falcon_agent.collectors.base import Outcome, Scope, Target
    from falcon_agent.metric import Sample, Tags

_USED = (
    Source("memory.current", (), "v2"),
    Source("memory.stat", ("inactive_file",), "v2"),
    Source("memory.usage_in_bytes", (), "v1"),
    Source("memory.stat", ("total_inactive_file",), "v1"),
)
_TOTAL = (
    Source("memory.max", (), "v2"),
    Source("memory.stat", ("hierarchical_memory_limit",), "v1"),
    Source("proc/meminfo", ("MemTotal",)),
)

MEMTOTAL = Metric(
    "container.mem.memtotal",
    "GAUGE",
    "bytes",
    "Memory the container may use: its limit or that of a parent cgroup, else the host's memory.",
    "the smallest of the limits here and in every parent cgroup, and MemTotal",
    _TOTAL,
)
MEMUSED = Metric(
    "container.mem.memused",
    "GAUGE",
    "bytes",
    "Memory in use, without page cache that can be given back at once.",
    "usage - inactive_file, never below 0",
    _USED,
)
MEMUSED_PERCENT = Metric(
    "container.mem.memused.percent",
    "GAUGE",
    "percent",
    "Share of the memory it may use that is in use.",
    "container.mem.memused / container.mem.memtotal x 100",
    _USED + _TOTAL,
)
RSS = Metric(
    "container.mem.rss",
    "GAUGE",
    "bytes",
    "Anonymous memory of its processes: heaps and stacks.",
    "anon (v2), total_rss (v1)",
    (Source("memory.stat", ("anon",), "v2"), Source("memory.stat", ("total_rss",), "v1")),
)
CACHE = Metric(
    "container.mem.cache",
    "GAUGE",
    "bytes",
    "Page cache, with tmpfs and shared memory.",
    "file (v2), total_cache (v1)",
    (Source("memory.stat", ("file",), "v2"), Source("memory.stat", ("total_cache",), "v1")),
)
SWAPUSED = Metric(
    "container.mem.swapused",
    "GAUGE",
    "bytes",
    "Memory swapped out.",
    "memory.swap.current (v2), total_swap (v1)",
    (Source("memory.swap.current", (), "v2"), Source("memory.stat", ("total_swap",), "v1")),
)
OOM_KILLS = Metric(
    "container.mem.oom.kills",
    "COUNTER",
    "processes",
    "Processes of the container that the kernel killed for want of memory.",
    "oom_kill",
    (Source("memory.events", ("oom_kill",), "v2"), Source("memory.oom_control", ("oom_kill",), "v1")),
)


class MemoryCollector:
    """How much memory containers use, of how much they may.

    It costs about 0.02 ms of CPU for each container and needs no privilege.

    Args:
        proc: where /proc is.
    """

    name = "memory"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = (MEMTOTAL, MEMUSED, MEMUSED_PERCENT, RSS, CACHE, SWAPUSED, OOM_KILLS)

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._host_bytes: int | None = None
        self._readings: dict[str, tuple[MemoryStat | None, int | None]] = {}
        self._samples: dict[str, list[Sample]] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Read the host's memory size.

        Raises:
            KernelFileError, ParseError: /proc/meminfo does not tell.
        """
        host_bytes = parse_meminfo(read_to_eof(f"{self._proc}/meminfo")).mem_total_bytes
        if host_bytes != self._host_bytes:
            self._host_bytes = host_bytes
            self._samples.clear()

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The samples of one container; errors as the methods of `Cgroup`."""
        if target is None:
            return ()
        cgroup, key = target.cgroup, target.key
        reading = cgroup.memory(), cgroup.oom_kills()
        samples = self._samples.get(key)
        # The same reading has the same samples.
        if samples is None or reading != self._readings[key]:
            samples = self._samples[key] = with_value(_outcomes(*reading, self._host_bytes))
        self._readings[key] = reading
        return samples

    def forget(self, target: Target) -> None:
        """Drop the readings of a container that left."""
        self._readings.pop(target.key, None)
        self._samples.pop(target.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why `metric` had no value for `target` in the last cycle."""
        if target.key not in self._readings:
            return None
        stat, kills = self._readings[target.key]
        outcome = next(found[1] for found in _outcomes(stat, kills, self._host_bytes) if found[0] is metric)
        if not isinstance(outcome, str):
            return None
        return (target.cgroup.reason("memory") if stat is None else None) or outcome


def _outcomes(
    stat: MemoryStat | None, kills: int | None, host_bytes: int | None
) -> list[tuple[Metric, Outcome, Tags]]:
    """Every metric with its value or the reason why there is none."""
    oom_kills: Outcome = "the kernel does not count them for this cgroup" if kills is None else kills
    if stat is None:
        reason = "the kernel keeps no memory account of this cgroup"
        rest = (MEMTOTAL, MEMUSED, MEMUSED_PERCENT, RSS, CACHE, SWAPUSED)
        return [(OOM_KILLS, oom_kills, ()), *((metric, reason, ()) for metric in rest)]
    total = _total(stat.limit_bytes, host_bytes)
    used = _used(stat)
    return [
        (OOM_KILLS, oom_kills, ()),
        (MEMTOTAL, total, ()),
        (MEMUSED, used, ()),
        (MEMUSED_PERCENT, _percent(used, total), ()),
        (RSS, _known(stat.rss_bytes), ()),
        (CACHE, _known(stat.cache_bytes), ()),
        (
            SWAPUSED,
            "swap accounting is off in this kernel" if stat.swap_bytes is None else stat.swap_bytes,
            (),
        ),
    ]


def _total(limit_bytes: int | None, host_bytes: int | None) -> int | str:
    """A limit above what the host has is no limit."""
    if limit_bytes is None:
        return "neither a limit nor the host's memory is known" if host_bytes is None else host_bytes
    return limit_bytes if host_bytes is None else min(limit_bytes, host_bytes)


def _used(stat: MemoryStat) -> int | str:
    if stat.inactive_file_bytes is None:
        return _known(None)
    # The two files are read one after the other, so the difference can come out below 0.
    return max(stat.usage_bytes - stat.inactive_file_bytes, 0)


def _percent(used: int | str, total: int | str) -> Outcome:
    if isinstance(used, str):
        return used
    if isinstance(total, str):
        return total
    return round(used / total * 100, 3) if total else "the limit is 0 bytes"


def _known(value: int | None) -> int | str:
    return "memory.stat does not have the line" if value is None else value
