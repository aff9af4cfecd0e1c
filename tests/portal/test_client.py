from __future__ import annotations

import json
import ssl
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.errors import ConfigError
from falcon_agent.portal import client as client_module
from falcon_agent.portal.client import PortalClient, PortalError
from falcon_agent.portal.token import Token
from tests.portal.double import ROOT
from tests.portal.saying import answer, saying

if TYPE_CHECKING:
    from tests.portal.double import Portal

TOKEN = Token("ann", "SECRET")
CERTIFICATES = Path(__file__).parent.parent / "fixtures" / "transfer"


def failure(address: str, timeout: float = 10.0, **options: Any) -> str:
    """What a person reads when it fails."""
    with (
        closing(PortalClient(address, TOKEN, timeout, **options)) as asking,
        pytest.raises(PortalError) as caught,
    ):
        asking.get("/template")
    assert "SECRET" not in str(caught.value)
    # A traceback shows what it was raised from.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize("end", ["", "/", "/api/v1", "/api/v1/"])
def test_the_address_is_taken_with_and_without_the_path(portal: Portal, end: str) -> None:
    with closing(PortalClient(portal.address + end, Token(*ROOT))) as asking:
        assert asking.get("/template", {"q": "^a b$"}) == {"templates": []}
    assert portal.asked == [("GET", "/api/v1/template")]


def test_a_path_in_front_stays() -> None:
    with saying(answer("200 OK", b"[]")) as server:
        with closing(PortalClient(f"http://127.0.0.1:{server.port}/falcon", TOKEN)) as asking:
            assert asking.get("/nodata") == []
        assert server.asked[0].startswith(b"GET /falcon/api/v1/nodata HTTP/1.1\r\n")


def test_what_is_sent() -> None:
    with saying(answer("200 OK", b'{"id":1}')) as server:
        with closing(PortalClient(f"http://127.0.0.1:{server.port}", TOKEN)) as asking:
            assert asking.send("POST", "/template", {"name": "a", "parent_id": 0}) == {"id": 1}
        head, _, body = server.asked[0].decode().partition("\r\n\r\n")
    assert "Apitoken: " + json.dumps({"name": "ann", "sig": "SECRET"}) in head
    # Without it the API reads a form, and finds nothing.
    assert "Content-Type: application/json" in head
    assert json.loads(body) == {"name": "a", "parent_id": 0}


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (
            answer("401 No", b'{"error":"session not found"}'),
            'it answered 401 "session not found"; the token is',
        ),
        (
            answer("404 No", b"404 page not found"),
            'it answered 404 "404 page not found"; is this the address',
        ),
        (answer("400 No", b'{"error":"op bad"}'), 'it answered 400 "op bad"; nothing was changed'),
        (answer("500 No", b"<h1>\x1b[31m</h1>"), 'it answered 500 "<h1>\\u001b[31m</h1>"; nothing'),
        (answer("307 Go", b"", "Location: http://elsewhere/"), 'it answered 307 "";'),
        (answer("200 OK", b"<html>\nhello"), "it answered '<html>', which is no JSON; is this the address"),
        (answer("200 OK", b""), "it answered '', which is no JSON"),
        (answer("200 OK", b"[" * 200_000), "which is no JSON"),
        (answer("200 OK", b"{}")[:-1], "the connection broke before the answer was complete"),
        (b"", "the connection broke before the answer was complete"),
        (b"SSH-2.0-x\r\n", "the connection broke"),
    ],
)
def test_answers_that_are_no_success(said: bytes, text: str) -> None:
    with saying(said) as server:
        message = failure(f"http://127.0.0.1:{server.port}")
    assert message.startswith(f"cannot GET http://127.0.0.1:{server.port}/api/v1/template: ")
    assert text in message
    assert message.isprintable()


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1000)
    with saying(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", drip=b"[" * 1000) as server:
        assert "its answer is longer than 1000 bytes" in failure(f"http://127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("begin", "drip"),
    [(b"HTTP/1.1 200 OK\r\nX: ", b"x"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" ")],
)
def test_the_deadline_is_for_the_whole_answer(begin: bytes, drip: bytes) -> None:
    with saying(begin, drip=drip) as server:
        message = failure(f"http://127.0.0.1:{server.port}", 0.3)
    assert "no complete answer within 0.3 s; is it overloaded or cut off? --timeout allows more" in message


def test_nobody_there() -> None:
    assert "connection refused; is Open-Falcon's api running there?" in failure("http://127.0.0.1:1")
    assert "its host name cannot be resolved" in failure("http://nosuch.invalid:8080")
    assert "that is no host name; check --api" in failure("http://a..b")


def test_tls() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "localhost.pem", CERTIFICATES / "localhost.key")
    with saying(answer("200 OK", b"[]"), tls=context) as server:
        address = f"https://127.0.0.1:{server.port}"
        with closing(PortalClient(address, TOKEN, ca_file=str(CERTIFICATES / "localhost.pem"))) as asking:
            assert asking.get("/nodata") == []
        assert "TLS: self-signed certificate; check --ca-file" in failure(address)
    with saying(answer("200 OK", b"[]")) as server:
        assert "TLS: " in failure(f"https://127.0.0.1:{server.port}")
        assert "TLS: " in failure(f"https://127.0.0.1:{server.port}", ca_file=__file__)


def test_the_environment_names_no_proxy(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with closing(PortalClient(portal.address, Token(*ROOT))) as asking:
        assert asking.get("/nodata") == []


@pytest.mark.parametrize(
    "address", ["10.0.0.1:8080", "ftp://h", "http://", "http://ann:SECRET@h", "http://h:x", "http://h/?SECRET", "http://[::1"]
)  # fmt: skip
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError, match="cannot use the address given as --api: allowed: a URL") as caught:
        PortalClient(address, TOKEN)
    assert "SECRET" not in str(caught.value)


def test_a_missing_ca_file() -> None:
    with pytest.raises(ConfigError, match=r"cannot use --ca-file /nonexistent\.pem: there is no such file"):
        PortalClient("https://127.0.0.1:1", TOKEN, ca_file="/nonexistent.pem")
