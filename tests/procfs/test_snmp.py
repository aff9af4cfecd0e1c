from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.snmp import Snmp, parse_snmp

NET = Path(__file__).parents[1] / "fixtures" / "net"
SNMP = (NET / "pod" / "snmp").read_bytes()


def test_captured_namespace() -> None:
    # Two established connections and one in CLOSE_WAIT: this kernel counts both states.
    assert parse_snmp(SNMP) == Snmp(tcp_curr_estab=3)


def test_captured_host() -> None:
    assert parse_snmp((NET / "host" / "snmp").read_bytes()).tcp_curr_estab >= 0


def test_columns_are_found_by_name() -> None:
    assert parse_snmp(b"Tcp: New CurrEstab MaxConn\nTcp: 8 7 -1\n").tcp_curr_estab == 7


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Tcp: CurrEstab\n",
        b"Tcp: CurrEstab\nTcp: 1 2\n",
        b"Tcp: Other\nTcp: 1\n",
        b"Tcp: CurrEstab\nTcp: x\n",
        b"Tcp: CurrEstab\nTcp: -1\n",
        SNMP + SNMP,
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
