"""Hosts in the documented forms, for runtimes that cannot run here: a procfs and cgroup hierarchies as files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from falcon_agent.discovery.cgroups import CgroupRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from falcon_agent.container import Container
    from falcon_agent.discovery.runtime import Found


class HostTree:
    """A host in files.

    Args:
        root: an empty directory.
        v1: controllers, co-mounted ones joined by a comma.
        v2: whether there is a v2 hierarchy.
        seen: the cgroup that is mounted as the root, as in a container without a cgroup namespace.
    """

    def __init__(self, root: Path, *, v1: tuple[str, ...] = (), v2: bool = True, seen: str = "/") -> None:
        self.proc = root / "proc"
        self.cgroup = root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self._seen = seen
        self._mounts = {controllers: self.cgroup / controllers for controllers in v1}
        if v2:
            self._mounts[""] = self.cgroup / "unified" if v1 else self.cgroup
        lines = []
        for number, (controllers, directory) in enumerate(self._mounts.items(), start=31):
            directory.mkdir(parents=True)
            kind, options = ("cgroup", f"rw,{controllers}") if controllers else ("cgroup2", "rw")
            lines.append(f"{number} 23 0:{number} {seen} {directory} rw - {kind} {kind} {options}\n")
        (self.proc / "self/mountinfo").write_text("".join(lines))

    def process(
        self,
        pid: int,
        path: str,
        *,
        nspid: tuple[int, ...] = (),
        ppid: int = 0,
        name: str = "sh",
        netns_of: int | None = None,
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        """A process in the cgroup `path` of every hierarchy but for those named `elsewhere`."""
        at = self.proc / str(pid)
        (at / "ns").mkdir(parents=True)
        numbers = "\t".join(map(str, (pid, *nspid)))
        (at / "status").write_text(f"Name:\t{name}\nPid:\t{pid}\nPPid:\t{ppid}\nNSpid:\t{numbers}\n")
        (at / "stat").write_text(f"{pid} ({name}) S {ppid} " + "0 " * 17 + f"{pid * 10} 0 0\n")
        if netns_of is None:
            (at / "ns/net").touch()
        else:
            (at / "ns/net").hardlink_to(self.proc / str(netns_of) / "ns/net")
        lines = []
        for number, (controllers, _) in enumerate(self._mounts.items()):
            where = (elsewhere or {}).get(controllers, path)
            lines.append(f"{number}:{controllers}:{where}\n")
            self.directory(where, controllers)
            with (self._directory(controllers, where) / "cgroup.procs").open("a") as procs:
                procs.write(f"{pid}\n")
        (at / "cgroup").write_text("".join(lines))

    def end(self, pid: int) -> None:
        """Take a process away; its cgroups stay."""
        for file in self.cgroup.rglob("cgroup.procs"):
            pids = file.read_text().split()
            file.write_text("".join(f"{one}\n" for one in pids if one != str(pid)))
        for directory, _, files in os.walk(self.proc / str(pid), topdown=False):
            for name in files:
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)

    def directory(self, path: str, controllers: str | None = None) -> None:
        """An empty cgroup, in one hierarchy or in all."""
        for one in self._mounts if controllers is None else (controllers,):
            self._directory(one, path).mkdir(parents=True, exist_ok=True)

    def runtime(self, only: frozenset[str] | None = None, poll: float = 3600.0) -> CgroupRuntime:
        return CgroupRuntime(str(self.proc), str(self.cgroup), poll, only)

    def look(self) -> Found:
        return self.runtime().find()

    def find(self) -> list[Container]:
        """The containers; nothing is left out."""
        found = self.look()
        assert found.left_out == []
        return found.containers

    def _directory(self, controllers: str, path: str) -> Path:
        return self._mounts[controllers] / path.removeprefix(self._seen).lstrip("/")
