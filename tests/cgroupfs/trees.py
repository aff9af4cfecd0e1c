"""The captured cgroup trees; what each is, and where it comes from, is in fixtures/cgroup/README.md."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs import Cgroup, Hierarchies, parse_cgroup_paths

if TYPE_CHECKING:
    from falcon_agent.cgroupfs.hierarchies import ControllerDir
    from falcon_agent.container import CgroupPaths

FIXTURES = Path(__file__).parent.parent / "fixtures" / "cgroup"

DOCKER = {"v2": 99, "v1-comounted": 124, "v1-separate": 124, "hybrid": 10001}
"""First process of the container with limits of its own, in each tree."""

POD = {"v2": 100, "v1-comounted": 125, "v1-separate": 125}
"""First process of the container whose pod has the limits."""


class Tree:
    """One captured tree, or a copy of it that a test may change."""

    def __init__(self, layout: str, root: Path | None = None) -> None:
        self.layout = layout
        self.root = root or FIXTURES / layout / "first"
        self.proc = str(self.root / "proc")
        self.hierarchies = Hierarchies.find(self.proc, str(self.root / "sys/fs/cgroup"))
        # An ordinary file that was removed or replaced would live on in a descriptor, which one of a cgroup does not.
        self.hierarchies.budget.left = 0

    @classmethod
    def copy(cls, layout: str, tmp_path: Path) -> Tree:
        root = tmp_path / layout
        shutil.copytree(FIXTURES / layout / "first", root, symlinks=True)
        return cls(layout, root)

    def paths(self, pid: int) -> CgroupPaths:
        return parse_cgroup_paths((self.root / "proc" / str(pid) / "cgroup").read_bytes())

    def cgroup(self, pid: int) -> Cgroup:
        return Cgroup(self.hierarchies, self.paths(pid))

    def directory(self, pid: int, controller: str) -> Path:
        at: ControllerDir | None = self.hierarchies.locate(controller, self.paths(pid))
        if at is None:
            raise AssertionError(f"{controller} is nowhere in {self.layout}")
        return Path(at.path)

    def advance(self) -> float:
        """Put the files of the second capture into a copy; returns the seconds between the two."""
        second = FIXTURES / self.layout / "second"
        before = self._uptime()
        shutil.copytree(second, self.root, dirs_exist_ok=True)
        return self._uptime() - before

    def _uptime(self) -> float:
        return float((self.root / "uptime").read_text().split()[0])


def captured(name: str) -> list[bytes]:
    """Every captured file of this name, in any tree."""
    found = [Path(folder) / name for folder, _, files in os.walk(FIXTURES) if name in files]
    contents = [path.read_bytes() for path in sorted(found)]
    if not contents:
        raise AssertionError(f"no {name} was captured")
    return contents
