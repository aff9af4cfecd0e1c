"""Our gRPC client against grpcio's server where that can do it, and scripted HTTP/2 where it is to misbehave."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falcon_agent.discovery import crirpc
from falcon_agent.discovery.crirpc import DEADLINE_EXCEEDED, NOT_FOUND, UNIMPLEMENTED, Rpc, StatusError
from falcon_agent.errors import RuntimeAbsentError, RuntimeUnavailableError
from tests.real.unixserver import read_request, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.unixserver import Handler

LONG = 60.0
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
FINE = [("grpc-status", "0")]
METHOD = "test.Service/Do"


@contextlib.contextmanager
def client(url: str, timeout: float = LONG) -> Iterator[Rpc]:
    rpc = Rpc(url, timeout)
    try:
        yield rpc
    finally:
        rpc.hang_up()


# A real server


class Service(grpc.GenericRpcHandler):
    """Answers with what the test says, whatever the method."""

    def __init__(self, answer: Callable[[bytes, grpc.ServicerContext], Any], *, stream: bool = False) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._answer = answer
        self._stream = stream

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        self.asked.append((handler_call_details.method, dict(handler_call_details.invocation_metadata)))
        make = grpc.unary_stream_rpc_method_handler if self._stream else grpc.unary_unary_rpc_method_handler
        return make(self._answer)


@contextlib.contextmanager
def grpc_server(path: Path, service: Service) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), [service])
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        yield f"unix://{path}"
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("size", [0, 1, 100, 65_535, 70_000, 3_000_000])
def test_answers_of_every_size(tmp_path: Path, size: int) -> None:
    # Larger ones need both windows of the flow control to be opened again and again.
    service = Service(lambda request, _: request * size)
    with grpc_server(tmp_path / "s", service) as url:
        with client(url) as rpc:
            assert rpc.call(METHOD, b"x") == b"x" * size
            # Over the same connection.
            assert [rpc.call(METHOD, b"y") for _ in range(3)] == [b"y" * size] * 3
        assert rpc.call(METHOD, b"") == b""
        rpc.hang_up()
    assert {method for method, _ in service.asked} == {f"/{METHOD}"}


def test_many_calls_over_one_connection(tmp_path: Path) -> None:
    with grpc_server(tmp_path / "s", Service(lambda request, _: request)) as url, client(url) as rpc:
        for number in range(2000):
            assert rpc.call(METHOD, b"%d" % number * 40) == b"%d" % number * 40


def test_a_server_that_was_started_anew(tmp_path: Path) -> None:
    with client(f"unix://{tmp_path}/s") as rpc:
        for _ in range(3):
            with grpc_server(tmp_path / "s", Service(lambda request, _: request)):
                assert rpc.call(METHOD, b"x") == b"x"
            # Where there is time the server says first that it will.
            with pytest.raises(RuntimeUnavailableError, match=r"it close[ds] the connection"):
                rpc.call(METHOD, b"x")


def test_the_server_gives_up_when_we_do(tmp_path: Path) -> None:
    left = []

    def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
        left.append(context.time_remaining())
        return b""

    with grpc_server(tmp_path / "s", Service(answer)) as url, client(url, 62.5) as rpc:
        rpc.call(METHOD, b"")
    assert 0 < left[0] <= 62.5


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.NOT_FOUND, NOT_FOUND),
        (grpc.StatusCode.UNIMPLEMENTED, UNIMPLEMENTED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DEADLINE_EXCEEDED),
    ],
)
def test_a_status(tmp_path: Path, code: grpc.StatusCode, status: int) -> None:
    def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(code, "no such thing: 100% \N{SNOWMAN}\n\x1b[31m" + "x" * 9999)
        raise AssertionError

    with grpc_server(tmp_path / "s", Service(answer)) as url, client(url) as rpc:
        with pytest.raises(StatusError) as caught:
            rpc.call(METHOD, b"")
        assert caught.value.status == status
        words = str(caught.value)
        assert words.startswith(
            f"cannot use {url}: status {status} for {METHOD}: no such thing: 100% \N{SNOWMAN}  [31mxxx"
        )
        assert len(words) < 500
        with pytest.raises(StatusError):
            rpc.call(METHOD, b"")


def test_a_stream(tmp_path: Path) -> None:
    go_on = threading.Event()

    def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield request
        go_on.wait(20)
        yield b""
        yield b"x" * 200_000

    with grpc_server(tmp_path / "s", Service(answer, stream=True)) as url, client(url, 3.0) as rpc:
        messages = rpc.stream(METHOD, b"begin")
        assert {next(messages), next(messages)} == {None, b"begin"}
        # A quiet stream outlives the time limit of an answer.
        threading.Timer(3.5, go_on.set).start()
        assert list(messages) == [b"", b"x" * 200_000]


def test_a_stream_that_says_nothing_has_begun_all_the_same(tmp_path: Path) -> None:
    ended = threading.Event()

    def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        ended.wait(20)
        yield from ()

    with grpc_server(tmp_path / "s", Service(answer, stream=True)) as url, client(url) as rpc:
        messages = rpc.stream(METHOD, b"")
        assert next(messages) is None
        ended.set()
        assert list(messages) == []


def test_a_limit(tmp_path: Path) -> None:
    with grpc_server(tmp_path / "s", Service(lambda request, _: request)) as url, client(url) as rpc:
        assert rpc.call(METHOD, b"x" * 4096, limit=4096) == b"x" * 4096
        with pytest.raises(
            RuntimeUnavailableError, match=r"the answer to test.Service/Do exceeds 4096 bytes"
        ):
            rpc.call(METHOD, b"x" * 4097, limit=4096)
        # Afterwards it is as good as new.
        assert rpc.call(METHOD, b"y") == b"y"


def test_compression_that_nobody_asked_for(tmp_path: Path) -> None:
    # grpcio itself would not do so: it compresses only what the client says it can read.
    def script(http: H2Connection, stream: int) -> None:
        http.send_headers(stream, HEAD)
        http.send_data(stream, b"\1" + (3).to_bytes(4) + b"abc")

    expect(tmp_path, script, "is compressed, which nobody asked for")


# Servers that misbehave

Script: TypeAlias = "Callable[[H2Connection, int], object]"


def speaking(script: Script, *, then_wait: bool = False) -> Handler:
    """HTTP/2 up to the end of each request; then what the script does."""

    def handle(connection: socket.socket, ended: threading.Event) -> None:
        http = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
        http.initiate_connection()
        connection.sendall(http.data_to_send())
        while content := connection.recv(65536):
            try:
                events = http.receive_data(content)
            except ProtocolError:
                return  # it has said goodbye
            for event in events:
                if isinstance(event, DataReceived) and event.flow_controlled_length:
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if isinstance(event, StreamEnded):
                    script(http, event.stream_id)
            connection.sendall(http.data_to_send())
            if then_wait:
                ended.wait()

    return handle


def expect(
    tmp_path: Path, script: Script | None, words: str, handle: Handler | None = None, limit: int = 4096
) -> None:
    handle = handle or speaking(script or (lambda http, stream: None))
    with serving(tmp_path / "s", handle) as url, client(url) as rpc:
        with pytest.raises(RuntimeUnavailableError, match=words) as caught:
            rpc.call(METHOD, b"x", limit=limit)
        assert str(caught.value).startswith(f"cannot use {url}: ")


def framed(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4) + content


def answering(
    *parts: bytes, head: list[tuple[str, str]] = HEAD, trailers: list[tuple[str, str]] | None = FINE
) -> Script:
    def script(http: H2Connection, stream: int) -> None:
        http.send_headers(stream, head, end_stream=not parts and trailers is None)
        for number, part in enumerate(parts):
            http.send_data(stream, part, end_stream=trailers is None and number == len(parts) - 1)
        if trailers is not None:
            http.send_headers(stream, trailers, end_stream=True)

    return script


def test_the_script_itself_is_understood(tmp_path: Path) -> None:
    whole = framed(b"abc")
    with (
        serving(tmp_path / "s", speaking(answering(whole[:2], whole[2:6], whole[6:]))) as url,
        client(url) as rpc,
    ):
        assert [rpc.call(METHOD, b"x"), rpc.call(METHOD, b"x")] == [b"abc", b"abc"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (answering(head=[*HEAD, ("grpc-status", "12")], trailers=None), r"status 12 for test\.Service/Do: $"),
        (answering(head=[(":status", "404")], trailers=None), "HTTP status 404 for test.Service/Do"),
        (answering(framed(b"a"), trailers=None), "has no status of gRPC"),
        (answering(framed(b"a"), trailers=[("grpc-status", "zero")]), "has no status of gRPC"),
        (answering(framed(b"a"), trailers=[("x", "y")]), "has no status of gRPC"),
        (answering(), "it answers nothing"),
        (answering(framed(b"a"), framed(b"b")), "it answers test.Service/Do more than once"),
        (answering(framed(b"abc")[:-1]), "ended within a message"),
        (answering(b"\0\0"), "ended within a message"),
        (answering(b"\0\xff\xff\xff\xff"), "exceeds 4096 bytes"),
        (answering(b"\1\0\0\0\0"), "is compressed"),
        (
            lambda http, stream: http.reset_stream(stream, 11),
            "it broke off the answer to .*ENHANCE_YOUR_CALM",
        ),
        (
            lambda http, stream: http.close_connection(2, b"go\x1b away"),
            "it closes the connection .*INTERNAL_ERROR.*: go  away",
        ),
    ],
)
def test_answers_that_are_none(tmp_path: Path, script: Script, words: str) -> None:
    expect(tmp_path, script, words)


def sending(content: bytes, *, for_ever: bool = False) -> Handler:
    def handle(connection: socket.socket, ended: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(content)
        while for_ever and not ended.is_set():
            connection.sendall(content)

    return handle


SETTINGS = b"\0\0\0\4\0\0\0\0\0"
GOAWAY = b"\0\0\x0b\7\0\0\0\0\0" + b"\0\0\0\0" * 2 + b"bye"
PING = b"\0\0\x08\6\0\0\0\0\0" + b"12345678"


def http_1(connection: socket.socket, _: threading.Event) -> None:
    """What Docker's socket says."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n400 Bad Request")


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        (http_1, r"does not speak HTTP/2; is it the socket of containerd or CRI-O\?"),
        (sending(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak HTTP/2|closed the connection"),
        (sending(b""), "it closed the connection; it stopped, or does not speak gRPC"),
        (sending(SETTINGS), "it closed the connection; it stopped, or does not speak gRPC"),
        (sending(SETTINGS + GOAWAY + PING, for_ever=True), "it closed the connection; it stopped"),
        (sending(b"A" * 65536, for_ever=True), "does not speak HTTP/2"),
        (sending(SETTINGS + b"\xff" * 65536, for_ever=True), "does not speak HTTP/2"),
        # Headers that never end: a HEADERS frame, then CONTINUATION for ever.
        (sending(SETTINGS + b"\0\0\0\1\0\0\0\0\1" + b"\0\0\0\x09\0\0\0\0\1" * 9999), "does not speak HTTP/2"),
    ],
)
def test_garbage_and_floods(tmp_path: Path, handle: Handler, words: str) -> None:
    expect(tmp_path, None, words, handle)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 12), st.integers(0, 255), st.sampled_from([0, 1, 2, 3]), st.binary(max_size=40)
        )
    )
)
def test_any_frames_give_an_error_of_ours(frames: list[tuple[int, int, int, bytes]]) -> None:
    # Over a pair of sockets, for speed: nothing listens.
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(SETTINGS)
        for kind, flags, stream, content in frames:
            head = struct.pack("!I", len(content))[1:] + bytes([kind, flags]) + struct.pack("!I", stream)
            theirs.sendall(head + content)
        theirs.shutdown(socket.SHUT_WR)
        rpc = Rpc("unix:///nowhere", LONG)
        rpc._connection = crirpc._Connection(ours)
        with pytest.raises(RuntimeUnavailableError, match=r"^cannot use "):
            rpc.call(METHOD, b"x")
        rpc.hang_up()


