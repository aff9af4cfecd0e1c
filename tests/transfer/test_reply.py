from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.transfer.reply import Reply, first_line, http_time, parse_reply, printable, reply_of


@pytest.mark.parametrize(
    ("content", "reply"),
    [
        (b'{"msg":"success","data":{"Message":"ok","Total":3,"Invalid":1,"Latency":0}}', Reply(3, 1, "ok")),
        (b'{"msg":"success","data":{"Total":0,"Invalid":0}}\n', Reply(0, 0, "")),
        (b"success", Reply(None, 0, "success")),
        (b'{"succ":2,"fail":1,"msg":"received"}', Reply(3, 1, "received")),
    ],
)
def test_the_three_known_replies(content: bytes, reply: Reply) -> None:
    assert parse_reply(content) == reply


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ok",
        b"<html>success</html>",
        b"{}",
        b"null",
        b"[]",
        b'{"msg":"success"}',
        b'{"msg":"success","data":null}',
        b'{"msg":"failed","data":{"Total":1,"Invalid":0}}',
        b'{"msg":"success","data":{"Total":"1","Invalid":0}}',
        b'{"msg":"success","data":{"Total":1,"Invalid":-1}}',
        b'{"msg":"success","data":{"Total":1,"Invalid":2}}',
        b'{"msg":"success","data":{"Total":1.0,"Invalid":0}}',
        b'{"msg":"success","data":{"Total":true,"Invalid":false}}',
        b'{"succ":true,"fail":0,"msg":""}',
        b'{"succ":1,"fail":null,"msg":""}',
        b'{"msg":"success","data":{"Total":1,"Invalid":0}',
    ],
)
def test_anything_else_is_no_reply(content: bytes) -> None:
    assert parse_reply(content) is None


@given(st.binary())
def test_garbage_is_no_reply(content: bytes) -> None:
    assert parse_reply(content) is None or content.strip() == b"success"
    assert "\n" not in first_line(content)


def test_foreign_text_is_bounded_and_harmless() -> None:
    assert first_line(b"\n decode error \nmore") == "decode error"
    assert first_line(b"\x1b[31mred\x07") == "\\x1b[31mred\\x07"
    assert printable("x" * 300) == "x" * 200 + "…"
    assert printable("容器") == "容器"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Fri, 20 Nov 2026 10:00:30 GMT", 1795168830.0),
        ("Friday, 20-Nov-26 10:00:30 GMT", 1795168830.0),
        ("Fri, 20 Nov 2026 10:00:30 -0000", 1795168830.0),
        ("Fri, 20 Nov 2026 11:00:30 +0100", 1795168830.0),
        (None, None),
        ("", None),
        ("now", None),
        ("Fri, 99 Nov 2026 10:00:30 GMT", None),
        ("Fri, 20 Nov 99999 10:00:30 GMT", None),
        ("Fri, 20 Nov 2026 10:00:30 GMT" + " " * 100, None),
    ],
)
def test_http_dates(value: str | None, seconds: float | None) -> None:
    assert http_time(value) == seconds


@given(st.text(max_size=64))
def test_garbage_is_no_date(value: str) -> None:
    assert isinstance(http_time(value), float | None)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.dictionaries(st.sampled_from(["Total", "Invalid", "Message"]), inner),
    )
)
def test_a_reply_never_counts_nonsense(result: object) -> None:
    reply = reply_of(result)
    assert reply is None or (reply.total is not None and 0 <= reply.invalid <= reply.total)
