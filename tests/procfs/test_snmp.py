from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.snmp import Snmp, parse_snmp, parse_tcp, parse_udp

NET = Path(__file__).parents[1] / "fixtures" / "net"
SNMP = (NET / "pod" / "snmp").read_bytes()


def test_captured_namespace() -> None:
    # Two established connections and one in CLOSE_WAIT: this kernel counts both states.
    assert parse_snmp(SNMP) == Snmp(tcp_curr_estab=3)


def test_captured_host() -> None:
    assert parse_snmp((NET / "host" / "snmp").read_bytes()).tcp_curr_estab >= 0


def test_columns_are_found_by_name() -> None:
    assert parse_snmp(b"Tcp: New CurrEstab MaxConn\nTcp: 8 7 -1\n").tcp_curr_estab == 7


def test_counters() -> None:
    busy = (NET / "busy" / "snmp").read_bytes()
    assert parse_tcp(busy, ("PassiveOpens", "RetransSegs", "OutSegs", "Other")) == (2, 0, 6, None)
    assert parse_udp(busy, ("NoPorts", "RcvbufErrors", "InErrors", "InCsumErrors")) == (1, 19, 19, 0)


def test_udp_lite_is_not_udp() -> None:
    with pytest.raises(ParseError, match="for Udp"):
        parse_udp(b"UdpLite: NoPorts\nUdpLite: 1\n", ("NoPorts",))


def test_a_number_that_was_not_asked_for_may_be_negative() -> None:
    assert parse_tcp(b"Tcp: MaxConn InErrs\nTcp: -1 3\n", ("InErrs",)) == (3,)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Tcp: CurrEstab\n",
        b"Tcp: CurrEstab\nTcp: 1 2\n",
        b"Tcp: Other\nTcp: 1\n",
        b"Tcp: CurrEstab\nTcp: x\n",
        b"Tcp: CurrEstab\nTcp: -1\n",
        b"Tcp: CurrEstab\nTcp: 12",
    ],
)
def test_other_forms(content: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse net/snmp"):
        parse_snmp(content)


@settings(deadline=None)
@given(st.integers(0, len(SNMP)), st.binary(max_size=20))
def test_cut_or_garbled_files(cut: int, garbage: bytes) -> None:
    for content in (SNMP[:cut], SNMP[:cut] + garbage + SNMP[cut:], garbage):
        with contextlib.suppress(ParseError):
            assert parse_snmp(content).tcp_curr_estab >= 0
