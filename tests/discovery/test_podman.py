"""podman behind its Docker-compatible socket, against what `podman inspect` says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.discovery.engineapi import EngineApi
from falcon_agent.discovery.feed import Feed
from falcon_agent.discovery.runtime import Change
from falcon_agent.errors import RuntimeAbsentError, RuntimeUnavailableError
from tests.discovery.looking import asked_path, find, watching
from tests.real.engine import wait_until
from tests.real.podman import BUSYBOX, Podman
from tests.real.unixserver import answer, serving

if TYPE_CHECKING:
    import socket
    import threading
    from collections.abc import Iterator

FIXTURES = Path(__file__).parents[1] / "fixtures/discovery"
SIDE = "7070098336a2fbd9335080df8d2faf0d06a65aa0ca618f95bb1a6f7313822511"


@pytest.fixture
def runtime(podman: Podman) -> Iterator[DockerRuntime]:
    runtime = DockerRuntime(podman.url, 30.0, "/proc", "podman")
    yield runtime
    runtime.close()


@pytest.mark.real
def test_what_is_known_of_a_container(podman: Podman, runtime: DockerRuntime) -> None:
    with podman.container("--name", "known.of_it-1", "--label", "app=shop", "--env", "MODE=a=b") as container:
        one = find(runtime)[container]
        told = podman.inspect(container)
    assert (one.name, one.runtime, one.pid) == ("known.of_it-1", "podman", told["State"]["Pid"])
    assert one.cgroup.path("memory") == one.cgroup.path("cpu") == told["State"]["CgroupPath"]
    assert one.cgroup.path("memory") == f"/libpod_parent/libpod-{container}"
    assert (one.image, one.labels, one.env["MODE"]) == (BUSYBOX, {"app": "shop"}, "a=b")
    assert (one.network_of, one.host_network, one.pause, one.paused) == (container, False, False, False)


@pytest.mark.real
def test_networks(podman: Podman, runtime: DockerRuntime) -> None:
    with (
        podman.container("--name", "own") as own,
        podman.container("--network", "none") as none,
        podman.container("--network", "host") as host,
        podman.container("--name", "guest", "--network", "container:own") as guest,
        podman.container("--network", "container:guest") as guest_of_guest,
        podman.container("--network", f"container:{host}") as guest_of_host,
    ):
        found = find(runtime)
        # podman keeps the namespace it made for a container at this path.
        assert found[own].netns == os.stat(podman.inspect(own)["NetworkSettings"]["SandboxKey"]).st_ino
        assert found[own].netns == found[guest].netns == found[guest_of_guest].netns != found[none].netns
        assert {one: found[one].network_of for one in found} == {
            own: own,
            none: none,
            host: host,
            guest: own,
            guest_of_guest: own,
            guest_of_host: host,
        }
        assert {one.id for one in found.values() if one.host_network} == {host, guest_of_host}


@pytest.mark.real
def test_a_pod_of_podman(podman: Podman, runtime: DockerRuntime) -> None:
    with podman.pod("shop") as infra:
        app = podman.run("--pod", "shop", "--name", "app")
        found = find(runtime)
        assert found[infra].name == podman.inspect(infra)["Name"]
        assert found[infra].name.endswith("-infra")
        assert [(found[one].network_of, found[one].pause, found[one].pod) for one in (infra, app)] == [
            (infra, False, None),
            (infra, False, None),
        ]
        assert found[app].netns == found[infra].netns
        for one in (infra, app):
            path = found[one].cgroup.path("memory")
            assert path == podman.inspect(one)["State"]["CgroupPath"]
            assert str(path).startswith(f"/{podman.name}/")


def test_the_container_child_of_other_cgroup_managers(tmp_path: Path) -> None:
    """With systemd as manager and cgroup v2 podman starts the first process one cgroup further down.

    Captured answers and a procfs made for them, since this needs systemd as PID 1 and cgroup v2.
    """
    answers = {
        "/containers/json": (FIXTURES / "podman-containers.json").read_bytes(),
        f"/containers/{SIDE}/json": (FIXTURES / "podman-container.json").read_bytes(),
    }
    pid = json.loads(answers[f"/containers/{SIDE}/json"])["State"]["Pid"]
    process = tmp_path / f"proc/{pid}"
    (process / "ns").mkdir(parents=True)
    (process / "ns/net").touch()
    (process / "stat").write_bytes(b"1 (sleep) S " + b" ".join(b"%d" % field for field in range(4, 53)))
    scope = f"/machine.slice/libpod-{SIDE}.scope"
    (process / "cgroup").write_text(f"0::{scope}/container\n")

    def handle(connection: socket.socket, _: threading.Event) -> None:
        path = asked_path(connection)
        connection.sendall(answer(answers[path]) if path in answers else answer(b"", "404 Not Found"))

    with serving(tmp_path / "s", handle) as url:
        (one,) = DockerRuntime(url, 30.0, str(tmp_path / "proc"), "podman").find().containers
    assert (one.name, one.pid, one.starttime, one.paused) == ("side", pid, 22, True)
    assert one.cgroup.path("memory") == scope


@pytest.mark.real
def test_changes_are_told_at_once_and_found(podman: Podman, runtime: DockerRuntime) -> None:
    listener = DockerRuntime(podman.url, 30.0, "/proc", "podman")
    with watching(listener) as told:
        wait_until(lambda: told == [Change()], "the stream has begun")

        def await_change(container: str, *, ended: bool = False) -> None:
            wait_until(lambda: Change(container, ended=ended) in told, "the change was told")
            told.clear()

        with podman.container("--name", "first-name") as container:
            await_change(container)
            before = find(runtime)[container]
            podman.cli("pause", container)
            await_change(container)
            assert find(runtime)[container].paused
            podman.cli("unpause", container)
            await_change(container)
            assert find(runtime)[container] == before
            podman.cli("rename", container, "second-name")
            await_change(container)
            renamed = find(runtime)[container]
            assert (renamed.name, renamed.key) == ("second-name", before.key)
            podman.cli("network", "connect", "second", container)
            await_change(container)
            podman.cli("network", "disconnect", "second", container)
            await_change(container)
            podman.cli("restart", "--time", "0", container)
            await_change(container, ended=True)
            wait_until(lambda: container in find(runtime), "it runs again")
            again = find(runtime)[container]
            assert (again.name, again.pid) == ("second-name", podman.inspect(container)["State"]["Pid"])
            assert again.key != before.key
            podman.cli("stop", "--time", "0", container)
            await_change(container, ended=True)
            assert container not in find(runtime)
        brief = podman.run(command=["true"])
        wait_until(lambda: Change(brief, ended=True) in told, "a natural end was told")


@pytest.mark.real
def test_the_service_is_killed_and_started_again(podman: Podman) -> None:
    runtime = DockerRuntime(podman.url, 30.0, "/proc", "podman")
    feed = Feed(runtime, resync=3600.0)
    with podman.container() as before:
        feed.start()
        try:
            feed.wait(20)
            (one,) = feed.containers()
            podman.kill_service()
            absent = "there is no such socket; is podman.socket enabled?"
            wait_until(lambda: absent in asked_again(feed), "its absence is noticed")
            assert feed.containers() == [one]
            assert not feed.state().ok
            with podman.container() as meanwhile:
                podman.start_service()
                # Only the new stream of events can tell: the next look by itself is an hour away.
                wait_until(lambda: {c.id for c in feed.containers()} == {before, meanwhile}, "both are known")
                assert one in feed.containers()
                assert feed.state().ok
        finally:
            feed.stop()


def asked_again(feed: Feed) -> str:
    feed.refresh()
    return feed.state().error


@pytest.mark.real
def test_a_hanging_service(podman: Podman, runtime: DockerRuntime) -> None:
    impatient = DockerRuntime(podman.url, 0.5, "/proc", "podman")

    def as_known() -> bool:
        try:
            return impatient.find().containers == list(known.values())
        except RuntimeUnavailableError:
            return False  # half a second may not be enough for an answer

    with podman.container() as container, watching(impatient) as told:
        wait_until(lambda: told, "the stream has begun")
        known = find(runtime)
        assert list(known) == [container]
        wait_until(as_known, "it answers in time")
        with (
            podman.hanging(),
            pytest.raises(RuntimeUnavailableError, match=r"no answer within 0\.5 s; podman's service hangs"),
        ):
            impatient.find()
        wait_until(as_known, "it answers again")


def test_no_socket(tmp_path: Path) -> None:
    words = "there is no such socket; is podman.socket enabled. systemctl enable --now podman.socket$"
    with pytest.raises(RuntimeAbsentError, match=words):
        DockerRuntime(f"unix://{tmp_path}/none", 30.0, "/proc", "podman").find()
    with pytest.raises(RuntimeAbsentError, match=r"is Docker installed and running\?$"):
        EngineApi(f"unix://{tmp_path}/none", 30.0).get("/x")
