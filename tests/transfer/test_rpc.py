from __future__ import annotations

import json
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.transfer.rpc import (
    MAX_ANSWER_BYTES,
    Answer,
    CallError,
    Connection,
    Objects,
    RefusedError,
    host_and_port,
    parse_answer,
    request,
)
from tests.ports import free_port
from tests.transfer import rpcdouble
from tests.transfer.pushing import SHORT

if TYPE_CHECKING:
    from tests.transfer.rpcdouble import Fault, RpcDouble

REPORT = b'{"Hostname":"h"}'


def call(double: RpcDouble, timeout: float = 10.0) -> Any:
    with closing(Connection(double.address, timeout)) as made:
        return made.call("Agent.ReportStatus", REPORT)


def test_a_request_is_what_go_reads() -> None:
    assert json.loads(request("Transfer.Update", b"[]", 7)) == {
        "method": "Transfer.Update",
        "params": [[]],
        "id": 7,
    }


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b'{"id":1,"result":{"code":0},"error":null}', Answer(1, {"code": 0}, None)),
        (b'{"id":1,"result":null,"error":"no"}', Answer(1, None, "no")),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":-1}}', Answer(1, None, {"code": -1})),
        (b'{"id":null,"result":1,"error":null}', Answer(None, 1, None)),
        (b'{"id":true,"result":1,"error":null}', Answer(None, 1, None)),
        (b'{"id":1.0,"result":1,"error":null}', Answer(None, 1, None)),
        (b'{"id":"1","result":1,"error":null}', Answer(None, 1, None)),
        (b'{"id":1}', None),
        (b'{"result":1}', None),
        (b"{}", None),
        (b"[1]", None),
        (b"", None),
        (b'{"id":1,"result":{"code":0},"error":null', None),
        (b'{"id":99999999999999999999,"result":1}', Answer(None, 1, None)),
    ],
)
def test_answers(content: bytes, answer: Answer | None) -> None:
    assert parse_answer(content) == answer


