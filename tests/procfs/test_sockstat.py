from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.sockstat import Sockstat, Sockstat6, parse_sockstat, parse_sockstat6

NET = Path(__file__).parents[1] / "fixtures" / "net"
SOCKSTAT = (NET / "pod" / "sockstat").read_bytes()
SOCKSTAT6 = (NET / "pod" / "sockstat6").read_bytes()


def test_captured_namespace() -> None:
    assert parse_sockstat(SOCKSTAT) == Sockstat(
        sockets_used=10, tcp_inuse=5, tcp_tw=2, tcp_orphan_of_host=11, udp_inuse=1
    )
    assert parse_sockstat6(SOCKSTAT6) == Sockstat6(tcp6_inuse=2, udp6_inuse=2)


def test_captured_host() -> None:
    assert parse_sockstat((NET / "host" / "sockstat").read_bytes()).tcp_inuse > 0
    parse_sockstat6((NET / "host" / "sockstat6").read_bytes())


def test_udplite_is_not_udp() -> None:
    with pytest.raises(ParseError, match="UDP"):
        parse_sockstat(SOCKSTAT.replace(b"UDP: inuse 1 mem 0\n", b""))


def test_order_and_new_fields_do_not_matter() -> None:
    found = parse_sockstat(
        b"NEW: x 1\nUDP: mem 7 inuse 3\nTCP: tw 2 new 9 orphan 1 inuse 4\nsockets: used 5\n"
    )
    assert found == Sockstat(5, 4, 1, 2, 3)


@settings(deadline=None)
@given(st.integers(0, len(SOCKSTAT)), st.binary(max_size=20))
def test_cut_or_garbled_files(cut: int, garbage: bytes) -> None:
    for content in (
        SOCKSTAT[:cut],
        SOCKSTAT[:cut] + garbage,
        SOCKSTAT[:cut] + garbage + SOCKSTAT[cut:],
        garbage,
    ):
        with suppress(ParseError):
            assert parse_sockstat(content).tcp_tw >= 0
        with suppress(ParseError):
            assert parse_sockstat6(content).tcp6_inuse >= 0


@pytest.mark.parametrize("number", [b"-1", b"x", b"", b"1.5", b"0x1", b"1_0"])
def test_only_plain_numbers(number: bytes) -> None:
    with pytest.raises(ParseError):
        parse_sockstat(SOCKSTAT.replace(b"inuse 5", b"inuse " + number))
