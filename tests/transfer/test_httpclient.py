from __future__ import annotations

import gzip
import json
import os
import socket
import threading
from contextlib import closing
from datetime import UTC, datetime

import pytest

from falcon_agent.errors import TransferError
from falcon_agent.transfer.failure import Rejected, Unreachable
from falcon_agent.transfer.httpclient import HttpClient, retry_after
from tests.transfer.double import Double, Fault, accept_then, answer, drip, hang, reset, say, then_close
from tests.transfer.pushing import BODY, HEAD, OK, SHORT, client, refused_address, until


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def serving_threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_a_push_is_accepted(double: Double) -> None:
    with client(double.address) as pushing:
        reply = pushing.post(BODY)
    assert (reply.total, reply.invalid, reply.message, reply.address) == (1, 0, "ok", double.address)
    assert reply.latency > 0
    assert double.accepted == json.loads(BODY)
    assert double.seen_headers[0]["Content-Type"] == "application/json"
    assert "Content-Encoding" not in double.seen_headers[0]


@pytest.mark.parametrize(("path", "total"), [("/v1/push", None), ("/openfalcon/push", 1)])
def test_the_other_receivers_are_understood(double: Double, path: str, total: int | None) -> None:
    with client(double.address.replace("/api/push", path)) as pushing:
        assert pushing.post(BODY).total == total


def test_connections_are_kept(double: Double) -> None:
    with client(double.address) as pushing:
        for _ in range(20):
            pushing.post(BODY)
    assert (double.requests, double.connections) == (20, 1)


def test_a_kept_connection_that_the_other_side_closed_is_replaced(double: Double) -> None:
    double.default = then_close
    with client(double.address) as pushing:
        for _ in range(20):
            pushing.post(BODY)
    assert len(double.accepted) == 20


def test_a_kept_connection_that_breaks_in_use_is_replaced_once(double: Double) -> None:
    with client(double.address) as pushing:
        pushing.post(BODY)
        double.faults.append(reset())
        pushing.post(BODY)
        double.default = reset()
        with pytest.raises(Unreachable):
            pushing.post(BODY)
    assert double.requests == 1 + 2 + 2


def test_what_is_said_out_of_turn_is_no_answer_to_the_next_push() -> None:
    """A server that tires of an idle connection may say 408 before it closes it (RFC 9110 section 15.5.9)."""
    reply = HEAD + b"Content-Length: %d\r\n\r\n" % len(OK) + OK
    pushed = threading.Event()

    def serve() -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)
                pushed.wait(30)
                connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
                tired.set()

    tired = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=serve)
        serving.start()
        with client(f"http://127.0.0.1:{listening.getsockname()[1]}/api/push") as pushing:
            assert pushing.post(BODY).total == 1
            pushed.set()
            assert tired.wait(30)
            assert pushing.post(BODY).total == 1
        serving.join()


