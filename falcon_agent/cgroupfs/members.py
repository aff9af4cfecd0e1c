"""Which processes are in which cgroup, where `cgroup.procs` cannot tell.

That file numbers processes as the reader's own PID namespace does and leaves out those that are not in it
(cgroup_namespaces(7), pid_namespaces(7)): an agent in a container finds only itself there. The host's procfs,
mounted in the container, shows all of them with the host's numbers.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs.paths import parse_cgroup_paths
from falcon_agent.errors import FalconAgentError
from falcon_agent.kernelfile import read_error, read_to_eof

if TYPE_CHECKING:
    from collections.abc import Iterable

    from falcon_agent.cgroupfs.hierarchies import Hierarchies
    from falcon_agent.cgroupfs.mounts import Mount

MAX_PROCESSES = 20_000
"""Those with the lowest numbers are looked at; each costs about 10 us."""


def read_members(
    proc: str, hierarchies: Hierarchies, controllers: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """The processes directly in each cgroup, by its directory, ascending.

    Args:
        proc: where the procfs is mounted whose numbers are wanted.
        hierarchies: where cgroups are mounted.
        controllers: those whose hierarchies are wanted; the empty one stands for v2.

    Raises:
        GoneError, DeniedError, KernelFileError: `proc` cannot be listed.
    """
    found = (hierarchies.v1.get(name) if name else hierarchies.v2 for name in controllers)
    mounts = list(dict.fromkeys(mount for mount in found if mount is not None))
    members: dict[str, list[int]] = {}
    known: dict[bytes, list[str]] = {}  # most processes share their cgroups with others
    for pid in _pids(proc):
        try:
            content = read_to_eof(f"{proc}/{pid}/cgroup")
            if content not in known:
                known[content] = _directories(content, mounts)
        except FalconAgentError:
            continue  # it ended
        for directory in known[content]:
            members.setdefault(directory, []).append(pid)
    return {directory: tuple(pids) for directory, pids in members.items()}


def _pids(proc: str) -> list[int]:
    try:
        with os.scandir(proc) as entries:
            return sorted(islice((int(one.name) for one in entries if one.name.isdecimal()), MAX_PROCESSES))
    except OSError as error:
        raise read_error(proc, error) from None


def _directories(content: bytes, mounts: list[Mount]) -> list[str]:
    """The directories of a process's cgroups, from its /proc/PID/cgroup."""
    paths = parse_cgroup_paths(content)
    directories = []
    for mount in mounts:
        path = mount.path_of(paths)
        named = None if path is None else mount.absolute(path)
        below = None if named is None else mount.below(named)
        if below is not None:
            directories.append("/".join((mount.mountpoint, *below)))
    return directories