def dripping(frame: Callable[[H2Connection, int], object]) -> Handler:
    """A whole frame every now and then, always in time, never the end."""

    def handle(connection: socket.socket, ended: threading.Event) -> None:
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        streams: list[int] = []
        while not ended.wait(0.01):
            connection.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                for event in http.receive_data(connection.recv(65536)):
                    if isinstance(event, RequestReceived):
                        streams.append(event.stream_id)
                        http.send_headers(event.stream_id, HEAD)
            connection.settimeout(None)
            for stream in streams:
                frame(http, stream)
            connection.sendall(http.data_to_send())

    return handle


def begin_answering(http: H2Connection, stream: int) -> None:
    http.send_headers(stream, HEAD)
    http.send_data(stream, framed(b"abc")[:6])


def silence(connection: socket.socket, ended: threading.Event) -> None:
    ended.wait()


@pytest.mark.parametrize(
    "handle",
    [
        silence,
        speaking(lambda http, stream: None, then_wait=True),
        speaking(lambda http, stream: http.send_headers(stream, HEAD), then_wait=True),
        speaking(begin_answering, then_wait=True),
        dripping(lambda http, stream: http.send_data(stream, b"\0\0\0\x0f\xff")),
        dripping(lambda http, stream: http.ping(b"12345678")),
        dripping(lambda http, stream: http.update_settings({4: 65535})),
    ],
    ids=["silence", "no answer", "half an answer", "half a message", "dripping", "pings", "settings"],
)
def test_hanging_and_dripping(tmp_path: Path, handle: Handler) -> None:
    # The bytes come faster than the time limit: only a deadline for the whole answer ends this.
    with serving(tmp_path / "s", handle) as url, client(url, 0.3) as rpc:
        with pytest.raises(RuntimeUnavailableError, match=r"no answer within 0\.3 s; the daemon hangs"):
            rpc.call(METHOD, b"x")
        with pytest.raises(RuntimeUnavailableError, match=r"no answer within 0\.3 s; the daemon hangs"):
            # Again: the call that failed left nothing that the next one would trip over.
            rpc.call(METHOD, b"x")


