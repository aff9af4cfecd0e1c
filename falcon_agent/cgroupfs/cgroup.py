"""The accounts and limits of one cgroup, whatever the layout."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from falcon_agent.cgroupfs.cpu import (
    CpuQuota,
    CpuStat,
    parse_cfs_period,
    parse_cfs_quota,
    parse_cpu_max,
    parse_cpu_stat,
    parse_cpu_stat_v1,
)
from falcon_agent.cgroupfs.cpuset import parse_cpu_list
from falcon_agent.cgroupfs.io import IoStat, parse_io_stat, parse_io_stat_v1
from falcon_agent.cgroupfs.memory import (
    MemoryStat,
    parse_memory_max,
    parse_memory_stat,
    parse_memory_stat_v1,
    parse_oom_kill,
)
from falcon_agent.cgroupfs.pids import PidsStat, parse_pids, parse_pids_max
from falcon_agent.cgroupfs.pressure import Pressure, parse_pressure
from falcon_agent.cgroupfs.processes import list_processes
from falcon_agent.errors import GoneError
from falcon_agent.kernelfile import read_optional

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon_agent.cgroupfs.hierarchies import ControllerDir, Hierarchies
    from falcon_agent.cgroupfs.pressure import Resource
    from falcon_agent.container import CgroupPaths

_Number = TypeVar("_Number", int, float)


class Cgroup:
    """One cgroup, in every hierarchy that accounts for it.

    Making one reads nothing. Every method reads its files now and returns None for what the kernel does not
    tell (a controller that is off, an older kernel). They raise GoneError when the cgroup was removed,
    DeniedError or KernelFileError when a file cannot be read, and ParseError when it has an unknown form.

    Args:
        hierarchies: the host's mounts.
        paths: the cgroup, as /proc/PID/cgroup names it.
    """

    __slots__ = (
        "_cpu",
        "_cpuacct",
        "_cpuset",
        "_hierarchies",
        "_io",
        "_memory",
        "_pids",
        "_pressure",
        "paths",
    )

    def __init__(self, hierarchies: Hierarchies, paths: CgroupPaths) -> None:
        self.paths = paths
        self._hierarchies = hierarchies
        self._cpu = hierarchies.locate("cpu", paths)
        self._cpuacct = hierarchies.locate("cpuacct", paths)
        self._cpuset = hierarchies.locate("cpuset", paths)
        self._memory = hierarchies.locate("memory", paths)
        self._io = hierarchies.locate("blkio", paths)
        self._pids = hierarchies.locate("pids", paths)
        self._pressure = _locate_unified(hierarchies, paths)

    def describe(self) -> tuple[Literal["v1", "v2", "hybrid"], str]:
        """The host's layout and the path by which people know this cgroup; empty if it has none."""
        return self._hierarchies.layout, self.paths.path("memory") or self.paths.path("cpu") or ""

    def reason(self, controller: str) -> str | None:
        """Why nothing is known of a controller; None if its hierarchy shows the cgroup."""
        return self._hierarchies.reason(controller, self.paths)

    def cpu(self) -> CpuStat | None:
        """CPU time used and withheld."""
        at = self._cpuacct
        if at is None:
            return None
        if at.version == "v2":
            stat = _read(at, f"{at.path}/cpu.stat")
            return None if stat is None else parse_cpu_stat(stat)
        usage = _read(at, f"{at.path}/cpuacct.usage")
        if usage is None:
            return None
        split = _read(at, f"{at.path}/cpuacct.stat")
        throttling = _read(self._cpu, f"{self._cpu.path}/cpu.stat") if self._cpu else None
        return parse_cpu_stat_v1(usage, split, throttling)

    def cpu_quota(self) -> CpuQuota:
        """How many cores' worth of time it may use: its own quota, and the smallest up to the root."""
        at = self._cpu
        if at is None:
            return CpuQuota(None, None)
        quota_of = _quota_v1 if at.version == "v1" else _quota_v2
        own = quota_of(at.path, partial(_read, at))
        above = (quota_of(ancestor, self._hierarchies.read_shared) for ancestor in at.ancestors)
        return CpuQuota(own, _smallest(own, *above))

    def cpuset(self) -> int | None:
        """How many CPUs it may run on."""
        at = self._cpuset
        if at is None:
            return None
        name = "cpuset.effective_cpus" if at.version == "v1" else "cpuset.cpus.effective"
        content = _read(at, f"{at.path}/{name}")
        if content is None and at.version == "v1":
            name = "cpuset.cpus"  # before Linux 3.17
            content = _read(at, f"{at.path}/{name}")
        # v2: where the controller is not enabled, that of the nearest ancestor where it is holds.
        above = iter(at.ancestors)
        while content is None and (ancestor := next(above, None)) is not None:
            content = self._hierarchies.read_shared(f"{ancestor}/{name}")
        return None if content is None else parse_cpu_list(content, name) or None

    def memory(self) -> MemoryStat | None:
        """Memory used, and the limit."""
        at = self._memory
        if at is None:
            return None
        read = partial(_read, at)
        stat = read(f"{at.path}/memory.stat")
        if at.version == "v1":
            usage = read(f"{at.path}/memory.usage_in_bytes")
            return None if usage is None or stat is None else parse_memory_stat_v1(usage, stat)
        usage = read(f"{at.path}/memory.current")
        if usage is None:
            return None
        own = _limit_v2(at.path, read)
        above = (_limit_v2(ancestor, self._hierarchies.read_shared) for ancestor in at.ancestors)
        swap = read(f"{at.path}/memory.swap.current")
        return parse_memory_stat(usage, stat, swap, _smallest(own, *above))

    def oom_kills(self) -> int | None:
        """Processes that the kernel killed here for want of memory, since the cgroup was made."""
        at = self._memory
        if at is None:
            return None
        name = "memory.oom_control" if at.version == "v1" else "memory.events"
        content = _read(at, f"{at.path}/{name}")
        return None if content is None else parse_oom_kill(content, name)

    def io(self) -> dict[str, IoStat] | None:
        """Bytes and requests by `MAJOR:MINOR` of the block device; one without any count is not in it."""
        at = self._io
        if at is None:
            return None
        if at.version == "v2":
            stat = _read(at, f"{at.path}/io.stat")
            return None if stat is None else parse_io_stat(stat)
        # `_recursive` counts what is below too, as v2 does; not every kernel has it.
        for form in ("_recursive", ""):
            service_bytes = _read(at, f"{at.path}/blkio.throttle.io_service_bytes{form}")
            serviced = _read(at, f"{at.path}/blkio.throttle.io_serviced{form}")
            if service_bytes is not None and serviced is not None:
                return parse_io_stat_v1(service_bytes, serviced)
        return None

    def pids(self) -> PidsStat | None:
        """Tasks, the limit, and how often one more was refused."""
        at = self._pids
        if at is None:
            return None
        read = partial(_read, at)
        current = read(f"{at.path}/pids.current")
        if current is None:
            return None
        own = _pids_limit(at.path, read)
        above = (_pids_limit(ancestor, self._hierarchies.read_shared) for ancestor in at.ancestors)
        return parse_pids(current, read(f"{at.path}/pids.events"), _smallest(own, *above))

    def pressure(self, resource: Resource) -> Pressure | None:
        """How long its tasks have waited for `resource`; only v2 knows, also where it is beside v1."""
        at = self._pressure
        if at is None:
            return None
        name = f"{resource}.pressure"
        content = _read(at, f"{at.path}/{name}")
        return None if content is None else parse_pressure(content, name)

    def processes(self, most: int) -> list[int] | None:
        """The processes in it and below it, as the agent's own PID namespace numbers them.

        Args:
            most: with more processes, or more cgroups below it, than this the answer is None.
        """
        at = self._pids or self._memory or self._cpu
        return None if at is None else list_processes(at.path, most)


