from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Pressure
from falcon_agent.cgroupfs.pressure import parse_pressure
from falcon_agent.errors import GoneError, ParseError
from tests.cgroupfs.trees import DOCKER, Tree, captured
from tests.collectors.opened import DOCKER_IO

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("layout", ["hybrid", "v2"])
def test_a_captured_container(layout: str) -> None:
    cgroup = Tree(layout).cgroup(DOCKER[layout])
    assert cgroup.pressure("cpu") == Pressure(642935, 602018)
    assert cgroup.pressure("memory") == Pressure(0, 0)
    assert cgroup.pressure("io") == Pressure(14824, 348)


@pytest.mark.parametrize(("layout", "pid"), [("v1-comounted", DOCKER["v1-comounted"]), ("v1-io", DOCKER_IO)])
def test_v1_alone_keeps_no_account(layout: str, pid: int) -> None:
    assert Tree(layout).cgroup(pid).pressure("cpu") is None


def test_beside_v1_only_its_own_cgroup_counts(tmp_path: Path) -> None:
    tree = Tree.copy("hybrid", tmp_path)
    own = tree.paths(DOCKER["hybrid"]).v2
    daemon = tree.root / "sys/fs/cgroup/unified/system.slice/docker.service"
    shutil.copytree(tree.root / f"sys/fs/cgroup/unified{own}", daemon)
    file = tree.root / f"proc/{DOCKER['hybrid']}/cgroup"
    file.write_text(file.read_text().replace(f"0::{own}", "0::/system.slice/docker.service"))
    assert tree.cgroup(DOCKER["hybrid"]).pressure("cpu") is None


def test_an_account_that_is_off_and_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    directory = tree.directory(DOCKER["v2"], "memory")
    (directory / "cpu.pressure").unlink()
    assert tree.cgroup(DOCKER["v2"]).pressure("cpu") is None
    shutil.rmtree(directory)
    with pytest.raises(GoneError):
        tree.cgroup(DOCKER["v2"]).pressure("cpu")


def test_before_linux_5_13_the_cpu_has_one_line() -> None:
    line = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    assert parse_pressure(line, "cpu.pressure") == Pressure(7, None)


def test_every_captured_file_is_understood() -> None:
    for content in captured("cpu.pressure") + captured("io.pressure") + captured("cpu"):
        assert parse_pressure(content, "x").some_usec > 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=7",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=-7\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00\n",
    ],
)
def test_other_forms_are_refused(content: bytes) -> None:
    with pytest.raises(ParseError, match=r"io\.pressure"):
        parse_pressure(content, "io.pressure")
