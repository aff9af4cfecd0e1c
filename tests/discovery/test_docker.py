from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.discovery.runtime import Change
from falcon_agent.errors import RuntimeUnavailableError
from tests.discovery.looking import asked_path, find, record, watching
from tests.real.engine import BUSYBOX, wait_until
from tests.real.unixserver import answer, read_request, serving

if TYPE_CHECKING:
    import socket
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.engine import Engine

ID = "3f4c0a1b" * 8
OTHER = "5e6d7c8b" * 8
THIRD = "7a8b9cad" * 8


@pytest.fixture
def runtime(docker_engine: Engine) -> Iterator[DockerRuntime]:
    runtime = DockerRuntime(docker_engine.url, 30.0, "/proc")
    yield runtime
    runtime.close()


@pytest.mark.real
def test_what_is_known_of_a_container(docker_engine: Engine, runtime: DockerRuntime) -> None:
    options = ("--name", "known.of_it-1", "--label", "app=shop", "--env", "MODE=a=b")
    with docker_engine.container(*options) as container:
        one = find(runtime)[container]
        pid = docker_engine.pid(container)
        assert (one.name, one.runtime, one.pid, one.image) == ("known.of_it-1", "docker", pid, BUSYBOX)
        assert (one.labels, one.env) == ({"app": "shop"}, {"MODE": "a=b"})
        assert one.netns == os.stat(f"/proc/{pid}/ns/net").st_ino
        assert one.cgroup.path("memory") == docker_engine.cgroup(container)
        assert (one.network_of, one.host_network, one.pause, one.pod) == (container, False, False, None)


@pytest.mark.real
def test_odd_labels(docker_engine: Engine, runtime: DockerRuntime) -> None:
    labels = {
        "quote": '"',
        "comma, space": "no",
        "equals": "a=b=c",
        "lines": "a\nb\r\tc",
        "emoji": "🙂\u202e",
        "long": "x" * 30_000,
        "": "empty key",
        "zero": "\x00\x1b[31m",
    }
    body = {"Image": BUSYBOX, "Cmd": ["sleep", "1000"], "Labels": labels, "HostConfig": {"Init": True}}
    # The command line refuses some of these; the API takes them.
    container = docker_engine.create(json.dumps(body).encode())
    try:
        assert find(runtime)[container].labels == labels
    finally:
        docker_engine.rm(container)


@pytest.mark.real
def test_networks(docker_engine: Engine, runtime: DockerRuntime) -> None:
    with (
        docker_engine.container() as own,
        docker_engine.container("--network", "none") as none,
        docker_engine.container("--network", "host") as host,
        docker_engine.container("--network", f"container:{own}", "--name", "guest-of-own") as guest,
        docker_engine.container("--network", "container:guest-of-own") as guest_of_guest,
        docker_engine.container("--network", f"container:{host}") as guest_of_host,
    ):
        found = find(runtime)
        assert found[none].network_of == none
        assert found[guest].network_of == found[guest_of_guest].network_of == own
        assert found[guest].netns == found[guest_of_guest].netns == found[own].netns != found[none].netns
        assert found[guest_of_host].network_of == host
        on_host = {one.id for one in found.values() if one.host_network}
        assert on_host & {own, none, host, guest, guest_of_guest, guest_of_host} == {host, guest_of_host}


@pytest.mark.real
def test_stop_start_rename_pause(docker_engine: Engine, runtime: DockerRuntime) -> None:
    with docker_engine.container("--name", "first-name") as container:
        before = find(runtime)[container]
        docker_engine.cli("pause", container)
        assert find(runtime)[container] == replace(before, paused=True)
        docker_engine.cli("unpause", container)
        assert find(runtime)[container] == before
        docker_engine.cli("rename", container, "second-name")
        assert find(runtime)[container].name == "second-name"
        docker_engine.cli("restart", "--time", "1", container)
        after = find(runtime)[container]
        assert after.pid != before.pid
        assert after.key != before.key
        docker_engine.cli("stop", "--time", "1", container)
        assert container not in find(runtime)


