"""Several sources at once: who is asked, whose word counts, and what only the cgroup tree shows."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from falcon_agent.container import Pod
from falcon_agent.discovery import feed
from falcon_agent.discovery import inventory as inventory_module
from falcon_agent.discovery.filters import Filter
from falcon_agent.discovery.runtime import Change, Found
from falcon_agent.discovery.sources import CRI_SOCKETS, Places, Source, make_sources
from falcon_agent.errors import RuntimeAbsentError, RuntimeDeniedError, RuntimeUnavailableError
from falcon_agent.selfstat import SelfStat
from tests.discovery.told import LONG, Told, container, names, reasons, started
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from falcon_agent.container import Container
    from falcon_agent.discovery.inventory import Inventory

ID = "3f4c0a1b" * 8


@pytest.fixture
def other_pid() -> Iterator[int]:
    """Another process, so that two containers are told apart."""
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        yield sleeper.pid
        sleeper.kill()


@pytest.fixture(autouse=True)
def _heard_before_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine takes longer to listen, a second look would follow the first one at some time."""
    monkeypatch.setattr(feed, "_LISTEN_SECONDS", LONG)


@pytest.fixture
def no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "HOLD_SECONDS", 0.0)


def by_tree(
    name: str = ID[:12], runtime: str = "docker", pid: int | None = None, **more: object
) -> Container:
    """As the cgroup tree shows a container of some runtime."""
    return container(name, pid, **{"id": ID, "runtime": runtime, **more})


def states(inventory: Inventory) -> list[tuple[str, bool, bool]]:
    return [(state.name, state.ok, state.present) for state in inventory.states()]


def test_the_runtime_that_knows_the_name_is_believed_in_any_order() -> None:
    docker, tree = Told(container("web", id=ID), name="docker"), Told(by_tree(), name="cgroups")
    with started(docker, tree) as inventory:
        assert names(inventory) == ["web"]
        assert inventory.left_out() == []


def test_one_process_under_two_ids_is_one_container() -> None:
    docker, tree = Told(container("web"), name="docker"), Told(container("unit-x"), name="cgroups")
    with started(docker, tree) as inventory:
        assert names(inventory) == ["web"]