@given(st.binary())
def test_garbage_is_no_answer(content: bytes) -> None:
    assert parse_answer(content) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text(), JSON, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(1, 12), min_size=1),
    st.sampled_from(["", "\n", " \r\n\t"]),
)
def test_objects_are_found_however_the_stream_is_cut(
    objects: list[dict[str, Any]], sizes: list[int], between: str
) -> None:
    stream = between.join(json.dumps(each, ensure_ascii=False) for each in objects).encode(
        "utf-8", "surrogatepass"
    )
    cutter, found, at, turn = Objects(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found += cutter.feed(stream[at : at + size])
        at += size
        turn += 1
    assert [json.loads(each.decode("utf-8", "surrogatepass")) for each in found] == objects


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_garbage_in_a_stream_is_an_error_or_waits(pieces: list[bytes]) -> None:
    cutter = Objects()
    try:
        for piece in pieces:
            for each in cutter.feed(b"{" + piece):
                parse_answer(each)
    except ValueError as error:
        assert str(error) == "no JSON object"  # noqa: PT017  most streams raise nothing


def test_a_string_that_never_ends_is_looked_at_once() -> None:
    cutter = Objects()
    assert cutter.feed(b'{"') == []
    for _ in range(MAX_ANSWER_BYTES):
        assert cutter.feed(b"\\") == []
    assert cutter.feed(b'"}') == [b'{"' + b"\\" * MAX_ANSWER_BYTES + b'"}']


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("rpc://h:8433", ("h", 8433)),
        ("hbs.example.com:6030", ("hbs.example.com", 6030)),
        ("[::1]:6030", ("::1", 6030)),
        ("rpc://[::1]:6030", ("::1", 6030)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert host_and_port(address) == expected


@pytest.mark.parametrize("address", ["", "h", "rpc://h", ":1", "h:99999", "h:x", "[::1:1"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the text is Python's
        host_and_port(address)
    with closing(Connection(address, 1.0)) as made, pytest.raises(CallError, match="cannot call") as caught:
        made.call("x", b"0")
    assert caught.value.failure.reason == "config"


def test_a_call_and_its_result(rpc: RpcDouble) -> None:
    assert call(rpc) == {"code": 0}
    assert rpc.calls == [{"method": "Agent.ReportStatus", "params": [{"Hostname": "h"}], "id": 1}]


def test_the_connection_is_kept_and_no_id_used_twice(rpc: RpcDouble) -> None:
    with closing(Connection(rpc.address, 10.0)) as made:
        for _ in range(20):
            made.call("Agent.ReportStatus", REPORT)
    assert rpc.connections == 1
    assert [each["id"] for each in rpc.calls] == list(range(1, 21))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(rpcdouble.foreign_first(1, -1, 1000), id="others'"),
        pytest.param(rpcdouble.foreign_first(*[None, "1", True, 1.0, [1], {}]), id="other types"),
        pytest.param(rpcdouble.foreign_first(*range(1, 200)), id="many"),
    ],
)
def test_an_answer_to_another_call_is_passed_over(rpc: RpcDouble, fault: Fault) -> None:
    rpc.default = fault
    with closing(Connection(rpc.address, 10.0)) as made:
        for _ in range(3):
            assert made.call("Agent.ReportStatus", REPORT) == {"code": 0}
    assert rpc.connections == 1


def test_an_answer_that_came_too_late_is_not_taken_for_the_next(rpc: RpcDouble) -> None:
    with closing(Connection(rpc.address, SHORT)) as made:
        rpc.faults += [rpcdouble.hang]
        with pytest.raises(CallError, match=r"no complete answer within 0.2 s"):
            made.call("Agent.ReportStatus", REPORT)
        made._timeout = 10.0
        assert made.call("Agent.ReportStatus", REPORT) == {"code": 0}
    assert rpc.connections == 2


def test_pieces_make_an_answer(rpc: RpcDouble) -> None:
    rpc.default = rpcdouble.byte_by_byte
    assert call(rpc) == {"code": 0}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("json: bad\nfield", "json: bad\\nfield"),
        ("", ""),
        ({"code": -32601}, '{"code":-32601}'),
        (["no"], '["no"]'),
        ("x" * 1000, "x" * 200 + "…"),
    ],
)
def test_an_error_is_told_and_the_connection_survives(rpc: RpcDouble, error: Any, words: str) -> None:
    rpc.faults.append(rpcdouble.answer(None, error))
    with closing(Connection(rpc.address, 10.0)) as made:
        with pytest.raises(RefusedError) as caught:
            made.call("Agent.ReportStatus", REPORT)
        assert caught.value.answer == words
        assert made.call("Agent.ReportStatus", REPORT) == {"code": 0}
    assert rpc.connections == 1


FAULTS: list[tuple[str, Fault, str]] = [
    ("closed", rpcdouble.close, "closed"),
    ("closed after taking it", rpcdouble.accept_then_close, "closed"),
    ("reset", rpcdouble.reset, "closed"),
    ("closed in the answer", rpcdouble.say(b'{"id":1,"res', then_close=True), "closed"),
    ("another protocol", rpcdouble.say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "garbage"),
    ("an array", rpcdouble.say(b'[{"id":1,"result":{"code":0},"error":null}]'), "garbage"),
    ("no answer", rpcdouble.say(b"{}"), "garbage"),
    ("broken JSON", rpcdouble.say(b'{"id":1,"result":}'), "garbage"),
    ("bytes", rpcdouble.say(bytes(range(256))), "garbage"),
    ("endless", rpcdouble.say(b'{"id":1,"result":"' + b"x" * 1_000_000), "garbage"),
    ("endless braces", rpcdouble.say(b"{" * 1_000_000), "garbage"),
    ("endless blanks", rpcdouble.say(b" " * 1_000_000), "garbage"),
    ("endless others", rpcdouble.foreign_first(*[1] * 2000), "garbage"),
    ("nothing", rpcdouble.hang, "timeout"),
    ("dripping", rpcdouble.drip(b'{"id":2,"result":{"code":0},"error":null}\n'), "timeout"),
    ("dripping a string", rpcdouble.drip(b'{"\\'), "timeout"),
    ("dripping blanks", rpcdouble.drip(b"\n"), "timeout"),
]


