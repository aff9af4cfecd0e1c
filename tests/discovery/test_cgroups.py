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

from falcon_agent.container import CgroupPaths, Pod
from falcon_agent.discovery import cgroups, cgrouptree
from falcon_agent.discovery.cgroups import CgroupRuntime
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.errors import RuntimeUnavailableError
from tests.discovery.hosttree import HostTree
from tests.real.engine import removed, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

ID = "3f4c0a1b" * 8
OTHER = "5e6d7c8b" * 8
UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    made = HostTree(tmp_path)
    made.process(1, "/init.scope")
    return made


def test_systemd_driver(tree: HostTree) -> None:
    path = f"/system.slice/docker-{ID}.scope"
    tree.process(70, path, nspid=(1,), ppid=60)
    tree.process(71, path, nspid=(9,), ppid=70)
    [container] = tree.find()
    assert (container.id, container.name, container.runtime, container.pid) == (ID, ID[:12], "docker", 70)
    assert container.starttime == 700
    assert container.cgroup == CgroupPaths({}, path)
    assert container.netns == (tree.proc / "70/ns/net").stat().st_ino
    assert container.network_of == ID
    assert not container.host_network


def test_kubernetes_pod(tree: HostTree) -> None:
    pod = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice"
    tree.process(70, f"{pod}/cri-containerd-{ID}.scope", nspid=(1,), name="pause")
    tree.process(80, f"{pod}/cri-containerd-{OTHER}.scope", nspid=(1,), name="app", netns_of=70)
    pause, app = tree.find()
    assert (pause.id, pause.pause, pause.pod) == (ID, True, Pod("", "", UID))
    assert (app.id, app.pause, app.pod) == (OTHER, False, Pod("", "", UID))
    assert pause.netns == app.netns


def test_a_process_named_pause_is_a_pods_only_in_a_pod(tree: HostTree) -> None:
    tree.process(70, f"/docker/{ID}", nspid=(1,), name="pause")
    assert [one.pause for one in tree.find()] == [False]


def test_podman_starts_its_process_one_level_below(tree: HostTree) -> None:
    tree.process(70, f"/machine.slice/libpod-{ID}.scope/container", nspid=(1,))
    tree.process(60, f"/machine.slice/libpod-conmon-{ID}.scope")
    [container] = tree.find()
    assert (container.runtime, container.pid) == ("podman", 70)
    assert container.cgroup.v2 == f"/machine.slice/libpod-{ID}.scope"


def test_systemd_as_first_process_of_a_known_container(tree: HostTree) -> None:
    tree.process(75, f"/docker/{ID}/docker/{OTHER}", nspid=(30, 1))
    tree.process(70, f"/docker/{ID}/init.scope", nspid=(1,))
    tree.process(71, f"/docker/{ID}/system.slice/job.service", nspid=(22,))
    [container] = tree.find()
    assert (container.id, container.pid) == (ID, 70)
    assert container.cgroup.v2 == f"/docker/{ID}"


def test_lxc(tree: HostTree) -> None:
    tree.process(70, "/lxc.payload.web/init.scope", nspid=(1,))
    tree.process(60, "/lxc.monitor.web")
    [container] = tree.find()
    assert (container.id, container.name, container.runtime) == ("web", "web", "lxc")
    assert container.cgroup.v2 == "/lxc.payload.web"


def test_nspawn_machine_is_its_payload(tree: HostTree) -> None:
    unit = "/machine.slice/systemd-nspawn@web.service"
    tree.process(60, f"{unit}/supervisor")
    tree.process(70, f"{unit}/payload/init.scope", nspid=(1,), ppid=60)
    tree.process(71, f"{unit}/payload/system.slice/job.service", nspid=(22,), ppid=70)
    [container] = tree.find()
    assert (container.name, container.runtime, container.pid) == ("web", "nspawn", 70)
    assert container.cgroup.v2 == f"{unit}/payload"


def test_a_sandbox_inside_of_a_service_is_no_container(tree: HostTree) -> None:
    # A browser's helper, or `unshare --pid` in a shell: nobody gave it a cgroup of its own.
    tree.process(60, "/user.slice/app.scope")
    tree.process(70, "/user.slice/app.scope", nspid=(1,), ppid=60)
    tree.process(80, "/user.slice/app.scope/inner", nspid=(1,), ppid=60)
    found = tree.look()
    assert [one.pid for one in found.containers] == [80]
    # It has a network of its own, so somebody may look for it.
    why = "it shares cgroup /user.slice/app.scope with processes that are in no container"
    assert [(one.name, one.reason) for one in found.left_out] == [
        ("process 70", f"{why}: put it into a cgroup of its own")
    ]


