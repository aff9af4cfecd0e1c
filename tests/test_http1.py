"""HTTP answers of every form, cut into pieces in every way."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.http1 import MAX_HEADERS, MAX_LINE, Answer, HeaderError, NotHttpError, request_head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UNLIMITED = 1 << 30


def arriving(*pieces: bytes) -> Callable[[int], bytes]:
    """These pieces, one after the other, none of them longer than is asked for; then the end."""
    waiting = [piece for piece in pieces if piece]

    def receive(size: int) -> bytes:
        if not waiting:
            return b""
        part, rest = waiting[0][:size], waiting[0][size:]
        waiting[:1] = [rest] if rest else []
        return part

    return receive


def body(content: bytes) -> bytes:
    return Answer(arriving(content)).read(UNLIMITED)


ANSWERS = [
    pytest.param(HEAD + b"Content-Length: 5\r\n\r\nhello", b"hello", True, id="length"),
    pytest.param(HEAD + b"Content-Length: 5, 5\r\n\r\nhello", b"hello", True, id="the same length twice"),
    pytest.param(HEAD + b"Content-Length: 0\r\n\r\n", b"", True, id="empty"),
    pytest.param(HEAD + b"\r\nhello", b"hello", False, id="to the end"),
    pytest.param(CHUNKED + b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: r\r\n\r\n", b"hello", True, id="chunks"),
    pytest.param(CHUNKED + b"A\r\n0123456789\r\n00\r\n\r\n", b"0123456789", True, id="hexadecimal"),
    pytest.param(
        HEAD + b"transfer-encoding: Chunked\r\nContent-Length: 1\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"x",
        True,
        id="chunks count more than a length",
    ),
    pytest.param(
        HEAD + b"Transfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nxyz", b"xyz", False, id="coded"
    ),
    pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", True, id="204"),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False, id="1.0"),
    pytest.param(
        HEAD + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\nok", b"ok", False, id="asked to close"
    ),
    pytest.param(
        b"HTTP/1.1 100 C\r\nX: y\r\n\r\n" * 3 + HEAD + b"Content-Length: 2\r\n\r\nok", b"ok", True, id="1xx"
    ),
    pytest.param(b"HTTP/1.1 200\nContent-Length:2\n\nok", b"ok", True, id="bare"),
    pytest.param(HEAD + b"Content-Length: 2\r\n\r\nok and more", b"ok", False, id="more than was announced"),
]


@pytest.mark.parametrize(("content", "wanted", "reusable"), ANSWERS)
def test_a_body_ends_where_http_says(content: bytes, wanted: bytes, reusable: bool) -> None:  # noqa: FBT001
    for pieces in ([content], [content[at : at + 1] for at in range(len(content))]):
        answer = Answer(arriving(*pieces))
        assert not answer.reusable or not wanted
        assert answer.read(UNLIMITED) == wanted
        # What comes later than it is asked for is not seen here, but before the next request.
        assert answer.reusable is reusable or (len(pieces) > 1 and content.endswith(b"and more"))


@given(st.lists(st.binary(min_size=1, max_size=50)), st.lists(st.integers(0, 400)))
def test_chunks_in_any_pieces_are_the_body(chunks: list[bytes], cuts: Sequence[int]) -> None:
    coded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    content = CHUNKED + coded + b"0\r\n\r\n"
    places = [0, *sorted(cuts), len(content)]
    pieces = [content[start:end] for start, end in itertools.pairwise(places)]
    assert Answer(arriving(*pieces)).read(UNLIMITED) == b"".join(chunks)


@given(st.binary() | st.binary().map(HEAD.__add__) | st.binary().map(CHUNKED.__add__))
def test_any_bytes_are_an_answer_or_one_of_two_errors(content: bytes) -> None:
    with contextlib.suppress(NotHttpError, ConnectionResetError):
        body(content)


@pytest.mark.parametrize(("content", "wanted", "reusable"), ANSWERS)
def test_an_answer_that_breaks_off_is_never_taken_for_whole(
    content: bytes,
    wanted: bytes,
    reusable: bool,  # noqa: FBT001
) -> None:
    if not reusable:
        return  # its end is where the connection ends
    head = content.index(b"\r\n\r\n") if b"\r\n\r\n" in content else content.index(b"\n\n")
    for end in range(len(content)):
        if end > head and not wanted:
            continue
        with pytest.raises(ConnectionResetError):
            body(content[:end])


@pytest.mark.parametrize(
    "content",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"X: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        HEAD + b"X: " + b"y" * MAX_LINE * 3,
        b"x" * MAX_LINE * 3,
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1_0\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        CHUNKED + b"x\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"+1\r\n",
        CHUNKED + b"1\r\nxy\r\n0\r\n\r\n",
        CHUNKED + b"f" * 16 + b"\r\n",
        CHUNKED + b"0\r\n" + b"X: y\r\n" * (MAX_HEADERS + 1),
    ],
)
def test_what_is_no_http(content: bytes) -> None:
    with pytest.raises(NotHttpError):
        body(content)


def test_no_more_than_the_limit_and_a_piece_is_taken() -> None:
    asked = []

    def endless(size: int) -> bytes:
        asked.append(size)
        return HEAD + b"\r\n" if len(asked) == 1 else b"x" * size

    assert 1000 < len(Answer(endless).read(1000)) <= 1000 + max(asked)


def test_headers_of_one_name_are_one() -> None:
    answer = Answer(arriving(HEAD + b"A: 1\r\n b\r\nX-Y : z\r\na:2\r\nContent-Length: 0\r\n\r\n"))
    assert (answer.status, answer.headers["a"], answer.headers["x-y"]) == (200, "1 b, 2", "z")


def test_a_request() -> None:
    assert request_head("GET", "/x?y=%20", {"Host": "h", "A": "é"}) == (
        b"GET /x?y=%20 HTTP/1.1\r\nHost: h\r\nA: \xe9\r\n\r\n"
    )


@pytest.mark.parametrize("target", ["", "/a b", "/a\r\nX: y", "/é", "/\0"])
def test_a_target_that_http_does_not_allow(target: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded"):
        request_head("GET", target, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "SECRET\r\nY: b"),
        ("X", "SECRET\n"),
        ("X", " SECRET"),
        ("X", "SECRET密"),
        ("X", "SECRET\0"),
        ("", "SECRET"),
        ("X Y", "SECRET"),
        ("X:", "SECRET"),
    ],
)
def test_a_header_that_http_does_not_allow_is_not_shown(name: str, value: str) -> None:
    with pytest.raises(HeaderError) as caught:
        request_head("GET", "/", {name: value})
    assert "SECRET" not in str(caught.value)