@pytest.mark.parametrize(("fault", "reason"), [pytest.param(f, r, id=name) for name, f, r in FAULTS])
def test_a_server_that_fails(rpc: RpcDouble, fault: Fault, reason: str) -> None:
    rpc.default = fault
    timeout = SHORT if reason == "timeout" else 10.0
    with closing(Connection(rpc.address, timeout)) as made:
        with pytest.raises(CallError) as caught:
            made.call("Agent.ReportStatus", REPORT)
        assert caught.value.failure.reason == reason
        assert str(caught.value).startswith(f"cannot call {rpc.address}: ")
        rpc.default = None
        made._timeout = 10.0
        assert made.call("Agent.ReportStatus", REPORT) == {"code": 0}


def test_a_kept_connection_that_the_other_side_closed_is_replaced(rpc: RpcDouble) -> None:
    rpc.default = rpcdouble.answer_then_close
    with closing(Connection(rpc.address, 10.0)) as made:
        for _ in range(20):
            assert made.call("Agent.ReportStatus", REPORT) == {"code": 0}


def test_a_kept_connection_that_breaks_in_use_is_replaced_once(rpc: RpcDouble) -> None:
    with closing(Connection(rpc.address, 10.0)) as made:
        made.call("Agent.ReportStatus", REPORT)
        rpc.default = rpcdouble.close
        with pytest.raises(CallError):
            made.call("Agent.ReportStatus", REPORT)
    assert len(rpc.calls) == 1 + 2


def test_nobody_listens() -> None:
    with (
        closing(Connection(f"127.0.0.1:{free_port()}", 10.0)) as made,
        pytest.raises(CallError, match="connection refused"),
    ):
        made.call("Agent.ReportStatus", REPORT)


@pytest.mark.parametrize("host", ["nosuch.invalid", "x" * 70 + ".invalid", "a..b"])
def test_a_name_that_does_not_resolve(host: str) -> None:
    with closing(Connection(f"{host}:6030", 1.0)) as made, pytest.raises(CallError) as caught:
        made.call("x", b"0")
    assert caught.value.failure.reason == "dns"


def test_a_server_that_never_reads_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"rpc://127.0.0.1:{listening.getsockname()[1]}"
        with closing(Connection(address, SHORT)) as made, pytest.raises(CallError) as caught:
            made.call("x", b'"' + b"x" * 30_000_000 + b'"')
    assert caught.value.failure.reason == "timeout"


def full_backlog() -> tuple[socket.socket, list[socket.socket]]:
    """A server that takes no more connections: to connect to it hangs."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1)
    waiting = []
    for _ in range(4):
        sock = socket.socket()
        sock.settimeout(0.0)
        sock.connect_ex(listening.getsockname())
        waiting.append(sock)
    return listening, waiting


def test_connecting_that_hangs_ends_at_the_deadline_or_when_closed() -> None:
    listening, waiting = full_backlog()
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    try:
        with closing(Connection(address, SHORT)) as made, pytest.raises(CallError) as caught:
            made.call("x", b"0")
        assert caught.value.failure.reason == "timeout"
        assert closed_while_calling(Connection(address, 600.0), deadline_has_socket) == "stopping"
    finally:
        for sock in (listening, *waiting):
            sock.close()


def deadline_has_socket(made: Connection) -> bool:
    return made._deadline is not None and made._deadline.sock is not None


def closed_while_calling(made: Connection, ready: Any) -> str:
    """Why a call failed that was cut off by `close`."""
    caught: list[CallError] = []

    def run() -> None:
        try:
            made.call("Agent.ReportStatus", REPORT)
        except CallError as error:
            caught.append(error)

    calling = threading.Thread(target=run)
    calling.start()
    while not ready(made):
        pass
    made.close()
    calling.join(30)
    assert not calling.is_alive()
    return caught[0].failure.reason


def test_closing_ends_a_call_that_hangs(rpc: RpcDouble) -> None:
    rpc.default = rpcdouble.hang
    made = Connection(rpc.address, 600.0)
    assert closed_while_calling(made, lambda _: rpc.calls) == "stopping"
    with pytest.raises(CallError, match="stopping"):
        made.call("Agent.ReportStatus", REPORT)
    assert len(rpc.calls) == 1


def test_a_new_connection_that_breaks_is_not_tried_twice(rpc: RpcDouble) -> None:
    rpc.default = rpcdouble.close
    with pytest.raises(CallError):
        call(rpc)
    assert len(rpc.calls) == rpc.connections == 1
