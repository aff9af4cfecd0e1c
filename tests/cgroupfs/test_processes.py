from __future__ import annotations

from pathlib import Path

import pytest

from falcon_agent.cgroupfs.processes import list_processes
from falcon_agent.errors import GoneError, ParseError
from tests.cgroupfs.live import ROOT, V2, LiveCgroup, remove


def cgroup(directory: Path, *numbers: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.procs").write_text("".join(f"{number}\n" for number in numbers))
    return directory


def test_here_and_below(tmp_path: Path) -> None:
    cgroup(tmp_path, 1, 2)
    cgroup(tmp_path / "a", 3)
    cgroup(tmp_path / "a/b", 4)
    cgroup(tmp_path / "c")
    found = list_processes(str(tmp_path), 10)
    assert found is not None
    assert sorted(found) == [1, 2, 3, 4]


def test_too_many_are_not_counted(tmp_path: Path) -> None:
    cgroup(tmp_path, 1, 2)
    cgroup(tmp_path / "a", 3)
    assert list_processes(str(tmp_path), 3) is not None
    assert list_processes(str(tmp_path), 2) is None
    for number in range(4):  # cgroups without any process
        cgroup(tmp_path / f"b{number}")
    assert list_processes(str(tmp_path), 5) is None
    assert list_processes(str(tmp_path), 6) is not None


def test_links_are_not_followed(tmp_path: Path) -> None:
    cgroup(tmp_path / "here", 1)
    cgroup(tmp_path / "elsewhere", 2)
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "child").mkdir()
    (tmp_path / "here" / "child" / "cgroup.procs").write_bytes(b"3\n")
    assert list_processes(str(tmp_path / "here"), 10) == [1, 3]


def test_gone_and_garbage(tmp_path: Path) -> None:
    with pytest.raises(GoneError):
        list_processes(str(tmp_path / "none"), 10)
    cgroup(tmp_path, 1)
    (tmp_path / "a").mkdir()  # removed since it was listed
    assert list_processes(str(tmp_path), 10) == [1]
    (tmp_path / "cgroup.procs").write_bytes(b"one\n")
    with pytest.raises(ParseError, match=r"cgroup\.procs"):
        list_processes(str(tmp_path), 10)


@pytest.mark.real
def test_real_cgroups_some_of_them_threaded() -> None:
    unified = ROOT if V2 else ROOT / "unified"
    with LiveCgroup("falcon-agent-test-processes") as live:
        process = live.start("import signal; signal.pause()")
        directory = unified / live.tops[-1].name / "inner"
        child = directory / "threads"
        assert list_processes(str(directory.parent), 10) == [process.pid]
        child.mkdir()
        try:
            (child / "cgroup.type").write_text("threaded")
            with pytest.raises(OSError, match="not supported"):
                (child / "cgroup.procs").read_bytes()
            assert list_processes(str(directory.parent), 10) == [process.pid]
        finally:
            remove(child)
    assert not Path(directory).exists()
