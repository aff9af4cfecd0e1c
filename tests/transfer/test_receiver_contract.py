from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from falcon_agent.transfer import receiver as module
from tests.transfer.serving import ITEM, NOW, Running, body, counts

# The contract, line by line.


def test_the_example_of_the_contract(running: Running) -> None:
    status, answer = running.post(body(ITEM))
    assert (status, counts(answer)) == (200, (1, 0))
    assert answer.startswith(b'{"msg":"success","data":{"Message":"ok","Total":1,"Invalid":0,"Latency":')


@pytest.mark.parametrize(("content", "total", "invalid"), [(b"[]", 0, 0), (b"null", 0, 0), (b"[null]", 1, 1)])
def test_empty_and_null(running: Running, content: bytes, total: int, invalid: int) -> None:
    status, answer = running.post(content)
    assert (status, counts(answer)) == (200, (total, invalid))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"[{", id="malformed"),
        pytest.param(body(ITEM)[1:-1], id="a bare object"),
        pytest.param(b"\xef\xbb\xbf[]", id="a byte order mark"),
        pytest.param(gzip.compress(body(ITEM)), id="gzip"),
        pytest.param(body(ITEM, {**ITEM, "tags": {}}), id="tags as object"),
        pytest.param(body(ITEM, {**ITEM, "tags": []}), id="tags as list"),
        pytest.param(body(ITEM, {**ITEM, "step": "60"}), id="step as string"),
        pytest.param(body(ITEM, {**ITEM, "step": 60.0}), id="step as float"),
        pytest.param(body(ITEM, {**ITEM, "timestamp": "1"}), id="timestamp as string"),
        pytest.param(body(ITEM, {**ITEM, "timestamp": 1.5}), id="timestamp as float"),
        pytest.param(body(ITEM, {**ITEM, "endpoint": 1}), id="numeric endpoint"),
        pytest.param(body(ITEM, {**ITEM, "metric": 1}), id="numeric metric"),
        pytest.param(body(ITEM, {**ITEM, "value": float("nan")}), id="a literal NaN"),
        pytest.param(body(ITEM, {**ITEM, "value": float("inf")}), id="a literal Infinity"),
    ],
)
def test_400_decode_error(running: Running, content: bytes) -> None:
    assert running.post(content, Content_Encoding="gzip") == (400, b"decode error\n")
    assert running.push().status == 400


def test_an_empty_chunked_body_is_a_decode_error(running: Running) -> None:
    answer = running.raw(
        b"POST /api/push HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"decode error\n")


def test_400_blank_body(running: Running) -> None:
    assert running.post(b"") == (400, b"blank body\n")
    assert running.raw(b"GET /api/push HTTP/1.0\r\n\r\n").endswith(b"blank body\n")


@pytest.mark.parametrize("path", ["/api/push/", "/", "/api", "/api/push2", "/v1/push/"])
def test_404(running: Running, path: str) -> None:
    assert running.post(body(ITEM), path) == (404, b"404 page not found\n")


def test_a_query_is_allowed(running: Running) -> None:
    assert running.post(b"[]", "/api/push?x=y")[0] == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": ""},
        {"endpoint": ""},
        {"counterType": "gauge"},
        {"value": ""},
        {"value": None},
        {"value": True},
        {"value": []},
        {"value": {}},
        {"value": "many"},
        {"step": None},
        {"step": 0},
        {"step": -1},
        {"metric": "m" * 511},
        {"metric": "kernel.hostname"},
    ],
)
def test_invalid_items_are_counted_in_both_numbers(running: Running, changes: dict[str, Any]) -> None:
    status, answer = running.post(body(ITEM, {**ITEM, **changes}))
    assert (status, counts(answer)) == (200, (2, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"value": "1.5"},
        {"value": "NaN"},
        {"value": "Inf"},
        {"metric": "a b"},
        {"metric": "a\nb"},
        {"timestamp": 0},
        {"timestamp": -1},
        {"timestamp": None},
        {"timestamp": NOW * 1000},
        {"timestamp": NOW + 3600},
    ],
)
def test_oddities_count_as_valid_and_are_named(running: Running, changes: dict[str, Any]) -> None:
    status, answer = running.post(body({**ITEM, **changes}))
    assert (status, counts(answer)) == (200, (1, 0))
    ((_, verdict),) = running.push().items
    assert verdict.outcome in {"changed", "dropped"}
    assert verdict.reasons


def test_150000_items_in_one_push_and_keep_alive(running: Running) -> None:
    connection = running.connect()
    for total in (150_000, 1):
        connection.request("POST", "/api/push", b"[" + b",".join([json.dumps(ITEM).encode()] * total) + b"]")
        assert counts(connection.getresponse().read()) == (total, 0)
    connection.close()


def test_a_body_in_chunks(running: Running) -> None:
    connection = running.connect()
    for _ in range(2):
        content = body(ITEM)
        connection.request("POST", "/api/push", iter([content[:7], content[7:]]), encode_chunked=True)
        assert counts(connection.getresponse().read()) == (1, 0)
    connection.close()


# The other two kinds of receivers.


def test_the_official_agent(running: Running) -> None:
    assert running.post(body(ITEM), "/v1/push") == (200, b"success")
    assert running.post(b"{", "/v1/push")[0] == 400


def test_nightingale(running: Running) -> None:
    status, answer = running.post(body(ITEM, {**ITEM, "metric": ""}), "/openfalcon/push")
    assert (status, json.loads(answer)) == (200, {"succ": 1, "fail": 1, "msg": ""})
    packed = gzip.compress(body(ITEM))
    status, answer = running.post(packed, "/openfalcon/push", Content_Encoding="gzip")
    assert (status, json.loads(answer)) == (200, {"succ": 1, "fail": 0, "msg": ""})


def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 1000)
    assert len(module.gunzip(gzip.compress(b" " * 100_000))) == 1000
    assert module.gunzip(b"no gzip") == b"no gzip"
