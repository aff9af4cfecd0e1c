"""Containers without any runtime's API: found in the cgroup tree and by their PID namespaces."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs.members import read_members
from falcon_agent.container import Container, LeftOut, Pod
from falcon_agent.discovery.cgroupsearch import MAX_PIDS, MAX_ROOT_PIDS, Processes
from falcon_agent.discovery.cgrouptree import CONTROLLERS, MAX_CGROUPS, find_trees, walk
from falcon_agent.discovery.cgroupwatch import TreeWatch
from falcon_agent.discovery.describe import describe_open, host_netns, is_alive
from falcon_agent.discovery.hostnames import Hostnames, name_by_hostname
from falcon_agent.discovery.runtime import Change, Found
from falcon_agent.discovery.shapes import CRI_O, UNKNOWN, is_runtimes_own, name_unknown, parse_shape
from falcon_agent.errors import DeniedError, FalconAgentError, RuntimeUnavailableError
from falcon_agent.procfs.process import Process
from falcon_agent.procfs.reader import has_our_pids
from falcon_agent.procfs.status import parse_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from falcon_agent.container import CgroupPaths
    from falcon_agent.discovery.cgroupsearch import Init
    from falcon_agent.discovery.cgrouptree import Tree
    from falcon_agent.discovery.shapes import Shape

MAX_LEFT_OUT = 100
"""Processes that share a cgroup and are named as left out."""
SETTLED_SECONDS = 2.0
"""A runtime goes on preparing a container's first process after it joined the cgroup: hostname, other hierarchies,
the program it will be. What was learnt of a younger one is learnt again."""
_POLL_SECONDS = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Known:
    """What was learnt of a container and holds for the life of its first process.

    Attributes:
        container: as it is handed over.
        home: directory that the first process is in.
        cgroup: hash of its /proc/PID/cgroup, which takes a kilobyte.
        has_name: of its own; else it is called by its hostname.
        hostname: if it has none, and once that was read.
        command: name of the first process's program.
        is_alone: nothing else runs in the container; asked of pods only.
        is_settled: none of this will change any more.
    """

    container: Container
    home: str
    cgroup: int
    has_name: bool
    hostname: str | None
    command: bytes
    is_alone: bool
    is_settled: bool


class CgroupRuntime:
    """The cgroup tree as a source of containers.

    A cgroup is a container's if a runtime's way of naming says so, or if the first process of a nested PID
    namespace was put into it from outside. The outermost one counts: what a container makes below is its own
    affair. What is mounted as the root never counts: it is the host, or the container that we run in.

    A cgroup is one container, whatever runs in it: its outermost first process stands for it. Further ones with
    networks of their own are named as left out, since nothing that the cgroup accounts for is theirs alone.

    Args:
        proc: where the host's procfs is mounted.
        cgroup: where its cgroup hierarchies are mounted.
        poll: seconds between two looks for new or vanished cgroups where the kernel cannot tell.
        only: the `Container.runtime` of those to be listed; all if None.
    """

    def __init__(
        self, proc: str, cgroup: str, poll: float = _POLL_SECONDS, only: frozenset[str] | None = None
    ) -> None:
        self.name = UNKNOWN if only is None else ",".join(sorted(only))
        self._proc = proc
        self._cgroup = cgroup
        self._only = only
        self._hostnames = Hostnames(proc)
        self._watch = TreeWatch(proc, cgroup, poll)
        self._known: dict[str, _Known] = {}

    def find(self) -> Found:
        """All containers that the tree shows now."""
        try:
            trees = find_trees(self._proc, self._cgroup)
            members = None
            # A tree of files has no /proc/self, and its own numbers.
            if has_our_pids(self._proc) is False:
                members = read_members(self._proc, trees[0].hierarchies, (*CONTROLLERS, ""))
        except FalconAgentError as error:
            raise RuntimeUnavailableError(str(error)) from None
        look = _Look(
            self._proc, self._only, self._hostnames, self._known, trees[0], Processes(self._proc, members)
        )
        for tree in trees:
            look.search(tree, is_first=tree is trees[0])
        found, self._known = look.finish()
        return found

    def watch(self, notify: Callable[[Change], None]) -> None:
        """Tell of every directory of the tree that comes or goes, and some moments after it came."""
        self._watch.run(lambda: notify(Change()))

    def alive(self, container: Container) -> bool:
        """Whether its first process still runs."""
        return is_alive(self._proc, container)

    def close(self) -> None:
        """End `watch`."""
        self._watch.close()


class _Look:
    """One look at all hierarchies.

    Args:
        proc: where the host's procfs is mounted.
        only: the `Container.runtime` of those to be listed; all if None.
        hostnames: how to read them.
        before: what the last look learnt, by directory.
        first_tree: the hierarchy that is believed first.
        processes: what they are asked.
    """

    def __init__(
        self,
        proc: str,
        only: frozenset[str] | None,
        hostnames: Hostnames,
        before: Mapping[str, _Known],
        first_tree: Tree,
        processes: Processes,
    ) -> None:
        self._proc = proc
        self._only = only
        self._hostnames = hostnames
        self._before = before
        self._holders = {known.container.id: directory for directory, known in before.items()}
        self._first_tree = first_tree
        self._processes = processes
        self._host = host_netns(proc)
        self._known: dict[str, _Known] = {}
        self._ids: set[str] = set()
        self._pids: set[int] = set()
        self._owners: dict[tuple[str, str], str] = {}
        self._sharing: list[tuple[Init, str, str]] = []
        self._left_out: list[LeftOut] = []

    def search(self, tree: Tree, *, is_first: bool) -> None:
        """Find the containers of a hierarchy; in the first one also who shares their cgroups."""
        visited = 0
        closed: set[str] = set()
        for below in walk(tree.directory, lambda below: below not in closed):
            visited += 1
            if self._visit(tree, below, is_first=is_first):
                closed.add(below)
        if visited >= MAX_CGROUPS:
            reason = f"not searched: there are more than {MAX_CGROUPS} cgroups in {tree.directory}"
            self._left_out.append(LeftOut("further cgroups", "", UNKNOWN, reason))

    def finish(self) -> tuple[Found, dict[str, _Known]]:
        """What was found, and what the next look may build on."""
        self._give_names()
        self._mark_pauses()
        containers = [known.container for known in self._known.values()]
        return Found(containers, [*self._left_out, *self._left_out_sharing()]), self._known

    def _visit(self, tree: Tree, below: str, *, is_first: bool) -> bool:
        """Find the container in one cgroup; whether what is below is its own affair."""
        path = tree.path(below)
        if not below:
            if is_first and self._is_wanted(UNKNOWN):
                self._share(
                    self._processes.inits(self._processes.directly_in(tree.directory, MAX_ROOT_PIDS)),
                    path,
                    "",
                )
            return False
        if (tree.controller, path) in self._owners or is_runtimes_own(path):
            return True
        if shape := parse_shape(path):
            self._visit_known_form(tree, below, shape)
            return True
        return self._is_wanted(UNKNOWN) and self._visit_unknown(tree, below, is_first=is_first)

    def _visit_known_form(self, tree: Tree, below: str, shape: Shape) -> None:
        if not self._is_wanted(shape.runtime):
            return
        directory = tree.directory + below
        above, _, part = below.rpartition("/")
        # `payload` alone does not tell whose.
        tail = f"/{part}" if part != "payload" else f"/{above.rpartition('/')[2]}/{part}"
        known = self._keep(directory)
        if known is None:
            pid = self._processes.first(directory)
            if pid is None or pid in self._pids:
                return
            known = self._learn(tree, directory, shape, pid, lambda path: path.endswith(tail))
        if known is None:
            return
        if self._is_taken(known.container.id, tree, directory):
            reason = f"cgroup {tree.path(below)} bears the id of a container in another cgroup"
            self._left_out.append(LeftOut(shape.name, shape.id, shape.runtime, reason))
            return
        self._accept(directory, known)

    def _visit_unknown(self, tree: Tree, below: str, *, is_first: bool) -> bool:
        directory = tree.directory + below
        path = tree.path(below)
        if (known := self._keep(directory)) is None:
            inits = self._processes.inits(self._processes.directly_in(directory, MAX_PIDS))
            pid = self._processes.first_from_outside(tree, path, inits)
            if pid is None:
                if is_first:
                    self._share(inits, path, "")
                return False
            if pid in self._pids:
                return True
            # systemd as first process moves itself to a part; the container is what is above.
            own = path.removesuffix("/init.scope")
            known = self._learn(tree, directory, name_unknown(own), pid, lambda path: path == own)
        if known is not None:
            if known.container.id in self._ids:
                known = replace(known, container=replace(known.container, id=path, network_of=path))
            self._accept(directory, known)
        return True

    def _is_taken(self, id_: str, tree: Tree, directory: str) -> bool:
        """Whether another cgroup has the id: one that is nearer to the root, or that was there first.

        Whoever owns a part of the tree can make a cgroup of any name.
        """
        holder = self._holders.get(id_, directory)
        is_other = holder != directory and holder.startswith(f"{tree.directory}/")
        return id_ in self._ids or (is_other and self._keep(holder) is not None)

    def _is_wanted(self, runtime: str) -> bool:
        return self._only is None or runtime in self._only

    def _keep(self, directory: str) -> _Known | None:
        """What is known of the container there, if all of it still holds."""
        known = self._before.get(directory)
        if known is None or not known.is_settled:
            return None
        container = known.container
        try:
            process = Process(self._proc, container.pid, container.starttime)
            try:
                same = hash(process.read("cgroup")) == known.cgroup and _netns(process) == container.netns
            finally:
                process.close()
        except FalconAgentError:
            return None
        return known if same else None

    def _learn(
        self, tree: Tree, directory: str, shape: Shape, pid: int, is_own: Callable[[str], bool]
    ) -> _Known | None:
        """Describe a container by its first process; named as left out if that cannot be done."""
        try:
            process = Process(self._proc, pid)
            try:
                described = describe_open(process, is_own, tree.hierarchies.absolute)
                command = parse_status(process.read("status")).name
                hostname = None if shape.has_name else self._hostnames.read(process)
                own, at = tree.path_of(described.cgroup), tree.path_of(described.own)
            finally:
                process.close()
        except FalconAgentError as error:
            # It ended between two reads, or its files are not readable: say so, go on with the others.
            self._left_out.append(LeftOut(shape.name, shape.id, shape.runtime, str(error)))
            return None
        container = Container(
            id=shape.id,
            name=shape.name,
            runtime=shape.runtime,
            pid=pid,
            starttime=described.starttime,
            cgroup=described.cgroup,
            netns=described.netns,
            network_of=shape.id,
            host_network=self._host is not None and described.netns == self._host,
            pod=None if shape.pod_uid is None else Pod("", "", shape.pod_uid),
        )
        return _Known(
            container,
            home=directory if own is None or at is None else directory + at.removeprefix(own),
            cgroup=hash(described.content),
            has_name=shape.has_name,
            hostname=hostname,
            command=command,
            is_alone=shape.pod_uid is not None and self._processes.is_alone(directory, pid),
            is_settled=_age(described.starttime) >= SETTLED_SECONDS,
        )

    def _accept(self, directory: str, known: _Known) -> None:
        container = known.container
        self._known[directory] = known
        self._ids.add(container.id)
        self._pids.add(container.pid)
        for place in _places(container.cgroup):
            self._owners[place] = container.name
        inits = self._processes.inits(self._processes.directly_in(known.home, MAX_PIDS), beside=container.pid)
        self._share(inits, container.cgroup.path("memory") or directory, container.name)

    def _give_names(self) -> None:
        """A name once given stays for the container's life, whatever it calls itself later."""
        given = {
            known.container.key: known.container
            for known in self._before.values()
            if known.is_settled or known.hostname is not None
        }
        nameless = {}
        taken = set()
        for directory, known in self._known.items():
            container = known.container
            if named := given.get(container.key):
                if (container.name, container.pod) != (named.name, named.pod):
                    container = replace(container, name=named.name, pod=named.pod)
                    self._known[directory] = replace(known, container=container)
            elif not known.has_name:
                nameless[container.id] = directory
                continue
            taken.add(container.name)
        found = [(self._known[at].container, self._known[at].hostname) for at in nameless.values()]
        for container in name_by_hostname(found, taken):
            directory = nameless[container.id]
            self._known[directory] = replace(self._known[directory], container=container)

    def _mark_pauses(self) -> None:
        """Tell the container that holds a pod's namespaces: no other is older."""

        def uid(directory: str) -> str:
            pod = self._known[directory].container.pod
            return pod.uid if pod else ""

        for pod, directories in groupby(sorted(self._known, key=uid), uid):
            if not pod:
                continue
            oldest = min(directories, key=lambda at: _by_age(self._known[at].container))
            known = self._known[oldest]
            # CRI-O mostly does without: then the first container is as good as any.
            is_pause = known.command == b"pause" or (known.is_alone and known.container.runtime != CRI_O)
            self._known[oldest] = replace(known, container=replace(known.container, pause=is_pause))

    def _share(self, inits: list[Init], path: str, owner: str) -> None:
        """Remember who has a PID namespace of its own in a cgroup that is another's, or nobody's."""
        self._sharing += [(init, path, owner) for init in inits]

    def _left_out_sharing(self) -> list[LeftOut]:
        """Those of them that have a network of their own and are in no container."""
        left_out: list[LeftOut] = []
        seen = {self._host, *(known.container.netns for known in self._known.values()), None}
        for init, path, owner in self._sharing:
            if len(left_out) >= MAX_LEFT_OUT:
                break
            try:
                process = Process(self._proc, init.pid, init.starttime)
                try:
                    netns = _netns(process)
                    paths = self._first_tree.paths(process.read("cgroup"))
                finally:
                    process.close()
            except FalconAgentError:
                continue  # it ended
            if netns in seen or any(self._owners.get(place, owner) != owner for place in _prefixes(paths)):
                continue
            seen.add(netns)
            whose = f"container {owner}" if owner else "processes that are in no container"
            reason = f"it shares cgroup {path} with {whose}: put it into a cgroup of its own"
            left_out.append(LeftOut(f"process {init.pid}", "", UNKNOWN, reason))
        return left_out


def _netns(process: Process) -> int | None:
    try:
        return process.namespace_inode("net")
    except DeniedError:
        return None


def _age(starttime: int) -> float:
    """Seconds since a process started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - starttime / _TICKS


def _by_age(container: Container) -> tuple[int, int]:
    return container.starttime, container.pid


def _places(paths: CgroupPaths) -> list[tuple[str, str]]:
    """Each hierarchy, v2 being the one without a controller, and the cgroup there."""
    return [*paths.v1.items(), *([] if paths.v2 is None else [("", paths.v2)])]


def _prefixes(paths: CgroupPaths) -> list[tuple[str, str]]:
    """The same for the cgroups above, and the cgroups themselves."""
    return [
        (controller, prefix)
        for controller, path in _places(paths)
        for prefix in accumulate(path.split("/"), lambda above, part: f"{above}/{part}")
    ]
