"""The cpu and cpuacct controllers: time used, time withheld, and the quota.

Sources: Linux, admin-guide/cgroup-v2.rst ("CPU Interface Files"), admin-guide/cgroup-v1/cpuacct.rst and
scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import NamedTuple

from falcon_agent.cgroupfs.fileformat import parse_keyed, parse_single_value
from falcon_agent.errors import ParseError

_NS_PER_USEC = 1000
_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""cpuacct.stat counts in USER_HZ, whatever the kernel's own tick is."""

_CPU_STAT = (
    b"\nusage_usec ",
    b"\nuser_usec ",
    b"\nsystem_usec ",
    b"\nnr_periods ",
    b"\nnr_throttled ",
    b"\nthrottled_usec ",
)
_CPUACCT_STAT = (b"\nuser ", b"\nsystem ")
_USUAL_CPUACCT_STAT = re.compile(rb"user ([0-9]{1,20})\nsystem ([0-9]{1,20})\n")
"""The form that it has had since Linux 2.6.26; more lines or another order are understood too."""
_THROTTLING = (b"\nnr_periods ", b"\nnr_throttled ", b"\nthrottled_time ")
_CPU_MAX = re.compile(rb"(max|[0-9]{1,20}) ([0-9]{1,20})\n")
_CFS_QUOTA = re.compile(rb"(-1|[0-9]{1,20})\n")


class CpuStat(NamedTuple):
    """What a cgroup, with everything below it, has had of the CPUs since it was made.

    Attributes:
        usage_ns: CPU time in nanoseconds.
        user_ns: the part of it in user mode; v1 rounds it to 10 ms.
        system_ns: the part in the kernel, rounded alike.
        nr_periods: periods of this cgroup's own quota in which anything wanted to run.
        nr_throttled: how many of these ended with the quota used up.
        throttled_ns: time for which the quota kept it from running, added up over the CPUs.
    """

    usage_ns: int
    user_ns: int | None = None
    system_ns: int | None = None
    nr_periods: int | None = None
    nr_throttled: int | None = None
    throttled_ns: int | None = None


class CpuQuota(NamedTuple):
    """How many cores' worth of time a cgroup may use, as quota / period.

    Attributes:
        own: its own quota, or None; only this one shows in its throttling counters.
        smallest: the smallest of its own and its ancestors' (a pod's, for instance), or None.
    """

    own: float | None
    smallest: float | None


def parse_cpu_stat(content: bytes) -> CpuStat | None:
    """`cpu.stat` of v2, in which all times are microseconds.

    The throttling counters are there only where the cpu controller is enabled. None without a usage.

    Raises:
        ParseError: the file is not flat keyed.
    """
    usage, user, system, periods, throttled, withheld = parse_keyed(content, "cpu.stat", *_CPU_STAT)
    if usage is None:
        return None
    return CpuStat(
        usage * _NS_PER_USEC,
        _scaled(user, _NS_PER_USEC),
        _scaled(system, _NS_PER_USEC),
        periods,
        throttled,
        _scaled(withheld, _NS_PER_USEC),
    )


def parse_cpu_stat_v1(usage: bytes, split: bytes | None, throttling: bytes | None) -> CpuStat:
    """The same from the three files of v1.

    Args:
        usage: of `cpuacct.usage`, in nanoseconds.
        split: of `cpuacct.stat`: `user` and `system` in USER_HZ ticks.
        throttling: of `cpu.stat`: `nr_periods`, `nr_throttled`, `throttled_time` in nanoseconds.

    Raises:
        ParseError: one of them has another form.
    """
    usage_ns = parse_single_value(usage, "cpuacct.usage")
    user_ns: int | None
    system_ns: int | None
    if split is not None and (usual := _USUAL_CPUACCT_STAT.fullmatch(split)):
        user, system = usual.groups()
        user_ns, system_ns = int(user) * _NS_PER_TICK, int(system) * _NS_PER_TICK
    else:
        ticks = parse_keyed(split or b"", "cpuacct.stat", *_CPUACCT_STAT)
        user_ns, system_ns = (_scaled(one, _NS_PER_TICK) for one in ticks)
    if throttling is None:
        return CpuStat(usage_ns, user_ns, system_ns)
    return CpuStat(usage_ns, user_ns, system_ns, *parse_keyed(throttling, "cpu.stat", *_THROTTLING))


@lru_cache(maxsize=256)
def parse_cpu_max(content: bytes) -> float | None:
    """`cpu.max` of v2, `QUOTA PERIOD` in microseconds: the quota in cores, or None for `max`.

    Raises:
        ParseError: it has another form.
    """
    match = _CPU_MAX.fullmatch(content)
    if match is None:
        raise ParseError("cpu.max", f"{content[:80]!r} is not a quota and a period")
    quota, period = match.groups()
    return None if quota == b"max" else _cores(int(quota), int(period), "cpu.max")


@lru_cache(maxsize=256)
def parse_cfs_quota(quota: bytes) -> int | None:
    """`cpu.cfs_quota_us` of v1, in microseconds for each period; None for -1, which is no limit.

    Raises:
        ParseError: it holds anything else.
    """
    if not _CFS_QUOTA.fullmatch(quota):
        raise ParseError("cpu.cfs_quota_us", f"{quota[:80]!r} is neither -1 nor a number")
    return None if quota == b"-1\n" else int(quota)


@lru_cache(maxsize=256)
def parse_cfs_period(quota_us: int, period: bytes) -> float:
    """The quota in cores: `quota_us` in every `cpu.cfs_period_us` (v1, microseconds).

    Raises:
        ParseError: the period is no number, or 0.
    """
    return _cores(quota_us, parse_single_value(period, "cpu.cfs_period_us"), "cpu.cfs_period_us")


def _cores(quota_us: int, period_us: int, source: str) -> float:
    if not (quota_us and period_us):
        raise ParseError(source, "a quota or a period of 0 has no meaning")
    return quota_us / period_us


def _scaled(value: int | None, unit: int) -> int | None:
    return None if value is None else value * unit
