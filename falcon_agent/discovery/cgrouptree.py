"""The cgroup tree as it is searched: which hierarchies, in which order, and how far."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs import Hierarchies, parse_cgroup_paths
from falcon_agent.discovery.shapes import is_runtimes_own, parse_shape
from falcon_agent.errors import KernelFileError
from falcon_agent.kernelfile import read_to_eof

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from falcon_agent.container import CgroupPaths

MAX_CGROUPS = 10_000
"""Directories that one look visits. Whoever may make cgroups (a user's session, say) may make very many."""
MAX_DEPTH = 16
_PIDS_BYTES = 1024 * 1024
CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "name=systemd")
"""Where a container may be known, those first that account for what is measured. systemd-nspawn, for one, joins
only the last of them in v1, and so does whatever runs where memory is off (`cgroup_disable=memory`)."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A hierarchy that is searched.

    Attributes:
        directory: where it is mounted.
        root: the cgroup that is seen there.
        controller: by which /proc/PID/cgroup names it; empty for v2.
        hierarchies: all that are mounted.
    """

    directory: str
    root: str
    controller: str
    hierarchies: Hierarchies

    def path(self, below: str) -> str:
        """The cgroup of a directory, given as what follows the mount point."""
        return self.root.rstrip("/") + below or "/"

    def paths(self, content: bytes) -> CgroupPaths:
        """The cgroups of a process, from its /proc/PID/cgroup, as the host names them; errors as the parser's."""
        return self.hierarchies.absolute(parse_cgroup_paths(content))

    def path_of(self, paths: CgroupPaths) -> str | None:
        """Where a process is in this hierarchy."""
        return paths.v1.get(self.controller) if self.controller else paths.v2


def find_trees(proc: str, cgroup: str) -> list[Tree]:
    """The hierarchies in which containers may be known, in the order in which they are believed.

    Raises:
        FalconAgentError: none is mounted, or mountinfo cannot be read.
    """
    hierarchies = Hierarchies.find(proc, cgroup)
    trees: dict[str, Tree] = {}
    for controller in CONTROLLERS:
        if mount := hierarchies.v1.get(controller):
            trees.setdefault(mount.mountpoint, Tree(mount.mountpoint, mount.top, controller, hierarchies))
    if mount := hierarchies.v2:
        trees[mount.mountpoint] = Tree(mount.mountpoint, mount.top, "", hierarchies)
    if not trees:
        wanted = ", ".join(CONTROLLERS)
        raise KernelFileError(cgroup, f"no hierarchy there is one of {wanted} or v2; mount one of them")
    return list(trees.values())


def walk(top: str, goes_below: Callable[[str], bool] = lambda _: True) -> Iterator[str]:
    """A directory and those below it, nearest first, at most `MAX_CGROUPS` of them and `MAX_DEPTH` deep.

    Nearest first, so that whoever makes many directories somewhere below crowds out only their own kind.

    Args:
        top: where to begin.
        goes_below: whether to visit what is below a directory; asked after that was yielded, before it is read.

    Yields:
        What follows `top`.
    """
    queue = deque([("", 0)])
    for _ in range(MAX_CGROUPS):
        if not queue:
            return
        below, depth = queue.popleft()
        yield below
        if depth < MAX_DEPTH and goes_below(below):
            queue.extend((f"{below}/{name}", depth + 1) for name in _subdirectories(top + below))


def is_closed(tree: Tree, below: str) -> bool:
    """Whether what is below a directory is the affair of a container of a known form, or of a runtime."""
    path = tree.path(below)
    # What is mounted is never a container: it may be the one that we run in.
    return bool(below) and (is_runtimes_own(path) or parse_shape(path) is not None)


def read_pids(directory: str, limit: int) -> list[int]:
    """The first processes directly in a cgroup, in the kernel's order; none if it is gone or overfull."""
    try:
        content = read_to_eof(f"{directory}/cgroup.procs", limit=_PIDS_BYTES)
        return [int(pid) for pid in content.split()[:limit]]
    except (KernelFileError, ValueError):
        return []


def has_subdirectories(directory: str) -> bool:
    """Whether there are cgroups below one."""
    return bool(_subdirectories(directory))


def _subdirectories(directory: str) -> list[str]:
    """The names of the directories in one, sorted; none if it was removed."""
    try:
        with os.scandir(directory) as entries:
            names = (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            return sorted(islice(names, MAX_CGROUPS))
    except OSError:
        return []
