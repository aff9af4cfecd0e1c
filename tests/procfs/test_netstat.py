from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.netstat import parse_tcpext

NETSTAT = (Path(__file__).parents[1] / "fixtures" / "net" / "busy" / "netstat").read_bytes()
NAMES = ("ListenOverflows", "ListenDrops", "TCPAbortOnClose", "TCPTimeouts")


def test_captured_namespace() -> None:
    assert parse_tcpext(NETSTAT, NAMES) == (16, 16, 1, 0)


def test_columns_are_found_by_name_and_given_in_the_order_asked_for() -> None:
    content = b"TcpExt: New ListenDrops Other ListenOverflows\nTcpExt: 1 2 3 18446744073709551615\n"
    assert parse_tcpext(content, NAMES) == (2**64 - 1, 2, None, None)
    # Another kernel's line of names, in the same process: the first one's must not stick.
    assert parse_tcpext(NETSTAT, NAMES) == (16, 16, 1, 0)
    assert parse_tcpext(content, NAMES[1:2]) == (2,)


def test_lines_of_other_protocols_are_not_looked_at() -> None:
    lines = NETSTAT.splitlines(keepends=True)
    others = [line for line in lines if not line.startswith(b"TcpExt:")]
    mine = [line for line in lines if line.startswith(b"TcpExt:")]
    odd = b"MyTcpExt: ListenDrops\nMyTcpExt: 5\n"
    assert parse_tcpext(b"".join([odd, *others, *mine]), NAMES) == (16, 16, 1, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"TcpExt: ListenDrops\n",
        b"TcpExt: ListenDrops\nTcpExt: 12",
        b"TcpExt: ListenDrops\nTcpExt: 1 2\n",
        b"TcpExt: ListenDrops Other\nTcpExt: 1\n",
        b"TcpExt: ListenDrops\nTcpExt: x\n",
        b"TcpExt: ListenDrops\nTcpExt: -1\n",
        b"TcpExt: ListenDrops\nTcpExt: 1_0\n",
        b"TcpExt: ListenDrops\nIpExt: InNoRoutes\nTcpExt: 1\n",
        b"MyTcpExt: ListenDrops\nMyTcpExt: 5\n",
    ],
)
def test_other_forms(content: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse net/netstat"):
        parse_tcpext(content, NAMES)


@settings(deadline=None)
@given(st.integers(0, len(NETSTAT)), st.binary(max_size=20))
def test_cut_or_garbled_files(cut: int, garbage: bytes) -> None:
    for content in (NETSTAT[:cut], NETSTAT[:cut] + garbage + NETSTAT[cut:], garbage):
        with contextlib.suppress(ParseError):
            assert all(number is None or number >= 0 for number in parse_tcpext(content, NAMES))


@settings(deadline=None)
@given(st.integers(0, len(NETSTAT)))
def test_a_file_cut_short_never_gives_a_smaller_number(cut: int) -> None:
    with contextlib.suppress(ParseError):
        assert parse_tcpext(NETSTAT[:cut], NAMES) == (16, 16, 1, 0)
