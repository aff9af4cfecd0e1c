from __future__ import annotations

import json
import subprocess
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors.engine import EngineCollector
from falcon_agent.container import Census, Disk
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.errors import RuntimeUnavailableError
from tests.discovery.looking import asked_path
from tests.real import podman as podman_module
from tests.real.engine import BUSYBOX, call, wait_until
from tests.real.unixserver import answer, serving

if TYPE_CHECKING:
    import socket
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.engine import Engine
    from tests.real.podman import Podman

INFO = {"ContainersRunning": 1, "ContainersPaused": 0, "ContainersStopped": 0, "Images": 0}


def samples(*censuses: Census) -> dict[tuple[str, ...], float]:
    """By the metric's name and the values of its tags."""
    collector = EngineCollector(lambda: censuses)
    collector.begin([])
    found = {}
    for metric, value, tags in collector.collect(None):
        assert metric in collector.metrics
        assert tuple(key for key, _ in tags) == metric.tags
        found[metric.name.removeprefix("engine."), *(text for _, text in tags)] = value
    return found


def test_samples() -> None:
    disk = Disk(total_bytes=1000, used_bytes=300, free_bytes=600)
    assert samples(Census("docker", {"running": 3, "dead": 0}, 7, 2, disk)) == {
        ("containers", "docker", "running"): 3,
        ("containers", "docker", "dead"): 0,
        ("images", "docker"): 7,
        ("volumes", "docker"): 2,
        ("df.bytes.total", "docker"): 1000,
        ("df.bytes.used", "docker"): 300,
        ("df.bytes.free", "docker"): 600,
        ("df.bytes.used.percent", "docker"): 33.333,
    }


def test_several_engines_without_what_is_not_known() -> None:
    found = samples(Census("docker", {}, 1, 0, None), Census("podman", {}, 2, 0, Disk(0, 0, 0)))
    assert found[("images", "docker")] == 1
    assert found[("images", "podman")] == 2
    assert found[("df.bytes.total", "podman")] == 0
    assert ("df.bytes.total", "docker") not in found
    assert ("df.bytes.used.percent", "podman") not in found
    assert samples() == {}


@pytest.mark.real
def test_a_docker_engine(docker_engine: Engine) -> None:
    docker = docker_engine.cli
    volume = docker("volume", "create").strip()
    with docker_engine.container() as paused, docker_engine.container(command=("true",)) as exited:
        docker("pause", paused)
        docker("wait", exited)
        created = docker("create", BUSYBOX, "true").strip()
        failing = ("--restart", "always", "--name", "engine-restarts")
        restarting = docker("run", "--detach", *failing, BUSYBOX, "false").strip()
        try:
            runtime = DockerRuntime(docker_engine.url, 30.0, "/proc")
            seen: list[tuple[Counter[str], Census]] = []

            def stood_still() -> bool:
                before = states(docker_engine)
                seen.append((before, runtime.census()))
                return before["restarting"] == 1 and before == states(docker_engine)

            # It waits longer and longer between two attempts.
            wait_until(stood_still, "a container is restarting and nothing else changes", 60)
            runtime.close()
            before, census = seen[-1]
            assert census.runtime == "docker"
            assert {state: count for state, count in census.containers.items() if count} == before
            assert before.keys() >= {"paused", "exited", "created", "restarting"}
            assert census.containers["dead"] == census.containers["removing"] == 0
            assert census.images == len(docker("images", "--all", "--quiet").split()) >= 1
            assert census.volumes == len(docker("volume", "ls", "--quiet").split()) >= 1
            assert census.disk is not None
            df = call(["df", "--block-size=1", "--output=size", str(docker_engine.directory / "data")])
            assert census.disk.total_bytes == int(df.split()[-1])
        finally:
            docker_engine.rm(created, restarting)
            docker("volume", "rm", volume)


def states(engine: Engine) -> Counter[str]:
    return Counter(one["State"] for one in json.loads(engine.get("/containers/json?all=1")))


@pytest.mark.real
def test_podman(podman: Podman) -> None:
    with podman.container(), podman.container() as paused:
        podman.cli("pause", paused)
        created = podman.cli("create", podman_module.BUSYBOX, "true").strip()
        try:
            runtime = DockerRuntime(podman.url, 30.0, "/proc", "podman")
            census = runtime.census()
            runtime.close()
            listed = json.loads(podman.cli("ps", "--all", "--format", "json"))
            counted = Counter(one["State"] for one in listed)
            assert {state: count for state, count in census.containers.items() if count} == counted
            assert census.containers["created"] >= 1
            assert census.images == len(podman.cli("images", "--quiet").split())
            assert census.disk is not None
        finally:
            podman.rm(created)


@contextmanager
def engine_at(path: Path, root: str, volumes: bytes = b'{"Volumes": []}') -> Iterator[DockerRuntime]:
    """A server that answers as an engine with its data there: no real one would put it where a test likes."""
    answers = {
        "/info": json.dumps({**INFO, "DockerRootDir": root}).encode(),
        "/containers/json": b"[]",
        "/volumes": volumes,
    }

    def handle(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(answer(answers[asked_path(connection)]))

    with serving(path, handle) as url:
        runtime = DockerRuntime(url, 30.0, "/proc")
        yield runtime
        runtime.close()


@pytest.mark.real
def test_a_disk_against_df(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    call(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)])
    try:
        (disk / "image").write_bytes(bytes(3_000_000))
        with engine_at(tmp_path / "s", str(disk)) as runtime:
            found = samples(runtime.census())
        argv = ["df", "--block-size=1", "--output=size,used,avail,pcent", str(disk)]
        df = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[-4:]
    finally:
        call(["umount", str(disk)])
    told = [str(found[f"df.bytes.{name}", "docker"]) for name in ("total", "used", "free")]
    assert told == df[:3]
    # df rounds up.
    assert int(df[3].rstrip("%")) - 1 < found["df.bytes.used.percent", "docker"] <= int(df[3].rstrip("%"))


@pytest.mark.parametrize("root", ["", "relative", "/nowhere/at/all"])
def test_a_disk_that_is_not_to_be_seen(tmp_path: Path, root: str) -> None:
    with engine_at(tmp_path / "s", root) as runtime:
        assert runtime.census().disk is None


def test_an_answer_of_another_form(tmp_path: Path) -> None:
    with (
        engine_at(tmp_path / "s", "/", b"[]") as runtime,
        pytest.raises(RuntimeUnavailableError, match="volumes"),
    ):
        runtime.census()