FAULTS: list[tuple[str, Fault, str]] = [
    ("reset before the answer", reset(), "closed"),
    ("reset in the headers", reset(HEAD), "closed"),
    ("reset in the body", reset(HEAD + b"Content-Length: 75\r\n\r\n" + OK[:10]), "closed"),
    ("closed before the answer", say(b""), "closed"),
    ("closed in the body", say(HEAD + b"Content-Length: 75\r\n\r\n" + OK[:10]), "closed"),
    ("closed in a chunk", say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n40\r\n" + OK[:10]), "closed"),
    ("accepted, answer lost", accept_then(reset()), "closed"),
    ("no HTTP", say(b"SSH-2.0-OpenSSH_9.2\r\n"), "garbage"),
    ("a header without end", say(HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n"), "garbage"),
    ("headers without end", say(HEAD + b"X: y\r\n" * 1000 + b"\r\n"), "garbage"),
    ("200 with garbage", answer("200 OK", b"<html>welcome</html>"), "garbage"),
    ("200 without body", answer("200 OK"), "garbage"),
    ("204", say(b"HTTP/1.1 204 No Content\r\n\r\n"), "garbage"),
    ("200 gzip", answer("200 OK", gzip.compress(OK), Content_Encoding="gzip"), "garbage"),
    ("a huge answer", answer("200 OK", b"x" * 100_000), "garbage"),
    ("an endless answer", say(HEAD + b"\r\n" + b"x" * 10_000_000), "garbage"),
    ("500", answer("500 Internal Server Error", b"boom"), "http_500"),
    ("502", answer("502 Bad Gateway", b"<html>\nnginx"), "http_502"),
    ("429", answer("429 Too Many Requests"), "http_429"),
    ("408", answer("408 Request Timeout"), "http_408"),
    ("redirect", answer("302 Found", Location="http://elsewhere/api/push"), "redirect"),
]


@pytest.mark.parametrize(("fault", "reason"), [pytest.param(f, r, id=name) for name, f, r in FAULTS])
def test_a_failing_transfer_is_unreachable_for_a_reason(double: Double, fault: Fault, reason: str) -> None:
    double.default = fault
    with client(double.address) as pushing:
        with pytest.raises(Unreachable) as caught:
            pushing.post(BODY)
        assert caught.value.reason == reason
        assert str(caught.value).startswith(f"cannot push to {double.address}: ")
        assert isinstance(caught.value, TransferError)
        double.default = None
        assert pushing.post(BODY).total == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(hang(), id="before the headers"),
        pytest.param(hang(HEAD), id="in the headers"),
        pytest.param(hang(HEAD + b"Content-Length: 75\r\n\r\n" + OK[:10]), id="in the body"),
        pytest.param(drip(b"", HEAD), id="dripping headers"),
        pytest.param(drip(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 C\r\n\r\n"), id="dripping 100"),
        pytest.param(drip(HEAD + b"Content-Length: 60000\r\n\r\n", b" "), id="dripping a body"),
        pytest.param(drip(HEAD + b"\r\n", b" "), id="dripping a body of unknown length"),
        pytest.param(drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), id="dripping chunks"),
    ],
)
def test_a_hanging_or_dripping_transfer_ends_at_the_deadline(double: Double, fault: Fault) -> None:
    double.default = fault
    with client(double.address, timeout=SHORT) as pushing:
        with pytest.raises(Unreachable, match=r"no complete answer within 0\.2 s") as caught:
            pushing.post(BODY)
        assert caught.value.reason == "timeout"


def test_a_transfer_that_accepts_and_never_reads_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/api/push"
        with client(address, timeout=SHORT) as pushing, pytest.raises(Unreachable) as caught:
            pushing.post(b"[" + b" " * 30_000_000 + b"]")
    assert caught.value.reason == "timeout"


def test_nobody_listens() -> None:
    with client(refused_address()) as pushing, pytest.raises(Unreachable, match="connection refused"):
        pushing.post(BODY)


def test_a_name_that_does_not_resolve() -> None:
    with client("http://nosuch.invalid/api/push") as pushing, pytest.raises(Unreachable) as caught:
        pushing.post(BODY)
    assert caught.value.reason == "dns"


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/x", "nonsense", "http://[::1/api", "http://h:99999/"])
def test_an_address_that_is_none(address: str) -> None:
    with client(address) as pushing, pytest.raises(Unreachable) as caught:
        pushing.post(BODY)
    assert caught.value.reason == "config"


@pytest.mark.parametrize(
    ("status", "body_at_fault", "advice"),
    [
        ("400 Bad Request", True, "badly typed"),
        ("413 Request Entity Too Large", True, "lower batch_size"),
        ("422 Unprocessable", True, "transfer"),
        ("401 Unauthorized", False, "password_file"),
        ("403 Forbidden", False, "password_file"),
        ("404 Not Found", False, "/api/push"),
        ("405 Method Not Allowed", False, "address"),
        ("407 Proxy Authentication Required", False, "proxy"),
        ("499 Over Limit", False, "address"),
    ],
)
def test_4xx_is_rejected(double: Double, status: str, body_at_fault: bool, advice: str) -> None:  # noqa: FBT001
    double.default = answer(status, b"decode error\nsecond line")
    with client(double.address) as pushing, pytest.raises(Rejected) as caught:
        pushing.post(BODY)
    error = caught.value
    assert (error.status, error.answer) == (int(status[:3]), "decode error")
    assert error.body_at_fault is body_at_fault
    assert error.reason == f"http_{status[:3]}"
    assert f"cannot push to {double.address}: it answered {status[:3]}" in str(error)
    assert advice in str(error)


def test_the_real_answers_to_a_bad_body(double: Double) -> None:
    with client(double.address) as pushing:
        with pytest.raises(Rejected, match="decode error"):
            pushing.post(b"{}")
        with pytest.raises(Rejected, match="blank body"):
            pushing.post(b"")
    with client(double.address + "/") as pushing, pytest.raises(Rejected, match="404 page not found"):
        pushing.post(BODY)


def test_a_redirect_is_named_and_not_followed(double: Double, second: Double) -> None:
    double.default = answer("307 Temporary Redirect", Location=second.address + "?token=SECRET")
    with client(double.address) as pushing, pytest.raises(Unreachable) as caught:
        pushing.post(BODY)
    assert second.address in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert second.requests == 0


def test_retry_after_is_kept(double: Double) -> None:
    double.faults += [answer("429 Slow Down", Retry_After="7"), answer("503 Busy", Retry_After="99999999")]
    with client(double.address) as pushing:
        waits = []
        for _ in range(2):
            with pytest.raises(Unreachable) as caught:
                pushing.post(BODY)
            waits.append(caught.value.retry_after)
    assert waits == [7.0, 600.0]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        (" 0 ", 0.0),
        ("9" * 100_000, 600.0),
        ("Fri, 20 Nov 2026 10:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 09:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("", None),
    ],
)
def test_retry_after_has_two_forms(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()) == seconds


def test_faults_leave_no_thread_and_no_descriptor_behind(double: Double) -> None:
    addresses = (double.address, refused_address())
    with client(*addresses) as pushing, client(*addresses, timeout=SHORT) as hasty:

        def round_of_faults() -> None:
            for _, fault, _ in FAULTS:
                double.default = fault
                with pytest.raises(TransferError):
                    pushing.post(BODY)
            double.default = hang(HEAD)
            with pytest.raises(TransferError):
                hasty.post(BODY)
            double.default = None
            double.release.set()
            pushing.post(BODY)

        round_of_faults()
        # The double's threads end by and by, but for the one whose connection is kept.
        until(lambda: serving_threads() <= 1)
        before = open_files(), threading.active_count()
        for _ in range(3):
            round_of_faults()
        until(lambda: open_files() <= before[0] and threading.active_count() <= before[1])


def test_the_servers_time_is_told(double: Double) -> None:
    with client(double.address) as pushing:
        assert pushing.post(BODY).server_time == double.clock
        double.default = answer("200 OK", OK, Date="yesterday")
        assert pushing.post(BODY).server_time is None
        double.default = answer("200 OK", OK)
        assert pushing.post(BODY).server_time is None


def test_a_compressed_push(double: Double) -> None:
    address = double.address.replace("/api/push", "/openfalcon/push")
    with closing(HttpClient(address, 10.0, gzip=True)) as pushing:
        assert pushing.post(BODY).total == 1
        assert pushing.post(b"[]").total == 0
    assert double.accepted == json.loads(BODY)
    assert double.seen_headers[0]["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("status", ["400 Bad Request", "415 Unsupported Media Type"])
def test_a_receiver_without_gzip_is_named(double: Double, status: str) -> None:
    double.default = answer(status, b"decode error")
    with closing(HttpClient(double.address, 10.0, gzip=True)) as pushing, pytest.raises(Rejected) as caught:
        pushing.post(b"[]")
    assert "set gzip = false" in str(caught.value)
    with client(double.address) as plain, pytest.raises(Rejected) as caught:
        plain.post(b"[]")
    assert "gzip" not in str(caught.value)


def test_transfer_itself_takes_no_gzip(double: Double) -> None:
    with (
        closing(HttpClient(double.address, 10.0, gzip=True)) as pushing,
        pytest.raises(Rejected, match=r"decode error.*set gzip = false"),
    ):
        pushing.post(BODY)
