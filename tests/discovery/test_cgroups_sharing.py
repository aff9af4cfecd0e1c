"""Several network namespaces in one cgroup, and what is remembered from look to look."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.discovery import cgroups
from falcon_agent.discovery.cgroups import CgroupRuntime
from tests.discovery.hosttree import HostTree
from tests.real.engine import removed, wait_until

if TYPE_CHECKING:
    from falcon_agent.discovery.runtime import Found

ID = "3f4c0a1b" * 8
OTHER = "5e6d7c8b" * 8


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    made = HostTree(tmp_path, v1=("memory", "name=systemd"), v2=False)
    made.process(1, "/")
    return made


def left_out(found: Found) -> list[tuple[str, str]]:
    return [(one.name, one.reason) for one in found.left_out]


def test_the_outermost_and_oldest_stands_for_the_cgroup(tree: HostTree) -> None:
    for pid in (69, 80, 90):
        tree.process(pid, f"/docker/{ID}", nspid=(1,) if pid > 69 else (40, 1))
    found = tree.look()
    assert [one.pid for one in found.containers] == [80]
    why = f"it shares cgroup /docker/{ID} with container {ID[:12]}: put it into a cgroup of its own"
    assert left_out(found) == [("process 69", why), ("process 90", why)]


def test_one_without_a_network_of_its_own_is_not_missed(tree: HostTree) -> None:
    tree.process(70, f"/docker/{ID}", nspid=(1,))
    tree.process(80, f"/docker/{ID}", nspid=(40, 1), netns_of=70)
    tree.process(90, f"/docker/{ID}", nspid=(41, 1), netns_of=1)
    assert [one.pid for one in tree.find()] == [70]


def test_two_in_one_unit(tree: HostTree) -> None:
    tree.process(50, "/")
    tree.process(60, "/system.slice/lab.service")
    tree.process(70, "/system.slice/lab.service", nspid=(1,), ppid=50)
    tree.process(80, "/system.slice/lab.service", nspid=(1,), ppid=50)
    found = tree.look()
    assert [(one.name, one.pid) for one in found.containers] == [("lab", 70)]
    assert left_out(found) == [
        (
            "process 80",
            "it shares cgroup /system.slice/lab.service with container lab: put it into a cgroup of its own",
        )
    ]


def test_a_parent_that_just_ended_does_not_make_a_container(tree: HostTree) -> None:
    # The next look shows who is the parent now.
    tree.process(70, "/system.slice/lab.service", nspid=(1,), ppid=60, netns_of=1)
    assert tree.find() == []


def test_the_root_is_never_a_container(tree: HostTree) -> None:
    tree.process(70, "/", nspid=(1,))
    tree.process(80, "/", nspid=(1,))
    found = tree.look()
    assert found.containers == []
    why = "it shares cgroup / with processes that are in no container: put it into a cgroup of its own"
    assert left_out(found) == [("process 70", why), ("process 80", why)]


def test_a_container_that_another_hierarchy_knows_is_not_left_out(tree: HostTree) -> None:
    tree.process(70, f"/docker/{ID}", nspid=(1,), elsewhere={"memory": "/"})
    # Its own affair: a sandbox in the container, seen in the hierarchy where all is in the root.
    tree.process(80, f"/docker/{ID}/inner", nspid=(12, 1), elsewhere={"memory": "/"})
    [container] = tree.find()
    assert container.pid == 70
    assert container.cgroup.v1 == {"name=systemd": f"/docker/{ID}"}


def test_one_that_is_named_otherwise_in_another_hierarchy_is_found_once(tree: HostTree) -> None:
    tree.process(70, "/own", nspid=(1,), elsewhere={"name=systemd": "/other"})
    tree.process(80, f"/docker/{ID}", nspid=(1,), elsewhere={"name=systemd": f"/docker/{OTHER}"})
    assert {one.id: one.pid for one in tree.find()} == {"own": 70, ID: 80}


def test_they_are_bounded(tree: HostTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "MAX_LEFT_OUT", 5)
    for pid in range(100, 120):
        tree.process(pid, "/", nspid=(1,))
    assert len(tree.look().left_out) == 5


def test_only_those_asked_for(tree: HostTree) -> None:
    tree.process(60, "/lxc.payload.web", nspid=(1,))
    tree.process(70, f"/docker/{ID}", nspid=(1,))
    tree.process(80, "/own", nspid=(1,))
    tree.process(90, "/", nspid=(1,))
    runtime = tree.runtime(frozenset({"lxc"}))
    assert runtime.name == "lxc"
    assert [one.name for one in runtime.find().containers] == ["web"]
    assert runtime.find().left_out == []
    assert {one.pid for one in tree.runtime(frozenset({"cgroups", "docker"})).find().containers} == {70, 80}


def test_a_living_container_is_not_described_again(tree: HostTree) -> None:
    tree.process(70, f"/docker/{ID}", nspid=(1,))
    runtime = tree.runtime()
    first = runtime.find()
    (tree.proc / "70/status").unlink()
    assert runtime.find() == first


def test_a_moved_container_is(tree: HostTree) -> None:
    tree.process(70, f"/docker/{ID}", nspid=(1,), elsewhere={"memory": "/"})
    runtime = tree.runtime()
    runtime.find()
    # A runtime joins one hierarchy after the other.
    (tree.proc / "70/cgroup").write_text(f"0:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n")
    assert set(runtime.find().containers[0].cgroup.v1) == {"memory", "name=systemd"}


def test_another_process_of_the_same_number_is(tree: HostTree) -> None:
    tree.process(70, f"/docker/{ID}", nspid=(1,))
    runtime = tree.runtime()
    [first] = runtime.find().containers
    stat = tree.proc / "70/stat"
    stat.write_text(stat.read_text().replace(" 700 ", " 701 "))
    [second] = runtime.find().containers
    assert (first.starttime, second.starttime) == (700, 701)
    tree.end(70)
    assert runtime.find().containers == []


def test_a_container_that_is_still_being_prepared_is(tree: HostTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "SETTLED_SECONDS", float("inf"))
    tree.process(70, f"/kubepods/pod{'0' * 32}/{ID}", nspid=(1,), name="runc:[2:INIT]")
    tree.process(80, f"/kubepods/pod{'0' * 32}/{ID}", nspid=(2,))
    runtime = tree.runtime()
    assert not runtime.find().containers[0].pause
    status = tree.proc / "70/status"
    status.write_text(status.read_text().replace("runc:[2:INIT]", "pause"))
    assert runtime.find().containers[0].pause


@pytest.mark.real
def test_two_unshared_in_one_cgroup() -> None:
    name = f"falcon-share-{secrets.token_hex(4)}"
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    made = [Path(fields[4]) / name for fields in mounts if "cgroup" in fields[fields.index("-") + 1]]
    for directory in made:
        directory.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (directory / file).exists():
                (directory / file).write_text((directory.parent / file).read_text())
    enter = "; ".join(f"echo 0 > {directory}/cgroup.procs" for directory in made)
    argv = ["unshare", "--pid", "--net", "--fork", "--kill-child", "sh", "-c", f"{enter}; exec sleep 1000"]
    procs = made[-1] / "cgroup.procs"
    processes = [subprocess.Popen(argv)]
    try:
        wait_until(procs.read_text, "the first one is in its cgroup")
        first = procs.read_text().strip()
        processes.append(subprocess.Popen(argv))
        wait_until(lambda: len(procs.read_text().split()) == 2, "the second one too")
        [second] = set(procs.read_text().split()) - {first}
        found = CgroupRuntime("/proc", "/sys/fs/cgroup").find()
        assert [one.pid for one in found.containers if one.id == name] == [int(first)]
        [reason] = [one.reason for one in found.left_out if one.name == f"process {second}"]
        assert reason == f"it shares cgroup /{name} with container {name}: put it into a cgroup of its own"
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for directory in made:
            for pid in (directory / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            wait_until(partial(removed, directory), f"{directory} is removed")
