"""The accounts and limits of one cgroup, whatever the layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from falcon_agent.cgroupfs.controlfiles import ControlFiles
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

if TYPE_CHECKING:
    from falcon_agent.cgroupfs.hierarchies import ControllerDir, Hierarchies, ReadFile
    from falcon_agent.cgroupfs.pressure import Resource
    from falcon_agent.container import CgroupPaths

_Number = TypeVar("_Number", int, float)
_NO_QUOTA = CpuQuota(None, None)


class Cgroup:
    """One cgroup, in every hierarchy that accounts for it.

    Making one reads nothing. Every method reads its files now, which stay open for the next time, and returns None for
    what the kernel does not tell (a controller that is off, an older kernel). They raise GoneError when the cgroup was
    removed, DeniedError or KernelFileError when a file cannot be read, and ParseError when it has an unknown form.

    Args:
        hierarchies: the host's mounts.
        paths: the cgroup, as /proc/PID/cgroup names it.
    """

    __slots__ = (
        "_cpu",
        "_cpuacct",
        "_cpuset",
        "_directories",
        "_hierarchies",
        "_io",
        "_memory",
        "_memory_known",
        "_pids",
        "_pressure",
        "paths",
    )

    def __init__(self, hierarchies: Hierarchies, paths: CgroupPaths) -> None:
        self.paths = paths
        self._hierarchies = hierarchies
        self._directories: dict[str, ControlFiles] = {}
        self._cpu = self._files(hierarchies.locate("cpu", paths))
        self._cpuacct = self._files(hierarchies.locate("cpuacct", paths))
        self._cpuset = self._files(hierarchies.locate("cpuset", paths))
        self._memory = self._files(hierarchies.locate("memory", paths))
        self._memory_known: tuple[bytes, bytes, MemoryStat] | None = None
        self._io = self._files(hierarchies.locate("blkio", paths))
        self._pids = self._files(hierarchies.locate("pids", paths))
        self._pressure = self._files(_locate_unified(hierarchies, paths))

    def _files(self, at: ControllerDir | None) -> ControlFiles | None:
        """The files of a directory; controllers that are accounted for in one place share them."""
        if at is None:
            return None
        return self._directories.setdefault(at.path, ControlFiles(at, self._hierarchies.budget))

    def close(self) -> None:
        """Let its files go, which reading leaves open; may be called twice."""
        for files in self._directories.values():
            files.close()

    def describe(self) -> tuple[Literal["v1", "v2", "hybrid"], str]:
        """The host's layout and the path by which people know this cgroup; empty if it has none."""
        return self._hierarchies.layout, self.paths.path("memory") or self.paths.path("cpu") or ""

    def reason(self, controller: str) -> str | None:
        """Why nothing is known of a controller; None if its hierarchy shows the cgroup."""
        return self._hierarchies.reason(controller, self.paths)

    def cpu(self, *, throttling: bool = True) -> CpuStat | None:
        """CPU time used and, with `throttling`, withheld; v1 has that in a file of its own."""
        files = self._cpuacct
        if files is None:
            return None
        if files.at.version == "v2":
            stat = files.read("cpu.stat")
            return None if stat is None else parse_cpu_stat(stat)
        usage = files.read("cpuacct.usage")
        if usage is None:
            return None
        split = files.read("cpuacct.stat")
        return parse_cpu_stat_v1(
            usage, split, self._cpu.read("cpu.stat") if throttling and self._cpu else None
        )

    def cpu_quota(self) -> CpuQuota:
        """How many cores' worth of time it may use: its own quota, and the smallest up to the root."""
        files = self._cpu
        if files is None:
            return _NO_QUOTA
        quota_of = _quota_v1 if files.at.version == "v1" else _quota_v2
        own = quota_of(files.read)
        above = self._hierarchies.smallest_above(files.at, quota_of)
        return _NO_QUOTA if own is above is None else CpuQuota(own, _smallest(own, above))

    def cpuset(self) -> int | None:
        """How many CPUs it may run on."""
        files = self._cpuset
        if files is None:
            return None
        name = "cpuset.effective_cpus" if files.at.version == "v1" else "cpuset.cpus.effective"
        content = files.read(name)
        if content is None and files.at.version == "v1":
            name = "cpuset.cpus"  # before Linux 3.17
            content = files.read(name)
        # v2: where the controller is not enabled, that of the nearest ancestor where it is holds.
        above = iter(files.at.ancestors)
        while content is None and (ancestor := next(above, None)) is not None:
            content = self._hierarchies.read_shared(f"{ancestor}/{name}")
        return None if content is None else parse_cpu_list(content, name) or None

    def memory(self) -> MemoryStat | None:
        """Memory used, and the limit; the same object as the last time while the kernel tells the same (v1)."""
        files = self._memory
        if files is None:
            return None
        stat = files.read("memory.stat")
        if files.at.version == "v1":
            usage = files.read("memory.usage_in_bytes")
            if usage is None or stat is None:
                return None
            known = self._memory_known
            # Of a container in which nothing happens only these bytes are looked at.
            if known is None or stat != known[0] or usage != known[1]:
                known = self._memory_known = stat, usage, parse_memory_stat_v1(usage, stat)
            return known[2]
        usage = files.read("memory.current")
        if usage is None:
            return None
        limit = _smallest(_limit_v2(files.read), self._hierarchies.smallest_above(files.at, _limit_v2))
        return parse_memory_stat(usage, stat, files.read("memory.swap.current"), limit)

    def oom_kills(self) -> int | None:
        """Processes that the kernel killed here for want of memory, since the cgroup was made."""
        files = self._memory
        if files is None:
            return None
        name = "memory.oom_control" if files.at.version == "v1" else "memory.events"
        content = files.read(name)
        return None if content is None else parse_oom_kill(content, name)

    def io(self) -> dict[str, IoStat] | None:
        """Bytes and requests by `MAJOR:MINOR` of the block device; one without any count is not in it."""
        files = self._io
        if files is None:
            return None
        if files.at.version == "v2":
            stat = files.read("io.stat")
            return None if stat is None else parse_io_stat(stat)
        # `_recursive` counts what is below too, as v2 does; not every kernel has it.
        for form in ("_recursive", ""):
            service_bytes = files.read(f"blkio.throttle.io_service_bytes{form}")
            serviced = files.read(f"blkio.throttle.io_serviced{form}")
            if service_bytes is not None and serviced is not None:
                return parse_io_stat_v1(service_bytes, serviced)
        return None

    def pids(self) -> PidsStat | None:
        """Tasks, the limit, and how often one more was refused."""
        files = self._pids
        if files is None:
            return None
        current = files.read("pids.current")
        if current is None:
            return None
        limit = _smallest(_pids_limit(files.read), self._hierarchies.smallest_above(files.at, _pids_limit))
        return parse_pids(current, files.read("pids.events"), limit)

    def pressure(self, resource: Resource) -> Pressure | None:
        """How long its tasks have waited for `resource`; only v2 knows, also where it is beside v1."""
        files = self._pressure
        if files is None:
            return None
        name = f"{resource}.pressure"
        content = files.read(name)
        return None if content is None else parse_pressure(content, name)

    def processes(self, most: int) -> list[int] | None:
        """The processes in it and below it, as the agent's own PID namespace numbers them.

        Args:
            most: with more processes, or more cgroups below it, than this the answer is None.
        """
        files = self._pids or self._memory or self._cpu
        return None if files is None else list_processes(files.at.path, most)


def _quota_v1(read: ReadFile) -> float | None:
    content = read("cpu.cfs_quota_us")
    quota_us = None if content is None else parse_cfs_quota(content)
    if quota_us is None:
        return None
    period = read("cpu.cfs_period_us")
    return None if period is None else parse_cfs_period(quota_us, period)


def _quota_v2(read: ReadFile) -> float | None:
    content = read("cpu.max")
    return None if content is None else parse_cpu_max(content)


def _limit_v2(read: ReadFile) -> int | None:
    content = read("memory.max")
    return None if content is None else parse_memory_max(content)


def _pids_limit(read: ReadFile) -> int | None:
    content = read("pids.max")
    return None if content is None else parse_pids_max(content)


def _locate_unified(hierarchies: Hierarchies, paths: CgroupPaths) -> ControllerDir | None:
    """Its directory in v2, for what belongs to no controller.

    Beside v1, a runtime that knows nothing of v2 leaves its containers there in the daemon's own cgroup.
    """
    own = all(paths.path(controller) == paths.v2 for controller in ("cpu", "memory"))
    return hierarchies.locate("pressure", paths) if own else None


def _smallest(*limits: _Number | None) -> _Number | None:
    return min((limit for limit in limits if limit is not None), default=None)
