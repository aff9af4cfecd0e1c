from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from falcon_agent.cgroupfs import Hierarchies, members
from falcon_agent.cgroupfs.members import read_members
from falcon_agent.cgroupfs.mounts import Mount
from falcon_agent.errors import GoneError
from tests.cgroupfs.live import BUSY, ROOT, V2, LiveCgroup

HIERARCHIES = Hierarchies(
    [
        Mount("/m/memory", "/..", "v1", ("rw", "memory"), above=("mine",)),
        Mount("/m/cpu", "/", "v1", ("rw", "cpu", "cpuacct")),
        Mount("/m/unified", "/", "v2"),
    ]
)


def processes(tmp_path: Path, **cgroups: str) -> str:
    for pid, content in cgroups.items():
        directory = tmp_path / pid.removeprefix("_")
        directory.mkdir()
        (directory / "cgroup").write_text(content)
    return str(tmp_path)


def test_processes_by_directory(tmp_path: Path) -> None:
    proc = processes(
        tmp_path,
        _10="2:memory:/../a\n1:cpu,cpuacct:/a\n0::/\n",
        _9="2:memory:/../a\n1:cpu,cpuacct:/b\n0::/../hidden\n",
        _8="2:memory:/../..\n1:cpu,cpuacct:/\n",
        _7="2:memory:/inner\n",
        _6="garbage",
        self="0::/x\n",
    )
    (tmp_path / "5").mkdir()  # it ended
    assert read_members(proc, HIERARCHIES, ("memory", "cpu", "cpuacct", "pids", "")) == {
        "/m/memory/a": (9, 10),
        "/m/memory/mine/inner": (7,),
        "/m/cpu/a": (10,),
        "/m/cpu/b": (9,),
        "/m/cpu": (8,),
        "/m/unified": (10,),
    }


def test_only_the_hierarchies_that_are_asked_for(tmp_path: Path) -> None:
    proc = processes(tmp_path, _10="2:memory:/../a\n1:cpu,cpuacct:/a\n0::/\n")
    assert read_members(proc, HIERARCHIES, ("cpuacct", "cpu")) == {"/m/cpu/a": (10,)}


def test_no_more_than_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = processes(tmp_path, **{f"_{pid}": "0::/a\n" for pid in range(100, 110)})
    monkeypatch.setattr(members, "MAX_PROCESSES", 4)
    (pids,) = read_members(proc, HIERARCHIES, ("",)).values()
    assert len(pids) == 4


def test_no_procfs_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(GoneError, match=r"cannot read .*/nowhere"):
        read_members(f"{tmp_path}/nowhere", HIERARCHIES, ("",))


@pytest.mark.real
def test_what_the_kernel_lists_in_cgroup_procs() -> None:
    with LiveCgroup("falcon-agent-test-members") as live:
        pids = sorted(live.start(BUSY).pid for _ in range(2))
        directory = (ROOT if V2 else (ROOT / "memory").resolve()) / live.name / "inner"
        found = read_members("/proc", Hierarchies.find(), ("" if V2 else "memory",))
        assert list(found[str(directory)]) == pids
        assert sorted(map(int, (directory / "cgroup.procs").read_text().split())) == pids


@pytest.mark.real
def test_from_a_pid_namespace_of_our_own_the_numbers_are_those_of_the_procfs() -> None:
    """There `cgroup.procs` lists nobody: this is what the module is for."""
    with LiveCgroup("falcon-agent-test-members") as live:
        pid = live.start(BUSY).pid
        directory = (ROOT if V2 else (ROOT / "memory").resolve()) / live.name / "inner"
        program = (
            "from falcon_agent.cgroupfs import Hierarchies\n"
            "from falcon_agent.cgroupfs.members import read_members\n"
            f"found = read_members('/proc', Hierarchies.find(), ('' if {V2} else 'memory',))\n"
            f"print(found.get({str(directory)!r}), open('{directory}/cgroup.procs').read().split())\n"
        )
        inside = subprocess.run(
            ["unshare", "--pid", "--fork", sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert inside.stdout.replace("'0'", "") == f"({pid},) []\n"
