"""Against the kernel's inotify on its own cgroup file systems, v1 and v2: they are no ordinary directories."""

from __future__ import annotations

import os
import resource
import secrets
import subprocess
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Hierarchies
from falcon_agent.cgroupfs.watch import DirectoryWatch, Heard
from falcon_agent.errors import KernelFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real

MOUNTS = sorted(
    {mount.mountpoint for mount in Hierarchies.find().v1.values()}
    | ({mount.mountpoint} if (mount := Hierarchies.find().v2) else set())
)
NOTHING = Heard([], [], lost=False)


@pytest.fixture(params=MOUNTS)
def top(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cgroup of our own."""
    made = Path(request.param) / f"falcon-watch-{secrets.token_hex(4)}"
    made.mkdir()
    yield made
    for directory, _, _ in os.walk(made, topdown=False):
        os.rmdir(directory)


@pytest.fixture
def watch() -> Iterator[DirectoryWatch]:
    made = DirectoryWatch(100)
    yield made
    made.close()


def kernels(watch: DirectoryWatch) -> set[str]:
    """What the kernel watches for it (proc_pid_fdinfo(5))."""
    lines = Path(f"/proc/self/fdinfo/{watch._inotify}").read_text().splitlines()
    return {line for line in lines if line.startswith("inotify ")}


def test_what_others_make_and_remove_is_heard(watch: DirectoryWatch, top: Path) -> None:
    assert watch.add(str(top))
    subprocess.run(["mkdir", top / "one", top / "two"], check=True)
    subprocess.run(["rmdir", top / "two"], check=True)
    assert watch.wait(10) == Heard([f"{top}/one"], [f"{top}/two"], lost=False)
    assert watch.wait(0) == NOTHING


def test_a_directory_that_was_made_again_has_to_be_watched_again(watch: DirectoryWatch, top: Path) -> None:
    inner = top / "inner"
    for _ in range(2):
        inner.mkdir()
        watch.add(str(inner))
        (inner / "deep").mkdir()
        assert watch.wait(10) == Heard([f"{inner}/deep"], [], lost=False)
        (inner / "deep").rmdir()
        assert watch.wait(10) == Heard([], [f"{inner}/deep"], lost=False)
        inner.rmdir()
        watch.discard(str(inner))
        assert watch.wait(0) == NOTHING
    assert watch.paths == kernels(watch) == set()


def test_what_is_gone_is_no_fault_and_no_watch(watch: DirectoryWatch, top: Path) -> None:
    assert watch.add(f"{top}/gone")
    assert watch.paths == set()
    watch.discard(f"{top}/gone")


def test_no_more_than_allowed(top: Path) -> None:
    limited = DirectoryWatch(1)
    try:
        (top / "inner").mkdir()
        assert limited.add(str(top))
        assert limited.add(str(top))
        assert not limited.add(f"{top}/inner")
        limited.discard(str(top))
        assert limited.add(f"{top}/inner")
    finally:
        limited.close()


def test_a_full_queue_is_told(watch: DirectoryWatch) -> None:
    # Some other directory, in memory: cgroups are slow to make, and the kernel keeps one queue for all.
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with TemporaryDirectory(dir="/dev/shm") as directory:
        watch.add(directory)
        for _ in range(limit // 2 + 1):
            os.mkdir(f"{directory}/x")
            os.rmdir(f"{directory}/x")
    heard = []
    while (more := watch.wait(0)) != NOTHING:
        assert more is not None
        heard.append(more.lost)
    assert heard[-1]
    assert not any(heard[:-1])


def test_stop_ends_a_wait_from_another_thread(watch: DirectoryWatch) -> None:
    answers: list[Heard | None] = []
    waiting = threading.Thread(target=lambda: answers.append(watch.wait(3600)))
    waiting.start()
    watch.stop()
    waiting.join()
    assert answers == [None]
    assert watch.wait(3600) is None


def test_a_file_is_no_directory_to_hear_of(watch: DirectoryWatch, tmp_path: Path) -> None:
    watch.add(str(tmp_path))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved").rename(tmp_path / "here")
    assert watch.wait(10) == Heard([f"{tmp_path}/here"], [f"{tmp_path}/moved"], lost=False)


def test_nothing_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        made = DirectoryWatch(1)
        made.close()
        made.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_no_descriptor_left_is_said() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(KernelFileError, match="cannot read inotify"):
            DirectoryWatch(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