@pytest.mark.parametrize(
    ("claimed", "runtime"),
    [("docker", "docker"), ("cri", "containerd"), ("cri", "cri-o"), ("podman", "cgroups")],
)
def test_who_is_not_listed_yet_is_held_back_for_a_while(
    claimed: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, tree = Told(name=claimed), Told(by_tree(runtime=runtime), name="cgroups")
    with started(api, tree) as inventory:
        assert names(inventory) == []
        expected = f"{claimed} does not list it yet; in 60 s it is measured under its id"
        assert reasons(inventory) == {ID[:12]: expected}
        monkeypatch.setattr(inventory_module, "HOLD_SECONDS", 0.0)
        assert names(inventory) == [ID[:12]]
        assert inventory.left_out() == []


def test_only_a_runtime_that_may_know_it_holds_a_container_back() -> None:
    podman, tree = Told(name="podman"), Told(by_tree(runtime="docker"), name="cgroups")
    with started(podman, tree) as inventory:
        assert names(inventory) == [ID[:12]]


def test_what_no_runtime_would_name_otherwise_is_measured_at_once() -> None:
    tree = Told(
        container("ct1", id="ct1", runtime="lxc"), container("backup", id="backup.service"), name="cgroups"
    )
    with started(Told(name="docker"), tree) as inventory:
        assert names(inventory) == ["backup", "ct1"]


def test_a_runtime_that_hangs_holds_back_its_own_and_nobody_elses(no_hold: None, other_pid: int) -> None:
    docker = Told(name="docker")
    docker.error = RuntimeUnavailableError("cannot use it: it hangs")
    tree = Told(by_tree(), container("ct1", other_pid, id="ct1", runtime="lxc"), name="cgroups")
    with started(docker, tree) as inventory:
        assert names(inventory) == ["ct1"]
        assert reasons(inventory) == {ID[:12]: "docker, which would tell its name, does not answer"}
        docker.error, docker.found = None, Found([container("web", id=ID)])
        inventory.refresh()
        wait_until(lambda: names(inventory) == ["ct1", "web"], "it answers")


def test_a_runtime_that_refuses_us_holds_nobody_back(no_hold: None) -> None:
    docker = Told(name="docker")
    docker.error = RuntimeDeniedError("cannot use it: permission denied")
    stat = SelfStat()
    with started(docker, Told(by_tree(), name="cgroups"), stat=stat) as inventory:
        assert names(inventory) == [ID[:12]]
        assert reasons(inventory) == {}
        assert stat.value("runtime.up") == 1  # it is a matter of the set-up, which `check` names
        (state, _) = inventory.states()
        assert (state.ok, state.denied, state.error) == (False, True, "cannot use it: permission denied")
        docker.error, docker.found = None, Found([container("web", id=ID)])
        inventory.refresh()
        wait_until(lambda: names(inventory) == ["web"], "it answers")
        assert not inventory.states()[0].denied


def test_where_everybody_refuses_us_nothing_is_up() -> None:
    docker, stat = Told(name="docker"), SelfStat()
    docker.error = RuntimeDeniedError("cannot use it: permission denied")
    with started(docker, stat=stat) as inventory:
        assert names(inventory) == []
        assert stat.value("runtime.up") == 0


def test_what_a_runtime_could_not_describe_does_not_change_its_name(no_hold: None) -> None:
    docker, tree = Told(name="docker"), Told(by_tree(), name="cgroups")
    with started(docker, tree) as inventory:
        assert names(inventory) == [ID[:12]]
        docker.tell(Change(ID, ended=True))  # not of a known one: no trace
        assert names(inventory) == [ID[:12]]
    docker = Told(container("web", id=ID), name="docker")
    with started(docker, Told(by_tree(), name="cgroups")) as inventory:
        docker.tell(Change(ID, ended=True))
        assert names(inventory) == [], "the runtime said that it ended; the tree is a little behind"
        assert reasons(inventory) == {ID[:12]: "docker: gone: docker said that it ended"}


# What is there


def test_a_runtime_that_comes_later_is_asked_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "PROBE_SECONDS", 0.02)
    there = False
    docker = Told(container("web", id=ID), name="docker")
    late = Source("docker", lambda: docker, lambda _: there)
    with started(late, Told(by_tree(), name="cgroups")) as inventory:
        assert names(inventory) == [ID[:12]]
        assert states(inventory) == [("cgroups", True, True), ("docker", True, False)]
        there = True
        wait_until(lambda: names(inventory) == ["web"], "it is asked")
        there = False
        docker.error = RuntimeUnavailableError("cannot use it: there is no such socket")
        inventory.refresh()
        wait_until(lambda: ("docker", False, True) in states(inventory), "its absence is an error now")
        assert names(inventory) == ["web"]


def test_what_the_tree_shows_decides_whether_a_runtime_is_asked_before_the_first_cycle() -> None:
    cri = Told(container("app", id=ID), name="containerd")
    source = Source("cri", lambda: cri, lambda seen: any(one.pod for one in seen))
    with started(source, Told(by_tree(runtime="cgroups"), name="cgroups")) as inventory:
        assert (names(inventory), cri.looks) == ([ID[:12]], 0)
    with started(source, Told(by_tree(pod=Pod("", "", "u")), name="cgroups")) as inventory:
        assert names(inventory) == ["app"]


def test_an_optional_runtime_that_is_none_is_no_failure_and_holds_nothing_back() -> None:
    cri = Told(name="cri")
    cri.error = RuntimeAbsentError("cannot use it: containerd without its CRI plugin")
    optional, named = Source("cri", lambda: cri, lambda _: True), Source("cri", lambda: cri)
    with started(optional, Told(by_tree(runtime="containerd"), name="cgroups")) as inventory:
        assert names(inventory) == [ID[:12]]
        assert ("cri", True, False) in states(inventory)
    cri = Told(name="cri")
    cri.error = RuntimeAbsentError("cannot use it: containerd without its CRI plugin")
    with started(named) as inventory:
        assert states(inventory) == [("cri", False, True)]


