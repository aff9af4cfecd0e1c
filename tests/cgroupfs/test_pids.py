from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Cgroup, Hierarchies, PidsStat
from falcon_agent.cgroupfs.pids import parse_pids, parse_pids_max
from falcon_agent.container import CgroupPaths
from falcon_agent.errors import GoneError, ParseError
from tests.cgroupfs.trees import DOCKER, Tree
from tests.collectors.opened import DOCKER_IO

if TYPE_CHECKING:
    from pathlib import Path

CAPTURED = {
    "v2": (DOCKER["v2"], PidsStat(3, 4, 5)),  # a limit of its own
    "v1-io": (DOCKER_IO, PidsStat(12, 12, 20)),  # that of /docker
}


@pytest.mark.parametrize("layout", CAPTURED)
def test_captured_containers(layout: str) -> None:
    pid, expected = CAPTURED[layout]
    assert Tree(layout).cgroup(pid).pids() == expected


@pytest.mark.parametrize(
    ("own", "above", "limit"), [("max", "max", None), ("7", "max", 7), ("7", "5", 5), ("5", "7", 5)]
)
def test_the_smallest_limit_up_to_the_root(own: str, above: str, limit: int | None, tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    directory = tree.directory(DOCKER["v2"], "pids")
    (directory / "pids.max").write_text(f"{own}\n")
    (directory.parent / "pids.max").write_text(f"{above}\n")
    assert tree.cgroup(DOCKER["v2"]).pids() == PidsStat(3, limit, 5)


@pytest.mark.parametrize("layout", CAPTURED)
def test_what_the_kernel_does_not_have(layout: str, tmp_path: Path) -> None:
    tree = Tree.copy(layout, tmp_path)
    pid, stat = CAPTURED[layout]
    directory = tree.directory(pid, "pids")
    (directory / "pids.events").unlink()
    assert tree.cgroup(pid).pids() == PidsStat(stat.current, stat.limit, None)
    (directory / "pids.current").unlink()
    assert tree.cgroup(pid).pids() is None
    shutil.rmtree(directory)
    with pytest.raises(GoneError):
        tree.cgroup(pid).pids()
    assert Cgroup(Hierarchies([]), CgroupPaths({"pids": "/a"}, None)).pids() is None


def test_other_forms_are_refused() -> None:
    for current, events in ((b"max\n", b"max 1\n"), (b"1\n", b"max max\n"), (b"", None)):
        with pytest.raises(ParseError, match=r"pids\."):
            parse_pids(current, events, None)
    with pytest.raises(ParseError, match=r"pids\.max"):
        parse_pids_max(b"-1\n")
