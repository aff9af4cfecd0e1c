from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from falcon_agent.discovery.engineapi import EngineApi, NotFoundError, unix_path
from falcon_agent.errors import RuntimeUnavailableError
from tests.real.unixserver import answer, read_request, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.unixserver import Handler

LONG = 60.0
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def sending(*parts: bytes, then_wait: bool = False) -> Handler:
    def handle(connection: socket.socket, ended: threading.Event) -> None:
        read_request(connection)
        for part in parts:
            connection.sendall(part)
        if then_wait:
            ended.wait()

    return handle


def sending_for_ever(head: bytes, part: bytes, pause: float = 0.0) -> Handler:
    def handle(connection: socket.socket, ended: threading.Event) -> None:
        read_request(connection)
        connection.sendall(head)
        while not ended.wait(pause):
            connection.sendall(part)

    return handle


def test_answer(tmp_path: Path) -> None:
    asked = []

    def handle(connection: socket.socket, _: threading.Event) -> None:
        asked.append(read_request(connection))
        connection.sendall(answer(b"[]"))

    with serving(tmp_path / "s", handle) as url:
        assert EngineApi(url, LONG).get("/containers/json") == b"[]"
    assert asked == [b"GET /containers/json HTTP/1.1"]


def test_chunked_answer(tmp_path: Path) -> None:
    with serving(tmp_path / "s", sending(CHUNKED + b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n")) as url:
        assert EngineApi(url, LONG).get("/x") == b"[1]"


def test_answer_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                read_request(connection)
                connection.sendall(answer(b"{}"))

        thread = threading.Thread(target=serve)
        thread.start()
        assert EngineApi(f"tcp://127.0.0.1:{server.getsockname()[1]}", LONG).get("/x") == b"{}"
        thread.join()


def test_several_answers_come_in_order_each_with_its_own_error(tmp_path: Path) -> None:
    def handle(connection: socket.socket, _: threading.Event) -> None:
        path = read_request(connection).split()[1]
        status = {b"/gone": "404 Not Found", b"/bad": "500 Oh"}.get(path, "200 OK")
        connection.sendall(answer(path * (50 if path == b"/long" else 1), status))

    with serving(tmp_path / "s", handle) as url:
        found = list(EngineApi(url, LONG).get_each(["/1", "/gone", "/bad", "/long", "/2"], 100))
        assert list(EngineApi(url, LONG).get_each([])) == []
        assert list(EngineApi(url, LONG).get_each(["/1"])) == [b"/1"]
    assert [one if isinstance(one, bytes) else type(one) for one in found] == [
        b"/1",
        NotFoundError,
        RuntimeUnavailableError,
        RuntimeUnavailableError,
        b"/2",
    ]
    assert [str(found[index]).partition(": ")[2] for index in (2, 3)] == [
        "status 500 for /bad: /bad",
        "the answer to /long exceeds 100 bytes",
    ]


def test_the_engine_gets_the_next_request_before_an_answer_is_read(tmp_path: Path) -> None:
    second = threading.Event()

    def handle(connection: socket.socket, _: threading.Event) -> None:
        path = read_request(connection).split()[1]
        if path == b"/1":
            second.wait()
        else:
            second.set()
        connection.sendall(answer(path))

    with serving(tmp_path / "s", handle) as url:
        assert list(EngineApi(url, LONG).get_each(["/1", "/2"])) == [b"/1", b"/2"]


def test_one_that_hangs_does_not_take_the_time_of_the_next(tmp_path: Path) -> None:
    timed_out = threading.Event()

    def handle(connection: socket.socket, ended: threading.Event) -> None:
        path = read_request(connection).split()[1]
        (ended if path == b"/1" else timed_out).wait()
        connection.sendall(answer(path))

    with serving(tmp_path / "s", handle) as url:
        answers = EngineApi(url, 3.0).get_each(["/1", "/2"])
        assert "no answer within 3 s" in str(next(answers))
        timed_out.set()
        assert next(answers) == b"/2"


def test_who_wants_no_more_answers_hangs_up(tmp_path: Path) -> None:
    hung_up = threading.Event()

    def handle(connection: socket.socket, _: threading.Event) -> None:
        path = read_request(connection).split()[1]
        if path == b"/1":
            connection.sendall(answer(path))
        elif not connection.recv(1):
            hung_up.set()

    with serving(tmp_path / "s", handle) as url:
        answers = EngineApi(url, LONG).get_each(["/1", "/2", "/3"])
        assert next(answers) == b"/1"
        answers.close()
        assert hung_up.wait(20)


def test_several_from_where_nobody_listens(tmp_path: Path) -> None:
    found = list(EngineApi(f"unix://{tmp_path}/none", LONG).get_each(["/1", "/2"]))
    assert ["there is no such socket" in str(one) for one in found] == [True, True]


def test_socket_missing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"^cannot use unix://.*there is no such socket"):
        EngineApi(f"unix://{tmp_path}/none", LONG).get("/x")


def test_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))  # never listens, as after a crash
        with pytest.raises(RuntimeUnavailableError, match="connection refused; the daemon does not run"):
            EngineApi(f"unix://{tmp_path}/s", LONG).get("/x")


