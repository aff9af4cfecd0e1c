"""Containers without any runtime's API: found in the cgroup tree and by their PID namespaces."""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass
from itertools import islice
from threading import Event as Flag
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs import Hierarchies, parse_cgroup_paths
from falcon_agent.container import Container, LeftOut, Pod
from falcon_agent.discovery.describe import describe, host_netns, is_alive
from falcon_agent.discovery.runtime import Change, Found
from falcon_agent.discovery.shapes import name_unknown, parse_shape
from falcon_agent.errors import FalconAgentError, KernelFileError, RuntimeUnavailableError
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.procfs.process import Process, parse_starttime
from falcon_agent.procfs.status import parse_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from falcon_agent.discovery.shapes import Shape
    from falcon_agent.procfs.status import Status

log = logging.getLogger(__name__)

MAX_CGROUPS = 10_000
"""Directories that one look visits. Whoever may make cgroups (a user's session, say) may make very many."""
MAX_DEPTH = 16
MAX_INNER = 64
"""Directories of one container in which its first process is looked for."""
MAX_PIDS = 16
"""Processes of one cgroup that are asked whether they are a container's first."""
_PIDS_BYTES = 1024 * 1024
_POLL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """The hierarchy that is searched.

    Attributes:
        directory: where it is mounted.
        root: the cgroup that is seen there.
        controller: by which /proc/PID/cgroup names it; empty for v2.
    """

    directory: str
    root: str
    controller: str

    def path(self, below: str) -> str:
        """The cgroup of a directory, given as what follows the mount point."""
        return self.root.rstrip("/") + below or "/"


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A container's cgroup: what its path tells, the container's first process, how to know it elsewhere."""

    shape: Shape
    pid: int
    is_own: Callable[[str], bool]


class CgroupRuntime:
    """The cgroup tree as a source of containers.

    A cgroup is a container's if a runtime's way of naming says so, or if the first process of a nested PID
    namespace was put into it from outside. The outermost one counts: what a container makes below is its own
    affair.

    Args:
        proc: where the host's procfs is mounted.
        cgroup: where its cgroup hierarchies are mounted.
        poll: seconds between two looks for new or vanished cgroups.
    """

    name = "cgroups"

    def __init__(self, proc: str, cgroup: str, poll: float = _POLL_SECONDS) -> None:
        self._proc = proc
        self._cgroup = cgroup
        self._poll = poll
        self._closed = Flag()

    def find(self) -> Found:
        """All containers that the tree shows now."""
        try:
            hierarchy = self._hierarchy()
        except FalconAgentError as error:
            raise RuntimeUnavailableError(str(error)) from None
        host = host_netns(self._proc)
        found = Found()
        seen: set[str] = set()
        visited = 0
        for below, names in _walk(hierarchy.directory):
            visited += 1
            shape = parse_shape(hierarchy.path(below))
            candidate = self._known(hierarchy, below, shape) if shape else self._unknown(hierarchy, below)
            if shape or candidate:
                names.clear()
            if candidate and candidate.shape.id not in seen:
                seen.add(candidate.shape.id)
                self._add(found, candidate, host)
        if visited >= MAX_CGROUPS:
            reason = f"not searched: there are more than {MAX_CGROUPS} cgroups"
            found.left_out.append(LeftOut("further cgroups", "", self.name, reason))
        return found

    def _hierarchy(self) -> _Hierarchy:
        hierarchies = Hierarchies.find(self._proc, self._cgroup)
        for controller in ("memory", "cpu", "cpuacct"):
            if mount := hierarchies.v1.get(controller):
                return _Hierarchy(mount.mountpoint, mount.root, controller)
        if hierarchies.v2 is None:
            raise KernelFileError(self._cgroup, "no hierarchy there accounts for memory or cpu")
        return _Hierarchy(hierarchies.v2.mountpoint, hierarchies.v2.root, "")

    def _add(self, found: Found, candidate: _Candidate, host: int | None) -> None:
        shape, pid = candidate.shape, candidate.pid
        try:
            described = describe(self._proc, pid, candidate.is_own)
            pause = shape.pod_uid is not None and self._status(pid).name == b"pause"
        except FalconAgentError as error:
            # It ended between two reads, or its files are not readable: say so, go on with the others.
            found.left_out.append(LeftOut(shape.name, shape.id, shape.runtime, str(error)))
            return
        found.containers.append(
            Container(
                id=shape.id,
                name=shape.name,
                runtime=shape.runtime,
                pid=pid,
                starttime=described.starttime,
                cgroup=described.cgroup,
                netns=described.netns,
                network_of=shape.id,
                host_network=host is not None and described.netns == host,
                pause=pause,
                pod=None if shape.pod_uid is None else Pod("", "", shape.pod_uid),
            )
        )

    def _known(self, hierarchy: _Hierarchy, below: str, shape: Shape) -> _Candidate | None:
        """The container in a cgroup of a known form, or None if nothing runs in it.

        Its first process is the init of the outermost PID namespace there; if it uses that of the host, the
        oldest.
        """
        part = below.rpartition("/")[2]

        def is_own(path: str) -> bool:
            return path.rpartition("/")[2] == part

        others: list[tuple[int, int]] = []
        for directory, _ in islice(_walk(hierarchy.directory + below), MAX_INNER):
            inits: list[tuple[int, int]] = []
            for pid in _pids(hierarchy.directory + below + directory):
                try:
                    status = self._status(pid)
                    if status.is_nested_init:
                        inits.append((len(status.nspid), pid))
                    else:
                        others.append((parse_starttime(read_to_eof(f"{self._proc}/{pid}/stat")), pid))
                except FalconAgentError:
                    continue  # it ended
            if inits:
                return _Candidate(shape, min(inits)[1], is_own)
        return _Candidate(shape, min(others)[1], is_own) if others else None

    def _unknown(self, hierarchy: _Hierarchy, below: str) -> _Candidate | None:
        """The container in a cgroup of no known form, or None if it is not a container's."""
        if not below:
            return None  # the root holds everything that nobody put elsewhere
        path = hierarchy.path(below)
        # systemd as first process moves itself to a part; the container is what is above.
        own = path.removesuffix("/init.scope")
        for pid in _pids(hierarchy.directory + below):
            try:
                status = self._status(pid)
                if status.is_nested_init and not self._is_within(hierarchy, status.ppid, path):
                    return _Candidate(name_unknown(own), pid, lambda path: path == own)
            except FalconAgentError:
                continue  # it ended
        return None

    def _is_within(self, hierarchy: _Hierarchy, pid: int, path: str) -> bool:
        """Whether a process is in the cgroup `path` or below it; pid 0 is one that we cannot see."""
        if pid == 0:
            return False
        process = Process(self._proc, pid)
        try:
            paths = parse_cgroup_paths(process.read("cgroup"))
        finally:
            process.close()
        at = paths.v1.get(hierarchy.controller) if hierarchy.controller else paths.v2
        return at is not None and f"{at}/".startswith(f"{path}/")

    def _status(self, pid: int) -> Status:
        return parse_status(read_to_eof(f"{self._proc}/{pid}/status"))

    def watch(self, notify: Callable[[Change], None]) -> None:
        """Compare the tree's directories with those of a moment ago: there is no event to wait for."""
        before: set[str] = set()
        unsettled = False
        while not self._closed.is_set():
            now = self._directories()
            changed = now != before
            # A runtime makes the cgroup first and puts the process into it a little later: so look twice.
            if changed or unsettled:
                notify(Change())
            before, unsettled = now, changed
            self._closed.wait(self._poll)

    def _directories(self) -> set[str]:
        """The tree without what is inside of containers of a known form."""
        seen: set[str] = set()
        try:
            hierarchy = self._hierarchy()
        except FalconAgentError as error:
            log.debug("no watch over cgroups: %s", error)
            return seen
        for below, names in _walk(hierarchy.directory):
            seen.add(below)
            if parse_shape(hierarchy.path(below)):
                names.clear()
        return seen

    def alive(self, container: Container) -> bool:
        """Whether its first process still runs."""
        return is_alive(self._proc, container)

    def close(self) -> None:
        """End `watch`."""
        self._closed.set()


def _walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """A directory and those below it, nearest first, at most `MAX_CGROUPS` of them and `MAX_DEPTH` deep.

    Nearest first, so that whoever makes many directories somewhere below crowds out only their own kind.

    Yields:
        What follows `top`, and the names of the directories directly below; those that the caller removes
        from the list are not visited.
    """
    queue = deque([("", 0)])
    for _ in range(MAX_CGROUPS):
        if not queue:
            return
        below, depth = queue.popleft()
        names = _subdirectories(top + below) if depth < MAX_DEPTH else []
        yield below, names
        queue.extend((f"{below}/{name}", depth + 1) for name in names)


def _subdirectories(directory: str) -> list[str]:
    """The names of the directories in one, sorted; none if it was removed."""
    try:
        with os.scandir(directory) as entries:
            names = (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            return sorted(islice(names, MAX_CGROUPS))
    except OSError:
        return []


def _pids(directory: str) -> list[int]:
    """The first processes directly in a cgroup, in the kernel's order; none if it is gone or overfull."""
    try:
        return [
            int(pid) for pid in read_to_eof(f"{directory}/cgroup.procs", limit=_PIDS_BYTES).split()[:MAX_PIDS]
        ]
    except (KernelFileError, ValueError):
        return []
