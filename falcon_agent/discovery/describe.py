"""From a pid that somebody told us to what the kernel says of that process."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs import parse_cgroup_paths
from falcon_agent.container import CgroupPaths
from falcon_agent.errors import DeniedError, GoneError, KernelFileError
from falcon_agent.procfs.process import Process
from falcon_agent.procfs.reader import in_host_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from falcon_agent.container import Container

    Absolute: TypeAlias = Callable[[CgroupPaths], CgroupPaths]


@dataclass(frozen=True, slots=True)
class Described:
    """What the kernel says of a container's first process.

    Attributes:
        starttime: in clock ticks since boot.
        cgroup: of the container, in every hierarchy that knows it.
        netns: inode of its network namespace, or None without the privilege to look.
        own: cgroups of the process itself; those of the container, or below them.
        content: its /proc/PID/cgroup.
    """

    starttime: int
    cgroup: CgroupPaths
    netns: int | None
    own: CgroupPaths
    content: bytes


def as_written(paths: CgroupPaths) -> CgroupPaths:
    """The paths as they are: right for who is in the host's cgroup namespace."""
    return paths


def describe(
    proc: str, pid: int, is_own: Callable[[str], bool], absolute: Absolute = as_written
) -> Described:
    """Describe the first process of a container.

    Between the moment somebody named the pid and now, the container may have ended and the pid may name a
    stranger. A container's cgroup bears its id or name, so the process is believed only if its cgroup does.

    Args:
        proc: where procfs is mounted.
        pid: the process.
        is_own: tells of a cgroup path whether its last component names the container.
        absolute: makes the kernel's paths those of the host, see `Hierarchies.absolute`.

    Raises:
        GoneError: there is no such process (any more), or it is in another cgroup.
        KernelFileError: its files could not be read.
        ParseError: they have not the documented form.
    """
    process = Process(proc, pid)
    try:
        return describe_open(process, is_own, absolute)
    finally:
        process.close()


def describe_open(
    process: Process, is_own: Callable[[str], bool], absolute: Absolute = as_written
) -> Described:
    """The same of a process that is open."""
    starttime = process.starttime()
    content = process.read("cgroup")
    own = absolute(parse_cgroup_paths(content))
    cgroup = cut_paths(own, is_own)
    if cgroup is None:
        raise GoneError(process.path, "the process is in another cgroup: the pid was used again")
    try:
        netns = process.namespace_inode("net")
    except DeniedError:
        netns = None
    return Described(starttime, cgroup, netns, own, content)


def cut_paths(paths: CgroupPaths, is_own: Callable[[str], bool]) -> CgroupPaths | None:
    """The cgroup of the whole container, where its first process may sit in a part of it.

    systemd as first process moves itself to `init.scope`, podman starts it in `container`: limits and
    accounts belong to the cgroup above, the first one that bears the container's name: what is below is made
    inside, where anything may be given that name. A hierarchy where none does is left out: there the process
    shares its cgroup with strangers, perhaps with the whole host.

    Returns:
        None if no hierarchy knows the container.
    """
    v1 = {controller: own for controller, path in paths.v1.items() if (own := _cut(path, is_own)) is not None}
    v2 = None if paths.v2 is None else _cut(paths.v2, is_own)
    return CgroupPaths(v1, v2) if v1 or v2 is not None else None


def _cut(path: str, is_own: Callable[[str], bool]) -> str | None:
    prefixes = accumulate(path.split("/"), lambda above, part: f"{above}/{part}")
    return next((prefix for prefix in prefixes if is_own(prefix)), None)


def host_netns(proc: str) -> int | None:
    """The inode of the host's network namespace: that of pid 1, even where pid 1 may not be looked at.

    Returns:
        None if it may not, and we are not in the same namespace.
    """
    with contextlib.suppress(OSError):
        return os.stat(f"{proc}/1/ns/net").st_ino
    if in_host_network(proc):
        with contextlib.suppress(OSError):
            return os.stat(f"{proc}/thread-self/ns/net").st_ino
    return None


def is_alive(proc: str, container: Container) -> bool:
    """Whether a container's first process is still the one that was described."""
    try:
        Process(proc, container.pid, container.starttime).close()
    except GoneError:
        return False
    except KernelFileError:
        # Not readable (e.g. no file descriptors left) is no proof of its end: what is known still holds.
        return True
    return True
