from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.errors import DeniedError, KernelFileError
from falcon_agent.namespaces import treesize
from falcon_agent.namespaces.treesize import Progress, tree_size
from tests.namespaces.lab import become_nobody, descriptors, in_child, on_thread, run
from tests.namespaces.mounted import mounts

if TYPE_CHECKING:
    from collections.abc import Generator


def walk(top: Path) -> Generator[Progress, None, int]:
    return tree_size(partial(os.open, top, os.O_RDONLY | os.O_DIRECTORY), str(top))


def size(top: Path) -> int:
    steps = walk(top)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: int = end.value
            return result


def test_files_count_by_their_length_and_an_inode_once(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "\udcff\n"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"x" * 1000)
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    (tmp_path / "hard").hardlink_to(deep / "file")
    (tmp_path / "link").symlink_to("/etc")  # 4 bytes
    os.mkfifo(tmp_path / "fifo")
    assert size(tmp_path) == 1000 + (1 << 30) + 4
    assert size(tmp_path / "a") == 1000


def test_a_large_tree_against_find(tmp_path: Path) -> None:
    for number in range(300):
        directory = tmp_path / str(number % 7) / str(number % 11)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / str(number)).write_bytes(b"x" * number)
    printed = run("find", str(tmp_path), "!", "-type", "d", "-printf", "%s\n")
    assert size(tmp_path) == sum(map(int, printed.split())) == sum(range(300))


def test_it_can_be_left_at_any_point_and_leaves_nothing_open(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / str(number)).touch()
    before = descriptors()
    steps = walk(tmp_path)
    seen = [next(steps).entries for _ in range(4)]
    assert seen == [0, 128, 256, 384]
    assert descriptors() - before
    steps.close()
    assert descriptors() <= before


def test_what_changes_meanwhile_leads_nowhere_else(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    for name in ("gone", "link", "file", "kept"):
        (top / name).mkdir(parents=True)
        (top / name / "x").write_bytes(b"x")
    outside.mkdir()
    (outside / "secret").write_bytes(b"x" * 5000)
    steps = walk(top)
    next(steps)
    next(steps)  # the names are known, their directories not looked into
    for name in ("gone", "link", "file"):
        (top / name / "x").unlink()
        (top / name).rmdir()
    (top / "link").symlink_to(outside)
    (top / "file").write_bytes(b"")
    total = 0
    try:
        while True:
            next(steps)
    except StopIteration as end:
        total = end.value
    assert total == 1


@pytest.mark.real
def test_other_mounts_are_not_entered(tmp_path: Path) -> None:
    (tmp_path / "tmpfs").mkdir()
    (tmp_path / "same").mkdir()
    other = tmp_path.parent / f"{tmp_path.name}-other"
    other.mkdir()
    (other / "file").write_bytes(b"x" * 100)
    (tmp_path / "file").write_bytes(b"x")
    with mounts() as box:
        box.run("mount", "-t", "tmpfs", "x", f"{tmp_path}/tmpfs")
        box.run("sh", "-c", f"echo hello > {tmp_path}/tmpfs/file")
        box.run("mount", "--bind", str(other), f"{tmp_path}/same")
        (tmp_path / "name").touch()
        box.run("mount", "--bind", f"{tmp_path}/tmpfs/file", f"{tmp_path}/name")
        assert size(Path(f"/proc/{box.pid}/root{tmp_path}")) == 1


@pytest.mark.parametrize("limit", ["MAX_ENTRIES", "MAX_PENDING"])
def test_too_much_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    for number in range(300):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(treesize, limit, 200)
    with pytest.raises(KernelFileError, match="it holds too many files: more than 2"):
        size(tmp_path)


def test_too_deep_is_an_error(tmp_path: Path) -> None:
    fds = [os.open(tmp_path, os.O_RDONLY)]
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=fds[-1])
        fds.append(os.open("d" * 250, os.O_RDONLY, dir_fd=fds[-1]))
    with pytest.raises(KernelFileError, match="File name too long"):
        size(tmp_path)
    for fd in reversed(fds):
        os.close(fd)
    run("rm", "-rf", str(tmp_path / ("d" * 250)))


@pytest.mark.real
def test_a_directory_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    fd = os.open(tmp_path, os.O_RDONLY)
    closed = in_child(lambda: list(tree_size(partial(os.dup, fd), "top")), before=become_nobody)
    os.close(fd)
    assert closed.startswith(DeniedError.__name__)


def test_it_may_go_on_in_another_thread(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    steps = walk(tmp_path)
    next(steps)
    assert on_thread(lambda: None, lambda: len(list(steps))) == 0