@pytest.mark.real
def test_the_same_name_again_is_another_container(docker_engine: Engine, runtime: DockerRuntime) -> None:
    with docker_engine.container("--name", "again") as first:
        assert find(runtime)[first].name == "again"
    with docker_engine.container("--name", "again") as second:
        found = find(runtime)
        assert first not in found
        assert found[second].name == "again"


@pytest.mark.real
def test_known_containers_are_not_described_again(docker_engine: Engine, tmp_path: Path) -> None:
    with docker_engine.container() as container:
        answers = record(docker_engine, container)
        asked: list[str] = []

        def handle(connection: socket.socket, _: threading.Event) -> None:
            asked.append(asked_path(connection))
            connection.sendall(answers[asked[-1]])

        with serving(tmp_path / "s", handle) as url:
            runtime = DockerRuntime(url, 30.0, "/proc")
            assert [one.id for one in runtime.find().containers] == [container]
            assert [one.id for one in runtime.find().containers] == [container]
    assert asked == ["/containers/json", f"/containers/{container}/json", "/containers/json"]


def listing(*ids: str) -> bytes:
    return answer(json.dumps([{"Id": one, "Names": [f"/{one[:4]}"]} for one in ids]).encode())


def details(pid: int) -> bytes:
    return answer(json.dumps({"State": {"Pid": pid}, "Config": {}}).encode())


@pytest.mark.real
def test_a_container_that_dies_between_list_and_description(docker_engine: Engine, tmp_path: Path) -> None:
    with docker_engine.container() as container:
        answers = record(docker_engine, container)
        pid = docker_engine.pid(container)
    answers[f"/containers/{OTHER}/json"] = answer(b'{"message":"No such container"}', "404 Not Found")
    answers[f"/containers/{THIRD}/json"] = details(0)
    answers["/containers/json"] = listing(container, OTHER, THIRD)

    def handle(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(answers[asked_path(connection)])

    with serving(tmp_path / "s", handle) as url:
        found = DockerRuntime(url, 30.0, "/proc").find()
    assert found.containers == []
    assert {one.id: one.reason for one in found.left_out} == {
        container: "gone: No such file or directory",
        THIRD: "gone: it does not run (any more)",
    }
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.real
def test_a_pid_that_was_used_again(tmp_path: Path) -> None:
    def handle(connection: socket.socket, _: threading.Event) -> None:
        described = asked_path(connection) != "/containers/json"
        connection.sendall(details(os.getpid()) if described else listing(ID))

    with serving(tmp_path / "s", handle) as url:
        found = DockerRuntime(url, 30.0, "/proc").find()
    assert found.containers == []
    assert "the pid was used again" in found.left_out[0].reason


@pytest.mark.real
def test_one_stuck_container_does_not_hide_the_others(docker_engine: Engine, tmp_path: Path) -> None:
    with docker_engine.container() as container:
        answers = record(docker_engine, container)
        answers["/containers/json"] = listing(ID, container)

        def handle(connection: socket.socket, ended: threading.Event) -> None:
            path = asked_path(connection)
            if path in answers:
                connection.sendall(answers[path])
            else:
                ended.wait()

        with serving(tmp_path / "s", handle) as url:
            found = DockerRuntime(url, 3.0, "/proc").find()
    assert [one.id for one in found.containers] == [container]
    assert [(one.id, "the daemon hangs" in one.reason) for one in found.left_out] == [(ID, True)]


def test_a_daemon_that_gets_stuck_is_not_waited_for_again_and_again(tmp_path: Path) -> None:
    ids = [f"{number:064x}" for number in range(50)]
    asked = []

    def handle(connection: socket.socket, ended: threading.Event) -> None:
        asked.append(read_request(connection))
        if len(asked) == 1:
            connection.sendall(listing(*ids))
        else:
            ended.wait()

    with serving(tmp_path / "s", handle) as url:
        found = DockerRuntime(url, 2.0, "/proc").find()
    # The list, two that were waited for, and one more may have been asked for meanwhile.
    assert 3 <= len(asked) <= 4
    assert [one.id for one in found.left_out] == ids


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b'{"message": "x"}', b"[{}]", b"<html>", b"[" * 9999, b"[1, 2"],
    ids=lambda body: body[:9],
)
def test_garbage_for_a_listing(tmp_path: Path, body: bytes) -> None:
    def handle(connection: socket.socket, _: threading.Event) -> None:
        read_request(connection)
        connection.sendall(answer(body))

    with (
        serving(tmp_path / "s", handle) as url,
        pytest.raises(
            RuntimeUnavailableError, match=r"^cannot use unix://.*: cannot parse the engine's list"
        ),
    ):
        DockerRuntime(url, 30.0, "/proc").find()