def test_a_named_runtime_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    source = Source("cri", Told, lambda _: False, "cannot use cri: there is no socket")
    with started(source) as inventory:
        [state] = inventory.states()
        assert (state.ok, state.present, state.error) == (False, True, "cannot use cri: there is no socket")


# Pods

POD, OTHER = Pod("web-0", "prod", "uid-1"), Pod("web-0", "test", "uid-2")


@pytest.fixture
def two_pods(other_pid: int) -> Told:
    """Two of one name in two namespaces; in the second no container runs at present."""
    return Told(
        container("sandbox-1", pause=True, pod=POD, labels={"app": "web"}),
        container(
            "app", pod=POD, image="shop:1", labels={"app": "web", "own": "1"}, network_of="id-sandbox-1"
        ),
        container("sandbox-2", other_pid, pause=True, pod=OTHER, labels={"app": "web"}),
        name="containerd",
    )


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ({}, {}, ["app", "sandbox-1", "sandbox-2"]),
        ({"namespace": ["prod"]}, {}, ["app", "sandbox-1"]),
        ({}, {"namespace": ["prod"]}, ["sandbox-2"]),
        ({"label": ["app=web"]}, {}, ["app", "sandbox-1", "sandbox-2"]),
        ({"label": ["own"]}, {}, ["app", "sandbox-1"]),
        ({}, {"label": ["app"]}, []),
        ({"name": ["app"]}, {}, ["app", "sandbox-1"]),
        ({"pod": ["web-*"], "image": ["shop:*"]}, {}, ["app", "sandbox-1"]),
        ({}, {"image": ["shop:*"]}, ["sandbox-2"]),
        ({"pod": ["db-*"]}, {}, []),
    ],
)
def test_a_pods_network_is_measured_with_its_containers(
    two_pods: Told, include: dict[str, list[str]], exclude: dict[str, list[str]], expected: list[str]
) -> None:
    with started(two_pods, chosen=Filter(include, exclude)) as inventory:
        assert names(inventory) == expected


def test_a_sandbox_is_not_counted_as_a_container(two_pods: Told) -> None:
    with started(two_pods) as inventory:
        inventory.snapshot()
        assert inventory._stat.value("containers") == 1
        assert reasons(inventory) == {
            "sandbox-1": "pause: it only holds the namespaces of pod web-0",
            "sandbox-2": "pause: it only holds the namespaces of pod web-0",
        }


def test_without_anything_to_tell_it_apart_a_pod_is_known_by_its_name() -> None:
    assert (POD.key, Pod("web-0", "prod").key) == ("uid-1", "prod/web-0")


def test_there_is_a_socket_or_not(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    places = Places(f"unix://{path}", "tcp://127.0.0.1:1", [f"unix://{path}"], "/proc", "/sys/fs/cgroup")
    docker, podman, cri, tree = make_sources(["auto"], places, 1.0)
    assert docker.is_there
    assert podman.is_there
    assert cri.is_there
    assert (tree.is_there, tree.is_tree) == (None, True)
    path.touch()
    assert not docker.is_there([])
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        assert docker.is_there([])
        assert podman.is_there([])
        assert not cri.is_there([container("web", runtime="docker")])
        assert cri.is_there([container("web", runtime="containerd")])
        assert cri.is_there([container("web", pod=POD)])


def test_make_sources() -> None:
    def made(*names: str, cri: tuple[str, ...] = ()) -> list[tuple[str, bool, str]]:
        places = Places("unix:///x", "unix:///y", cri, "/proc", "/sys/fs/cgroup")
        found = make_sources(names, places, 5.0)
        return [(one.name, one.is_there is None, one.make().name) for one in found]

    assert made("none") == []
    assert made("lxc", "docker", "docker") == [("docker", True, "docker"), ("lxc", True, "lxc")]
    assert made("podman") == [("podman", True, "podman")]
    assert made("cri", cri=("unix:///z",)) == [("cri", True, "cri")]
    assert made("cri") == [("cri", False, "cri")] * len(CRI_SOCKETS)
    assert [name for name, _, _ in made("auto", cri=("unix:///z",))] == ["docker", "podman", "cri", "cgroups"]
    with pytest.raises(ValueError, match="rkt is no runtime; there are auto, docker"):
        made("rkt")
