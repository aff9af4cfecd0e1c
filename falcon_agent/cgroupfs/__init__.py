"""Reads cgroups, one module per controller; v1, v2 and hybrid hosts give the same values.

A parser takes the bytes of a control file and returns a value with the kernel's meaning and our units;
`Cgroup` knows which file that is in the layout at hand. What the kernel does not tell is None.
"""

from falcon_agent.cgroupfs.cgroup import Cgroup
from falcon_agent.cgroupfs.cpu import CpuQuota, CpuStat
from falcon_agent.cgroupfs.hierarchies import Hierarchies
from falcon_agent.cgroupfs.io import IoStat
from falcon_agent.cgroupfs.memory import MemoryStat
from falcon_agent.cgroupfs.paths import parse_cgroup_paths
from falcon_agent.cgroupfs.pids import PidsStat
from falcon_agent.cgroupfs.pressure import Pressure

__all__ = [
    "Cgroup",
    "CpuQuota",
    "CpuStat",
    "Hierarchies",
    "IoStat",
    "MemoryStat",
    "PidsStat",
    "Pressure",
    "parse_cgroup_paths",
]