def test_garbage_for_a_description_leaves_out_one_container(tmp_path: Path) -> None:
    def handle(connection: socket.socket, _: threading.Event) -> None:
        described = asked_path(connection) != "/containers/json"
        connection.sendall(answer(b'{"State": []}') if described else listing(ID, OTHER))

    with serving(tmp_path / "s", handle) as url:
        found = DockerRuntime(url, 30.0, "/proc").find()
    assert [one.id for one in found.left_out] == [ID, OTHER]
    assert "cannot parse the engine's description" in found.left_out[0].reason


def test_an_id_that_is_none_never_becomes_part_of_a_request(tmp_path: Path) -> None:
    asked = []

    def handle(connection: socket.socket, _: threading.Event) -> None:
        asked.append(read_request(connection))
        connection.sendall(listing("../../etc", "a b", ID[:-1], f"{ID}\r\nX: y"))

    with serving(tmp_path / "s", handle) as url:
        assert DockerRuntime(url, 30.0, "/proc").find().containers == []
    assert len(asked) == 1


def test_networks_that_refer_to_each_other_end(tmp_path: Path) -> None:
    from falcon_agent.discovery.docker import _network_of  # noqa: PLC0415

    modes = {"a": "container:b", "b": "container:a", "c": "container:gone", "d": "container:", "e": "bridge"}
    assert _network_of("a", modes) in {"a", "b"}
    assert [_network_of(one, modes) for one in "cde"] == ["gone", "d", "e"]


@pytest.mark.real
def test_events(docker_engine: Engine, runtime: DockerRuntime) -> None:
    with watching(runtime) as told:
        wait_until(lambda: told == [Change()], "the stream has begun")
        with docker_engine.container("--label", "odd=a\nb") as container:
            docker_engine.exec(container, "true")
            docker_engine.cli("rename", container, "renamed-by-test")
        wait_until(lambda: Change(container, ended=True) in told, "the end was told")
    connected, started, renamed = [Change(container)] * 3
    assert told[:5] == [Change(), connected, started, renamed, Change(container, ended=True)]


@pytest.mark.real
def test_watch_ends_although_the_daemon_hangs(docker_engine: Engine, runtime: DockerRuntime) -> None:
    with watching(runtime) as told:
        wait_until(lambda: told, "the stream has begun")
        with docker_engine.hanging():
            runtime.close()
    with docker_engine.hanging():
        late = DockerRuntime(docker_engine.url, 60.0, "/proc")
        with watching(late) as told:
            pass
        assert told == []


def test_a_stream_of_garbage_is_left_and_tried_again(tmp_path: Path) -> None:
    streams = []

    def handle(connection: socket.socket, ended: threading.Event) -> None:
        streams.append(read_request(connection))
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        while not ended.is_set():
            connection.sendall(b"garbage\n" * 1000)

    began = time.monotonic()
    with serving(tmp_path / "s", handle) as url, watching(DockerRuntime(url, 30.0, "/proc")) as told:
        wait_until(lambda: len(streams) >= 2, "it connects again")
        wait_until(lambda: len(told) >= 2, "it was told so")
    assert set(told) == {Change()}
    # Half a second after the first one, and twice as long after each further one.
    assert time.monotonic() - began > 0.45 * (2 ** (len(told) - 1) - 1)
