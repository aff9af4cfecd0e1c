from __future__ import annotations

import http.client
import socket
import threading
from contextlib import suppress

import pytest

from falcon_agent.transfer import receiver as module
from falcon_agent.transfer.receiver import Handler, Push, Receiver, ReceiverError
from tests.transfer.pushing import until
from tests.transfer.serving import ITEM, Running, body, counts, serving

# What is shown.


def test_a_push_is_shown_with_the_fate_of_each_item(running: Running) -> None:
    running.post(body(ITEM, ITEM, {**ITEM, "metric": ""}))
    push = running.push()
    assert (push.path, push.status, push.client.split(":")[0]) == ("/api/push", 200, "127.0.0.1")
    assert [verdict.outcome for _, verdict in push.items] == ["ok", "dropped", "invalid"]
    assert counts(push.answer.encode()) == (3, 1)


def test_requests_that_are_no_push_are_shown_too(running: Running) -> None:
    running.post(body(ITEM), "/api/pusch")
    assert (running.push().path, running.push().status, running.push().items) == ("/api/pusch", 404, ())


def test_pushes_are_shown_in_order() -> None:
    with serving() as running:
        for number in range(100):
            running.post(body({**ITEM, "value": number}))
        with running.shown:
            assert running.shown.wait_for(lambda: len(running.pushes) == 100, 30)
        assert [push.items[0][0]["value"] for push in running.pushes] == list(range(100))


@pytest.mark.parametrize("attempt", range(10))
def test_a_client_has_its_answer_before_the_last_push_ends_the_server(attempt: int) -> None:
    server = Receiver(("127.0.0.1", 0), lambda _: server.stopped.set())
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("POST", "/api/push", b"[]")
    assert connection.getresponse().status == 200
    connection.close()
    thread.join(30)
    assert not thread.is_alive()


def test_when_showing_fails_the_server_ends_with_that_error() -> None:
    failing = OSError("nobody reads this")
    caught: list[OSError] = []

    def fail(push: Push) -> None:
        raise failing

    def serve() -> None:
        try:
            server.serve_until_stopped()
        except OSError as error:
            caught.append(error)

    server = Receiver(("127.0.0.1", 0), fail)
    thread = threading.Thread(target=serve)
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("POST", "/api/push", b"[]")
    assert connection.getresponse().status == 200
    connection.close()
    thread.join(30)
    assert caught == [failing]


# Hostile and unlucky clients.


@pytest.mark.parametrize(
    "length", [b"99999999999", b"67108865", b"-5", b"+5", b"1e3", "²".encode(), b"9" * 5000, b"x"]
)
def test_a_length_that_is_too_large_or_none(running: Running, length: bytes) -> None:
    answer = running.raw(b"POST /api/push HTTP/1.1\r\nHost: h\r\nContent-Length: " + length + b"\r\n\r\n[]")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"cannot read the body" in answer


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"-1\r\n", b"ffffffffffff\r\n", b"", b"1\r\n", b"x" * 5000])
def test_bad_chunks(running: Running, chunks: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.server.server_port), 30) as connection:
        connection.sendall(
            b"POST /api/push HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        )
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_chunks_are_bounded_together(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 10)
    answer = running.raw(
        b"POST /api/push HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n      \r\n6\r\n"
    )
    assert b"larger than 10 bytes" in answer


def test_a_body_that_ends_early(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.server.server_port), 30) as connection:
        connection.sendall(b"POST /api/push HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n[")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_hangs_is_cut_off_and_blocks_nobody() -> None:
    hanging: set[int] = set()

    class Impatient(Handler):
        def setup(self) -> None:
            super().setup()
            # Only with those that do hang: others may be slow on a busy machine.
            if self.client_address[1] in hanging:
                self.connection.settimeout(Handler.timeout / 50)

    def connected() -> socket.socket:
        made = socket.socket()
        made.settimeout(30)
        made.bind(("127.0.0.1", 0))
        hanging.add(made.getsockname()[1])
        made.connect(("127.0.0.1", running.server.server_port))
        return made

    with serving(Impatient) as running, connected() as silent, connected() as halfway:
        with suppress(OSError):  # it may be cut off by now
            halfway.sendall(b"POST /api/push HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n[")
        assert running.post(b"[]")[0] == 200
        assert is_cut_off(silent)
        assert is_cut_off(halfway)


def is_cut_off(connection: socket.socket) -> bool:
    """Whether the other side closes it without a word; what it has not read makes that a reset."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_body_that_drips_is_cut_off(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", running.server.server_port), 30) as connection:
        connection.sendall(b"POST /api/push HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        connection.settimeout(0.02)
        answer = b""
        while not answer.endswith(b" s\n"):
            try:
                part = connection.recv(65536)
            except TimeoutError:
                with suppress(OSError):  # the answer may be there by now, and the connection reset
                    connection.sendall(b" ")
                continue
            if not part:
                break
            answer += part
    assert b"not complete after" in answer


def test_connections_are_bounded(running: Running) -> None:
    address = ("127.0.0.1", running.server.server_port)
    held = [socket.create_connection(address, 30) for _ in range(module.MAX_CONNECTIONS)]
    try:
        one_more = socket.create_connection(address, 30)
        held.append(one_more)
        assert one_more.recv(1) == b""
    finally:
        for connection in held:
            connection.close()

    def is_served() -> bool:
        try:
            return running.post(b"[]")[0] == 200
        except OSError:
            return False

    until(is_served)  # their places are free again


@pytest.mark.parametrize(
    "request_", [b"\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"x" * 70_000 + b"\r\n"]
)
def test_what_is_no_http_does_no_harm(running: Running, request_: bytes) -> None:
    with (
        socket.create_connection(("127.0.0.1", running.server.server_port), 30) as connection,
        suppress(OSError),  # where it has not read everything, it ends with a reset
    ):
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert running.post(b"[]")[0] == 200


def test_an_expected_continue_is_given(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.server.server_port), 30) as connection:
        connection.sendall(
            b"POST /api/push HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"[]")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_port_in_use_is_said(running: Running) -> None:
    with pytest.raises(
        ReceiverError, match=r"cannot listen on 127\.0\.0\.1 port \d+: Address already in use"
    ):
        Receiver(("127.0.0.1", running.server.server_port), lambda _: None)


def test_it_can_be_started_again_at_once_on_its_port() -> None:
    with serving() as running:
        # It closes first, so its side of the connection stays in TIME-WAIT.
        assert running.raw(b"POST /api/push HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n")
    Receiver(("127.0.0.1", running.server.server_port), lambda _: None).server_close()


def test_ipv6() -> None:
    server = Receiver(("::1", 0), lambda _: None)
    assert server.server_port > 0
    server.server_close()