def test_a_stream_that_does_not_begin(tmp_path: Path) -> None:
    words = r"no answer within 0\.3 s; the daemon hangs"
    with (
        serving(tmp_path / "s", silence) as url,
        client(url, 0.3) as rpc,
        pytest.raises(RuntimeUnavailableError, match=words),
    ):
        next(rpc.stream(METHOD, b"x"))


def test_a_full_queue_of_connections_is_a_hanging_daemon(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(tmp_path / "s"))
        with pytest.raises(RuntimeUnavailableError, match="the daemon hangs"):
            Rpc(f"unix://{tmp_path}/s", 0.3).call(METHOD, b"")


# No server


def test_socket_missing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeAbsentError, match=r"^cannot use unix://.*there is no such socket"):
        Rpc(f"unix://{tmp_path}/none", LONG).call(METHOD, b"")


def test_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))  # never listens, as after a crash
        with pytest.raises(
            RuntimeUnavailableError, match="connection refused; the daemon does not run"
        ) as caught:
            Rpc(f"unix://{tmp_path}/s", LONG).call(METHOD, b"")
    assert not isinstance(caught.value, RuntimeAbsentError)


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:1", "unix://relative", "x", "unix:///" + "y" * 200])
def test_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match="cannot use"):
        Rpc(url, LONG).call(METHOD, b"")


@pytest.mark.real
def test_permission_denied() -> None:
    program = """
import os, socket, tempfile
from falcon_agent.discovery.crirpc import Rpc
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
            Rpc(f"unix://{path}", 60).call("a/b", b"")
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("RuntimeDeniedError: cannot use unix://")
    assert "permission denied; run as root" in done.stdout


# From another thread


@pytest.mark.parametrize("stream", [False, True], ids=["call", "stream"])
def test_close_ends_what_waits(tmp_path: Path, *, stream: bool) -> None:
    asked = threading.Event()
    ended = []

    def ask(rpc: Rpc) -> None:
        with contextlib.suppress(RuntimeUnavailableError):
            for _ in rpc.stream(METHOD, b"") if stream else [rpc.call(METHOD, b"")]:
                pass
        ended.append(True)

    with serving(tmp_path / "s", speaking(lambda http, number: asked.set())) as url, client(url) as rpc:
        thread = threading.Thread(target=ask, args=(rpc,), daemon=True)
        thread.start()
        assert asked.wait(20)
        rpc.close()
        thread.join(20)
        assert ended
        with pytest.raises(RuntimeUnavailableError):
            rpc.call(METHOD, b"")
