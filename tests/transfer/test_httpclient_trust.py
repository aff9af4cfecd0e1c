from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.errors import TransferError
from falcon_agent.transfer.failure import Unreachable, shown_address
from falcon_agent.transfer.httpclient import HttpClient
from tests.transfer.double import Double, Fault, answer, drip, hang

if TYPE_CHECKING:
    from collections.abc import Iterator

from tests.transfer.pushing import BODY, HEAD, SHORT, client

CERTIFICATES = Path(__file__).parent.parent / "fixtures" / "transfer"


def test_credentials_are_sent_and_never_shown(double: Double) -> None:
    double.faults.append(None)
    double.default = answer("500 Broken")
    address = double.address.replace("http://", "http://ann:SECRET1@") + "?token=SECRET2#SECRET3"
    made = HttpClient(address, 10.0, headers={"X-Token": "SECRET4"})
    with closing(made):
        made.post(BODY)
        with pytest.raises(Unreachable) as caught:
            made.post(BODY)
    assert double.seen_headers[0]["Authorization"] == "Basic YW5uOlNFQ1JFVDE="
    assert double.seen_headers[0]["X-Token"] == "SECRET4"
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://ann:SECRET@127.0.0.1:1/x?SECRET", "https://ann:SECRET@nosuch.invalid/"]
)
def test_credentials_are_not_shown_when_it_cannot_connect(address: str) -> None:
    with client(address) as pushing, pytest.raises(Unreachable) as caught:
        pushing.post(BODY)
    assert "SECRET" not in str(caught.value)
    # A traceback shows what it was raised from.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_user_name_and_password_in_any_script(double: Double) -> None:
    with closing(HttpClient(double.address, 10.0, username="用户", password="密码")) as made:
        made.post(BODY)
    assert double.seen_headers[0]["Authorization"] == "Basic 55So5oi3OuWvhueggQ=="


@pytest.mark.parametrize("value", ["SECRET\r\nX: y", "SECRET密", " SECRET"])
def test_a_header_that_http_does_not_allow(double: Double, value: str) -> None:
    with (
        closing(HttpClient(double.address, 10.0, headers={"X-Token": value})) as made,
        pytest.raises(Unreachable, match="one of the headers") as caught,
    ):
        made.post(BODY)
    assert "SECRET" not in str(caught.value)
    assert double.requests == 0


def test_the_environment_names_no_proxy(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with client(double.address) as pushing:
        assert pushing.post(BODY).total == 1


@pytest.fixture
def secure() -> Iterator[Double]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "localhost.pem", CERTIFICATES / "localhost.key")
    running = Double(context)
    try:
        yield running
    finally:
        running.close()


def test_tls_with_a_ca_file(secure: Double) -> None:
    trusting = HttpClient(secure.address, 10.0, ca_file=str(CERTIFICATES / "localhost.pem"))
    with closing(trusting):
        trusting.post(BODY)
        assert trusting.post(BODY).total == 1
    assert secure.connections == 1


def test_tls_is_verified(secure: Double) -> None:
    with (
        client(secure.address) as pushing,
        pytest.raises(Unreachable, match=r"self-signed certificate") as caught,
    ):
        pushing.post(BODY)
    assert caught.value.reason == "tls"


def test_tls_where_none_is_spoken(double: Double) -> None:
    with (
        client(double.address.replace("http:", "https:")) as pushing,
        pytest.raises(Unreachable, match="check ca_file") as caught,
    ):
        pushing.post(BODY)
    assert caught.value.reason == "tls"


@pytest.mark.parametrize("fault", [hang(), drip(b"", HEAD), drip(HEAD + b"\r\n", b" ")])
def test_the_deadline_holds_under_tls(secure: Double, fault: Fault) -> None:
    secure.default = fault
    trusting = HttpClient(secure.address, SHORT * 2, ca_file=str(CERTIFICATES / "localhost.pem"))
    with closing(trusting), pytest.raises(Unreachable) as caught:
        trusting.post(BODY)
    assert caught.value.reason == "timeout"


def test_a_server_that_never_shakes_hands() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"https://127.0.0.1:{listening.getsockname()[1]}/api/push"
        with client(address, timeout=SHORT) as pushing, pytest.raises(Unreachable) as caught:
            pushing.post(BODY)
    assert caught.value.reason == "timeout"


def test_a_missing_ca_file_is_said() -> None:
    with (
        closing(HttpClient("https://127.0.0.1:1/", 1.0, ca_file="/nonexistent.pem")) as made,
        pytest.raises(Unreachable, match=r"cannot push to https://127.0.0.1:1/: "),
    ):
        made.post(BODY)


def test_closing_ends_a_push_that_hangs(double: Double) -> None:
    double.default = hang()
    caught: list[TransferError] = []
    made = HttpClient(double.address, 600.0)

    def push() -> None:
        try:
            made.post(BODY)
        except TransferError as error:
            caught.append(error)

    pushing = threading.Thread(target=push)
    pushing.start()
    while not double.requests:
        pass
    made.close()
    pushing.join(30)
    assert not pushing.is_alive()
    assert len(caught) == 1
    with pytest.raises(Unreachable, match="stopping"):
        made.post(BODY)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://h:6060/api/push", "http://h:6060/api/push"),
        ("https://u:p@h/x?y#z", "https://h/x"),
        ("http://u:p@[::1]:6060/x", "http://[::1]:6060/x"),
        ("http://u:p@h:port/x", "an address that is no URL"),
        ("http://[::1/x", "an address that is no URL"),
    ],
)
def test_addresses_are_shown_without_secrets(address: str, shown: str) -> None:
    assert shown_address(address) == shown