@pytest.mark.real
def test_permission_denied() -> None:
    program = """
import os, socket, tempfile
from falcon_agent.discovery.engineapi import EngineApi
directory = tempfile.TemporaryDirectory()
path = f"{directory.name}/s"
with socket.socket(socket.AF_UNIX) as server:
    server.bind(path)
    server.listen()
    os.chmod(directory.name, 0o755)
    os.chmod(path, 0o600)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setuid(65534)
        try:
            EngineApi(f"unix://{path}", 60).get("/x")
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("RuntimeDeniedError: cannot use unix://")
    assert "permission denied; run as root or in the group docker" in done.stdout


@pytest.mark.parametrize(
    "url", ["npipe:////./pipe/docker", "tcp://", "tcp://host", "tcp://host:x", "ssh://h", "x"]
)
def test_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match="cannot use"):
        EngineApi(url, LONG).get("/x")


@pytest.mark.parametrize(
    "handle",
    [
        sending(then_wait=True),
        sending(b"HTTP/1.1 200 OK\r\n", then_wait=True),
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", then_wait=True),
        sending_for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.01),
        sending_for_ever(CHUNKED, b"1\r\n[\r\n", 0.01),
        sending_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    ],
    ids=["silence", "half a head", "half a body", "dripping head", "dripping body", "never more than 100"],
)
def test_hanging_and_dripping(tmp_path: Path, handle: Handler) -> None:
    # The bytes come faster than the time limit: only a deadline for the whole answer ends this.
    words = r"no answer within 0\.3 s"
    with serving(tmp_path / "s", handle) as url, pytest.raises(RuntimeUnavailableError, match=words):
        EngineApi(url, 0.3).get("/x")


def test_a_full_queue_of_connections_is_a_hanging_daemon(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(tmp_path / "s"))
        with pytest.raises(RuntimeUnavailableError, match="the daemon hangs"):
            EngineApi(f"unix://{tmp_path}/s", 0.3).get("/x")


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        (sending(b"\x00\x01garbage\r\n\r\n"), "no HTTP"),
        (sending(b"SSH-2.0-OpenSSH_9.2\r\n"), "no HTTP"),
        (sending(b""), "it closed the connection before the answer was complete"),
        (sending_for_ever(b"", b"A" * 65536), "no HTTP"),
        (sending_for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000), "no HTTP"),
        (sending_for_ever(CHUNKED, b"A" * 65536), "no HTTP"),
        (sending(answer(b'{"message":"boom"}', "500 Oops")), 'status 500 for /x: {"message":"boom"}'),
        (sending(answer(b"", "204 No Content")), "status 204"),
        (sending(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 5000), "exceeds 4096 bytes"),
        (sending_for_ever(b"HTTP/1.0 200 OK\r\n\r\n", b"A" * 4096), "exceeds 4096 bytes"),
        (sending_for_ever(CHUNKED, b"1000\r\n" + b"A" * 4096 + b"\r\n"), "exceeds 4096 bytes"),
    ],
)
def test_garbage_and_floods(tmp_path: Path, handle: Handler, words: str) -> None:
    with serving(tmp_path / "s", handle) as url, pytest.raises(RuntimeUnavailableError, match=words):
        EngineApi(url, LONG).get("/x", limit=4096)


def test_the_environment_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    asked = []

    def handle(connection: socket.socket, _: threading.Event) -> None:
        asked.append(connection.recv(4096))
        connection.sendall(answer(b"[]"))

    with serving(tmp_path / "s", handle) as url:
        assert EngineApi(url, LONG).get("/x") == b"[]"
    assert asked[0].endswith(b"\r\n\r\n")
    assert b"Authorization" not in asked[0]


def test_a_redirection_is_not_followed(tmp_path: Path) -> None:
    handle = sending(b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")
    with serving(tmp_path / "s", handle) as url, pytest.raises(RuntimeUnavailableError, match="status 301"):
        EngineApi(url, LONG).get("/x")


def test_not_found_is_told_apart(tmp_path: Path) -> None:
    handle = sending(answer(b'{"message":"No such container"}', "404 Not Found"))
    with serving(tmp_path / "s", handle) as url, pytest.raises(NotFoundError, match="No such container"):
        EngineApi(url, LONG).get("/containers/1/json")


def test_the_end_of_a_stream_is_an_error(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "s", sending(CHUNKED, b"0\r\n\r\n")) as url,
        pytest.raises(RuntimeUnavailableError, match="ended the stream"),
    ):
        list(EngineApi(url, LONG).lines("/events", {}))


def collect(lines: Iterator[bytes]) -> list[bytes]:
    seen = []
    with contextlib.suppress(RuntimeUnavailableError):
        for line in lines:
            seen.append(line)  # noqa: PERF402  the error comes after the last line
    return seen


def test_lines_across_parts(tmp_path: Path) -> None:
    handle = sending(CHUNKED, b"3\r\na\nb\r\n", b"2\r\nc\n\r\n", b"1\r\nd\r\n0\r\n\r\n")
    with serving(tmp_path / "s", handle) as url:
        assert collect(EngineApi(url, LONG).lines("/events", {})) == [b"", b"a", b"bc"]


def test_a_line_without_end_is_an_error(tmp_path: Path) -> None:
    handle = sending_for_ever(b"HTTP/1.0 200 OK\r\n\r\n", b"A" * 4096)
    with (
        serving(tmp_path / "s", handle) as url,
        pytest.raises(RuntimeUnavailableError, match="a line of the answer to /events exceeds 8192 bytes"),
    ):
        for _ in EngineApi(url, LONG).lines("/events", {}, limit=8192):
            pass


def test_a_quiet_stream_outlives_the_time_limit(tmp_path: Path) -> None:
    def handle(connection: socket.socket, ended: threading.Event) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        ended.wait(3.5)
        connection.sendall(b"late\n")

    with serving(tmp_path / "s", handle) as url:
        assert collect(EngineApi(url, 3.0).lines("/events", {})) == [b"", b"late"]


@pytest.mark.parametrize("head", [b"", b"HTTP/1.0 200 OK\r\n\r\n"], ids=["no answer", "quiet stream"])
def test_close_from_another_thread_ends_what_waits(tmp_path: Path, head: bytes) -> None:
    accepted = threading.Event()

    def handle(connection: socket.socket, ended: threading.Event) -> None:
        read_request(connection)
        connection.sendall(head)
        accepted.set()
        ended.wait()

    with serving(tmp_path / "s", handle) as url:
        api = EngineApi(url, LONG)
        thread = threading.Thread(target=lambda: collect(api.lines("/events", {})), daemon=True)
        thread.start()
        accepted.wait()
        api.close()
        thread.join(20)
        assert not thread.is_alive()
        with pytest.raises(RuntimeUnavailableError):
            api.get("/x")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("unix:///var/run/docker.sock", "/var/run/docker.sock"),
        ("unix://var/run/docker.sock", "/var/run/docker.sock"),
        ("tcp://127.0.0.1:2375", None),
    ],
)
def test_unix_path(url: str, path: str | None) -> None:
    assert unix_path(url) == path