def test_host_pid_namespace_the_oldest_process_counts(tree: HostTree) -> None:
    tree.process(90, f"/docker/{ID}")
    tree.process(70, f"/docker/{ID}")
    tree.process(80, f"/docker/{ID}/sub")
    assert [one.pid for one in tree.find()] == [70]


def test_a_namespace_made_inside_does_not_pass_for_the_container(tree: HostTree) -> None:
    tree.process(69, f"/docker/{ID}", nspid=(40, 1), netns_of=1)
    tree.process(70, f"/docker/{ID}", nspid=(1,))
    assert [one.pid for one in tree.find()] == [70]


def test_host_network(tree: HostTree) -> None:
    tree.process(70, f"/docker/{ID}", nspid=(1,), netns_of=1)
    assert [one.host_network for one in tree.find()] == [True]


def test_an_empty_cgroup_is_no_container(tree: HostTree) -> None:
    tree.directory(f"/docker/{ID}/sub")
    assert tree.find() == []


def test_the_nearer_of_two_with_one_id_counts(tree: HostTree) -> None:
    # Whoever owns a part of the tree can give a cgroup any name.
    tree.process(80, f"/user.slice/a/b/c/docker-{ID}.scope", nspid=(1,))
    tree.process(70, f"/system.slice/docker-{ID}.scope", nspid=(1,))
    found = tree.look()
    assert [one.pid for one in found.containers] == [70]
    reason = f"cgroup /user.slice/a/b/c/docker-{ID}.scope bears the id of a container in another cgroup"
    assert [(one.id, one.reason) for one in found.left_out] == [(ID, reason)]


def test_a_nearer_one_that_comes_later_does_not_take_its_place(tree: HostTree) -> None:
    tree.process(70, f"/system.slice/a/b/docker-{ID}.scope", nspid=(1,))
    runtime = tree.runtime()
    runtime.find()
    tree.process(80, f"/user.slice/docker-{ID}.scope", nspid=(1,))
    found = runtime.find()
    assert [one.pid for one in found.containers] == [70]
    assert [one.id for one in found.left_out] == [ID]
    tree.end(70)
    assert [one.pid for one in runtime.find().containers] == [80]


def test_a_process_that_moved_meanwhile_is_left_out_with_its_reason(tree: HostTree) -> None:
    tree.process(70, f"/docker/{ID}", nspid=(1,))
    (tree.proc / "70/cgroup").write_text("0::/elsewhere\n")
    found = CgroupRuntime(str(tree.proc), str(tree.cgroup)).find()
    assert found.containers == []
    assert [one.reason for one in found.left_out] == [
        f"cannot read {tree.proc}/70: the process is in another cgroup: the pid was used again"
    ]


def test_a_tree_without_end_is_bounded_and_said(tree: HostTree, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cgrouptree, cgroups):
        monkeypatch.setattr(module, "MAX_CGROUPS", 20)
    for number in range(40):
        tree.directory(f"/user.slice/many/{number}")
    tree.process(70, f"/docker/{ID}", nspid=(1,))
    found = CgroupRuntime(str(tree.proc), str(tree.cgroup)).find()
    assert [one.pid for one in found.containers] == [70]
    assert [one.reason for one in found.left_out] == [
        f"not searched: there are more than 20 cgroups in {tree.cgroup}"
    ]


def test_depth_is_bounded(tree: HostTree) -> None:
    tree.process(70, "/a" * cgrouptree.MAX_DEPTH + f"/{ID}", nspid=(1,))
    assert tree.find() == []
    tree.process(71, "/b" * (cgrouptree.MAX_DEPTH - 1) + f"/{ID}", nspid=(1,))
    assert [one.pid for one in tree.find()] == [71]


def test_garbage_in_the_files_ends_in_nothing(tree: HostTree) -> None:
    tree.process(70, f"/docker/{ID}", nspid=(1,))
    for garbage in ("", "x", "\0" * 100, "-1\n", "9" * 30):
        for name in ("proc/70/status", "proc/70/stat", "proc/70/cgroup", f"cgroup/docker/{ID}/cgroup.procs"):
            path = tree.proc.parent / name
            before = path.read_text()
            path.write_text(garbage)
            assert CgroupRuntime(str(tree.proc), str(tree.cgroup)).find().containers == []
            path.write_text(before)
    assert [one.pid for one in tree.find()] == [70]