def _read(at: ControllerDir, path: str) -> bytes | None:
    """A file in the directory `at`; None if only the file is absent, GoneError if the whole cgroup is."""
    content = read_optional(path)
    if content is None and not os.path.isdir(at.path):
        raise GoneError(at.path, "the cgroup was removed")
    return content


def _quota_v1(directory: str, read: Callable[[str], bytes | None]) -> float | None:
    content = read(f"{directory}/cpu.cfs_quota_us")
    quota_us = None if content is None else parse_cfs_quota(content)
    if quota_us is None:
        return None
    period = read(f"{directory}/cpu.cfs_period_us")
    return None if period is None else parse_cfs_period(quota_us, period)


def _quota_v2(directory: str, read: Callable[[str], bytes | None]) -> float | None:
    content = read(f"{directory}/cpu.max")
    return None if content is None else parse_cpu_max(content)


def _limit_v2(directory: str, read: Callable[[str], bytes | None]) -> int | None:
    content = read(f"{directory}/memory.max")
    return None if content is None else parse_memory_max(content)


def _pids_limit(directory: str, read: Callable[[str], bytes | None]) -> int | None:
    content = read(f"{directory}/pids.max")
    return None if content is None else parse_pids_max(content)


def _locate_unified(hierarchies: Hierarchies, paths: CgroupPaths) -> ControllerDir | None:
    """Its directory in v2, for what belongs to no controller.

    Beside v1, a runtime that knows nothing of v2 leaves its containers there in the daemon's own cgroup.
    """
    own = all(paths.path(controller) == paths.v2 for controller in ("cpu", "memory"))
    return hierarchies.locate("pressure", paths) if own else None


def _smallest(*limits: _Number | None) -> _Number | None:
    return min((limit for limit in limits if limit is not None), default=None)
