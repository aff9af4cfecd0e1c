from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from falcon_agent.container import CgroupPaths, Container
from falcon_agent.discovery.describe import cut_paths, describe, host_netns, is_alive
from falcon_agent.errors import GoneError
from falcon_agent.procfs.process import parse_starttime

ID = "3f4c0a1b" * 8


def has_id(path: str) -> bool:
    return ID in path.rpartition("/")[2]


@pytest.mark.parametrize(
    ("path", "cut"),
    [
        (f"/docker/{ID}", f"/docker/{ID}"),
        (f"/docker/{ID}/init.scope", f"/docker/{ID}"),
        (f"/machine.slice/libpod-{ID}.scope/container", f"/machine.slice/libpod-{ID}.scope"),
        (f"/../../docker/{ID}/a/b", f"/../../docker/{ID}"),
        # A container that may make cgroups gives one its own name, to be measured by that alone.
        (f"/docker/{ID}/{ID}", f"/docker/{ID}"),
    ],
)
def test_the_container_is_the_part_that_bears_its_id(path: str, cut: str) -> None:
    assert cut_paths(CgroupPaths({}, path), has_id) == CgroupPaths({}, cut)


def test_a_hierarchy_that_does_not_know_the_container_is_left_out() -> None:
    # In it the process sits among strangers: their numbers must not pass for the container's.
    paths = CgroupPaths(
        {"memory": f"/docker/{ID}", "cpu": "/", "name=systemd": f"/docker/{ID}/init.scope"}, "/"
    )
    cut = CgroupPaths({"memory": f"/docker/{ID}", "name=systemd": f"/docker/{ID}"}, None)
    assert cut_paths(paths, has_id) == cut


def test_a_process_elsewhere_is_not_the_containers() -> None:
    assert cut_paths(CgroupPaths({"memory": "/other"}, "/"), has_id) is None
    assert cut_paths(CgroupPaths({}, None), has_id) is None


@pytest.mark.real
def test_a_pid_that_names_a_stranger_is_gone() -> None:
    with pytest.raises(GoneError, match="the pid was used again"):
        describe("/proc", os.getpid(), has_id)


@pytest.mark.real
def test_a_real_process() -> None:
    described = describe("/proc", os.getpid(), lambda path: True)
    assert described.netns == os.stat("/proc/self/ns/net").st_ino
    assert described.starttime == parse_starttime(Path("/proc/self/stat").read_bytes())


@pytest.mark.real
def test_an_ended_process_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(GoneError, match=f"cannot read /proc/{pid}"):
        describe("/proc", pid, has_id)


@pytest.mark.real
def test_alive_means_the_same_process() -> None:
    starttime = parse_starttime(Path("/proc/self/stat").read_bytes())
    myself = Container("1", "me", "cgroups", os.getpid(), starttime, CgroupPaths({}, "/"))
    assert is_alive("/proc", myself)
    assert not is_alive("/proc", replace(myself, starttime=starttime + 1))


def test_what_cannot_be_read_is_not_dead(tmp_path: Path) -> None:
    (tmp_path / "7/stat").mkdir(parents=True)
    assert is_alive(str(tmp_path), Container("1", "x", "cgroups", 7, 1, CgroupPaths({}, "/")))


def test_the_hosts_network_is_that_of_pid_1(tmp_path: Path) -> None:
    for process in ("1", "thread-self"):
        (tmp_path / process / "ns").mkdir(parents=True)
        (tmp_path / process / "net").mkdir()
        (tmp_path / process / "ns/net").touch()
    (tmp_path / "1/net/dev").touch()
    (tmp_path / "thread-self/net/dev").hardlink_to(tmp_path / "1/net/dev")
    assert host_netns(str(tmp_path)) == (tmp_path / "1/ns/net").stat().st_ino
    (tmp_path / "1/ns/net").unlink()
    assert host_netns(str(tmp_path)) == (tmp_path / "thread-self/ns/net").stat().st_ino
    # In a container without the host's network our own says nothing of the host's.
    (tmp_path / "thread-self/net/dev").unlink()
    (tmp_path / "thread-self/net/dev").touch()
    assert host_netns(str(tmp_path)) is None


@pytest.mark.real
def test_this_process_is_in_the_hosts_network() -> None:
    assert host_netns("/proc") == os.stat("/proc/self/ns/net").st_ino
