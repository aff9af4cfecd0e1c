"""The first process of the container in a cgroup, told from those that merely share the cgroup."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from falcon_agent.discovery.cgrouptree import has_subdirectories, read_pids, walk
from falcon_agent.errors import FalconAgentError
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.procfs.process import parse_starttime
from falcon_agent.procfs.status import parse_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from falcon_agent.discovery.cgrouptree import Tree
    from falcon_agent.procfs.status import Status

MAX_INNER = 64
"""Directories of one container in which its first process is looked for."""
MAX_PIDS = 64
"""Processes of one cgroup that are asked whether they are a container's first."""
MAX_ROOT_PIDS = 1000
"""The same of the root, where everything is that nobody put elsewhere."""


@dataclass(frozen=True, slots=True, order=True)
class Init:
    """The first process of a nested PID namespace; the outermost sorts first, then the oldest.

    Attributes:
        depth: how many PID namespaces it is in, the reader's included.
        starttime: in clock ticks since boot.
        pid: as the reader numbers it.
        ppid: of its parent; 0 where the parent is outside of what the reader sees.
    """

    depth: int
    starttime: int
    pid: int
    ppid: int


class Processes:
    """What one look asks of processes, each but once.

    Args:
        proc: where the host's procfs is mounted.
        members: the processes of each cgroup's directory, where `cgroup.procs` cannot tell; None where it can.
    """

    def __init__(self, proc: str, members: Mapping[str, Sequence[int]] | None = None) -> None:
        self._proc = proc
        self._members = members
        self._inits: dict[int, Init | None] = {}
        self._host = self._outermost()

    def directly_in(self, directory: str, limit: int) -> list[int]:
        """The first processes directly in a cgroup, as `read_pids`."""
        if self._members is None:
            return read_pids(directory, limit)
        return list(self._members.get(directory, ())[:limit])

    def is_alone(self, directory: str, pid: int) -> bool:
        """Whether a process is the only one in a cgroup and below it."""
        return self.directly_in(directory, 2) == [pid] and not has_subdirectories(directory)

    def first(self, directory: str) -> int | None:
        """The first process of the container whose cgroup this is, or None if nothing runs in it.

        It is the init of the outermost PID namespace there; where all use that of the host, the oldest.
        """
        others: list[int] = []
        for inner in islice(walk(directory), MAX_INNER):
            pids = self.directly_in(directory + inner, MAX_PIDS)
            if inits := self.inits(pids):
                return min(inits).pid
            others += pids
        ages = []
        for pid in others:
            with contextlib.suppress(FalconAgentError):  # it ended
                ages.append((self._starttime(pid), pid))
        return min(ages)[1] if ages else None

    def first_from_outside(self, tree: Tree, path: str, inits: list[Init]) -> int | None:
        """The first process of the container in a cgroup of no known form, or None if it is not a container's.

        It is a container's if the init of a nested PID namespace was put into it by a parent that is not in it.
        """
        outside = (init for init in sorted(inits) if not self._is_within(tree, init.ppid, path))
        return next((init.pid for init in outside), None)

    def inits(self, pids: list[int], beside: int | None = None) -> list[Init]:
        """Those of the processes that are the first of a nested PID namespace, but not of that of `beside`."""
        found: list[Init] = []
        if pids == [beside]:
            return found
        known = None if beside is None else self._namespace(beside)
        for pid in pids:
            if pid == beside or (known is not None and self._namespace(pid) == known):
                continue
            if pid not in self._inits:
                try:
                    self._inits[pid] = self._look(pid)
                except FalconAgentError:
                    self._inits[pid] = None  # it ended
            if (init := self._inits[pid]) is not None:
                found.append(init)
        return found

    def _outermost(self) -> int | None:
        """The PID namespace that numbers processes as the reader sees them; None if it may not be looked at."""
        try:
            if (inode := self._namespace(1)) is None and len(self._status("self").nspid) == 1:
                inode = self._namespace("self")
        except FalconAgentError:
            return None
        return inode

    def _look(self, pid: int) -> Init | None:
        # A tenth of the cost of `status`; without CAP_SYS_PTRACE not to be had.
        if self._host is not None and self._namespace(pid) == self._host:
            return None
        status = self._status(pid)
        if not status.is_nested_init:
            return None
        return Init(len(status.nspid), self._starttime(pid), pid, status.ppid)

    def _status(self, pid: int | str) -> Status:
        return parse_status(read_to_eof(f"{self._proc}/{pid}/status"))

    def _namespace(self, pid: int | str) -> int | None:
        try:
            return os.stat(f"{self._proc}/{pid}/ns/pid").st_ino
        except OSError:
            return None

    def _starttime(self, pid: int) -> int:
        return parse_starttime(read_to_eof(f"{self._proc}/{pid}/stat"))

    def _is_within(self, tree: Tree, pid: int, path: str) -> bool:
        """Whether a process is in the cgroup `path` or below it; pid 0 is one that we cannot see."""
        if pid == 0:
            return False
        try:
            at = tree.path_of(tree.paths(read_to_eof(f"{self._proc}/{pid}/cgroup")))
        except FalconAgentError:
            return True  # it ended: the next look will show who is the parent now
        return at is not None and f"{at}/".startswith(f"{path}/")
