from __future__ import annotations

import secrets
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import watch
from falcon_agent.discovery import cgroupwatch
from falcon_agent.discovery.cgroupwatch import TreeWatch
from falcon_agent.errors import KernelFileError
from tests.discovery.hosttree import HostTree
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "3f4c0a1b" * 8
NEVER = 3600.0


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    made = HostTree(tmp_path, v1=("memory", "name=systemd"))
    made.process(1, "/init.scope")
    return made


@contextmanager
def running(tree: HostTree, poll: float = NEVER) -> Iterator[list[int]]:
    """What a watch told: one element for each call, settled after the first ones."""
    made = TreeWatch(str(tree.proc), str(tree.cgroup), poll)
    told: list[int] = []
    thread = threading.Thread(target=made.run, args=(lambda: told.append(1),), daemon=True)
    thread.start()
    try:
        wait_until(lambda: told, "the first call")
        yield told
    finally:
        made.close()
        thread.join()


def count_until_settled(told: list[int], at_least: int) -> int:
    wait_until(lambda: len(told) >= at_least, f"{at_least} calls")
    return len(told)


def test_a_new_cgroup_is_told_then_looked_at_again(tree: HostTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroupwatch, "_SETTLE_SECONDS", (0.01, 0.02, 0.03))
    with running(tree) as told:
        before = count_until_settled(told, 2)
        tree.directory(f"/docker/{ID}", "memory")
        count_until_settled(told, before + 4)


def test_it_is_heard_below_directories_that_came_later(
    tree: HostTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroupwatch, "_SETTLE_SECONDS", ())
    with running(tree) as told:
        before = len(told)
        tree.directory("/own.slice/own-deep.slice", "name=systemd")
        before = count_until_settled(told, before + 1)
        tree.directory(f"/own.slice/own-deep.slice/docker-{ID}.scope", "name=systemd")
        count_until_settled(told, before + 1)


def test_what_happens_inside_of_a_container_is_not_watched(
    tree: HostTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[str] = []

    def add(self: watch.DirectoryWatch, path: str) -> bool:
        added.append(path.removeprefix(str(tree.cgroup)))
        return True

    monkeypatch.setattr(watch.DirectoryWatch, "add", add)
    tree.process(70, f"/docker/{ID}/inside", nspid=(1,))
    tree.process(60, "/lxc.monitor.web/inside")
    with running(tree):
        pass
    mounts = ("/memory", "/name=systemd", "/unified")
    assert set(added) == {mount + path for mount in mounts for path in ("", "/docker", "/init.scope")}


def test_closed_before_it_runs(tree: HostTree) -> None:
    made = TreeWatch(str(tree.proc), str(tree.cgroup), NEVER)
    made.close()
    made.run(lambda: pytest.fail("it was closed"))


@pytest.mark.parametrize("limit", [0, 1])
def test_with_too_few_watches_the_tree_is_compared(
    tree: HostTree, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(cgroupwatch, "_SETTLE_SECONDS", ())
    monkeypatch.setattr(cgroupwatch, "MAX_WATCHES", limit)
    tree.directory("/docker")
    with running(tree, poll=0.01) as told:
        before = len(told)
        tree.directory(f"/docker/{ID}", "name=systemd")
        count_until_settled(told, before + 1)


def test_without_inotify_the_tree_is_compared(tree: HostTree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: watch.DirectoryWatch, limit: int) -> None:
        raise KernelFileError("inotify", "Too many open files")

    monkeypatch.setattr(watch.DirectoryWatch, "__init__", refuse)
    monkeypatch.setattr(cgroupwatch, "_SETTLE_SECONDS", ())
    with running(tree, poll=0.01) as told:
        before = len(told)
        tree.directory(f"/docker/{ID}")
        count_until_settled(told, before + 1)


def test_a_lost_event_is_made_good_by_comparing(tree: HostTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroupwatch, "_SETTLE_SECONDS", ())
    lose = threading.Event()
    read = watch.DirectoryWatch._read

    def overflow(self: watch.DirectoryWatch) -> watch.Heard:
        return watch.Heard([], [], lost=True) if lose.is_set() and read(self) else read(self)

    monkeypatch.setattr(watch.DirectoryWatch, "_read", overflow)
    with running(tree) as told:
        before = len(told)
        lose.set()
        tree.directory("/own.slice", "memory")
        before = count_until_settled(told, before + 1)
        lose.clear()
        # It watches what it did not hear of.
        tree.directory(f"/own.slice/docker-{ID}.scope", "memory")
        count_until_settled(told, before + 1)


def test_what_went_away_unheard_is_watched_no_longer(tree: HostTree) -> None:
    tree.directory("/own.slice/inner", "memory")
    made = TreeWatch(str(tree.proc), str(tree.cgroup), NEVER)
    made._watch = watch.DirectoryWatch(100)
    try:
        assert made._compare()
        inner = tree.cgroup / "memory/own.slice/inner"
        assert str(inner) in made._watch.paths
        inner.rmdir()
        assert made._compare()
        assert str(inner) not in made._watch.paths
        assert not made._compare()
    finally:
        made._watch.close()


def test_without_hierarchies_it_goes_on_looking_for_them(
    tree: HostTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroupwatch, "_SETTLE_SECONDS", ())
    mountinfo = tree.proc / "self/mountinfo"
    content = mountinfo.read_text()
    mountinfo.write_text("")
    with running(tree, poll=0.01) as told:
        mountinfo.write_text(content)
        count_until_settled(told, 2)


def test_idle_means_asleep_but_for_a_comparison_now_and_then(
    tree: HostTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroupwatch, "_SETTLE_SECONDS", (0.01,))
    asked: list[float] = []
    wait = watch.DirectoryWatch.wait

    def note(self: watch.DirectoryWatch, seconds: float) -> watch.Heard | None:
        asked.append(seconds)
        return wait(self, seconds)

    monkeypatch.setattr(watch.DirectoryWatch, "wait", note)
    with running(tree, poll=0.01) as told:
        tree.directory("/docker")
        wait_until(lambda: asked[-1:] > [cgroupwatch.SAFETY_SECONDS / 2], "it sleeps")
        assert len(asked) <= 2 * len(told) + 1


def test_whoever_makes_cgroups_without_end_does_not_keep_it_busy(
    tree: HostTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []

    class Closed(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            # Whatever is made meanwhile is there when the rest is over.
            rests.append(timeout or 0)
            tree.directory(f"/user.slice/{len(rests)}", "memory")
            return self.is_set()

    monkeypatch.setattr(cgroupwatch, "Flag", Closed)
    with running(tree) as told:
        tree.directory("/user.slice", "memory")
        wait_until(lambda: rests[-3:] == [1.0, 1.0, 1.0], "the longest rest")
        assert rests[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
        assert len(told) <= len(rests) + 4


@pytest.mark.real
def test_the_real_tree() -> None:
    made = TreeWatch("/proc", "/sys/fs/cgroup", NEVER)
    told: list[int] = []
    thread = threading.Thread(target=made.run, args=(lambda: told.append(1),), daemon=True)
    thread.start()
    try:
        before = count_until_settled(told, 2)
        own = Path("/sys/fs/cgroup/systemd") / f"falcon-noticed-{secrets.token_hex(4)}"
        own.mkdir()
        wait_until(lambda: len(told) > before, "the new cgroup is told")
        own.rmdir()
    finally:
        made.close()
        thread.join()