def test_no_hierarchy_is_an_unavailable_runtime(tree: HostTree) -> None:
    (tree.proc / "self/mountinfo").write_text("")
    with pytest.raises(RuntimeUnavailableError, match="no cgroup hierarchy is mounted"):
        CgroupRuntime(str(tree.proc), str(tree.cgroup)).find()
    (tree.proc / "self/mountinfo").unlink()
    with pytest.raises(RuntimeUnavailableError, match="mountinfo"):
        CgroupRuntime(str(tree.proc), str(tree.cgroup)).find()


# The real thing


def end_all(procs: Path) -> None:
    """Kill what is in a cgroup; the init of a PID namespace listens to nothing less."""
    for pid in procs.read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@pytest.fixture
def own_cgroups() -> Iterator[list[Path]]:
    """A fresh cgroup in every mounted hierarchy; whatever runs in it is ended."""
    name = f"falcon-test-{secrets.token_hex(4)}"
    mounts = [
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup" in line
    ]
    made = [Path(mount) / name for mount in mounts]
    for directory in made:
        directory.mkdir()
    try:
        yield made
    finally:
        for directory in made:
            end_all(directory / "cgroup.procs")
        for directory in made:
            wait_until(partial(removed, directory), f"{directory} is removed")


@pytest.mark.real
def test_namespaces_without_any_runtime(own_cgroups: list[Path]) -> None:
    enter = "; ".join(f"echo 0 > {directory}/cgroup.procs" for directory in own_cgroups)
    # `unshare`, the parent, stays outside of the cgroup, as a runtime does.
    script = f"{enter}; exec sleep 1000"
    procs = own_cgroups[-1] / "cgroup.procs"
    with subprocess.Popen(["unshare", "--pid", "--net", "--fork", "sh", "-c", script]):
        try:
            name = own_cgroups[0].name
            wait_until(procs.read_text, "the process is in its cgroup")
            pid = int(procs.read_text())
            found = [
                one for one in CgroupRuntime("/proc", "/sys/fs/cgroup").find().containers if one.id == name
            ]
            assert [(one.name, one.runtime, one.pid) for one in found] == [(name, "cgroups", pid)]
            [container] = found
            assert container.netns == os.stat(f"/proc/{pid}/ns/net").st_ino
            assert set(container.cgroup.v1.values()) | {container.cgroup.v2} == {f"/{name}"}
            assert not container.host_network
        finally:
            end_all(procs)


@pytest.mark.real
def test_an_agent_that_shares_a_cgroup_with_the_namespace_is_no_container(own_cgroups: list[Path]) -> None:
    enter = "; ".join(f"echo 0 > {directory}/cgroup.procs" for directory in own_cgroups)
    script = f"{enter}; exec unshare --pid --fork sleep 1000"
    procs = own_cgroups[-1] / "cgroup.procs"
    with subprocess.Popen(["sh", "-c", script]):
        try:
            wait_until(lambda: len(procs.read_text().split()) == 2, "both processes are in the cgroup")
            ids = {one.id for one in CgroupRuntime("/proc", "/sys/fs/cgroup").find().containers}
            assert own_cgroups[0].name not in ids
        finally:
            end_all(procs)


@pytest.mark.real
def test_the_same_containers_as_docker_says(docker_engine: Engine) -> None:
    with (
        docker_engine.container("--name", "found-by-cgroup") as plain,
        docker_engine.container("--network", "none") as alone,
        docker_engine.container("--network", f"container:{plain}") as sharing,
        docker_engine.container("--pid", "host") as host_pids,
        docker_engine.container("--cgroupns", "host", "--memory", "64m") as limited,
    ):
        told = {one.id: one for one in DockerRuntime(docker_engine.url, 30.0, "/proc").find().containers}
        found = {one.id: one for one in CgroupRuntime("/proc", "/sys/fs/cgroup").find().containers}
        for container in (plain, alone, sharing, host_pids, limited):
            by_docker, by_cgroup = told[container], found[container]
            assert by_cgroup.pid == by_docker.pid
            assert by_cgroup.starttime == by_docker.starttime
            assert by_cgroup.netns == by_docker.netns
            assert by_cgroup.cgroup == by_docker.cgroup
            assert by_cgroup.name == container[:12]
            assert by_cgroup.runtime == "docker"
        assert found[plain].netns == found[sharing].netns != found[alone].netns


@pytest.mark.real
def test_a_process_brought_in_is_not_the_first(docker_engine: Engine) -> None:
    with docker_engine.container() as container:
        docker_engine.exec(container, "sleep", "1000", detach=True)
        docker_engine.exec(container, "unshare", "-p", "-f", "sleep", "1000", detach=True)
        found = {one.id: one.pid for one in CgroupRuntime("/proc", "/sys/fs/cgroup").find().containers}
        assert found[container] == docker_engine.pid(container)
