from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.snmp6 import parse_udp6

SNMP6 = (Path(__file__).parents[1] / "fixtures" / "net" / "busy" / "snmp6").read_bytes()
NAMES = ("RcvbufErrors", "InErrors", "NoPorts", "Other")
NUMBERS = (20, 20, 1, None)


def test_captured_namespace() -> None:
    assert parse_udp6(SNMP6, NAMES) == NUMBERS


def test_udp_lite_is_not_udp() -> None:
    assert parse_udp6(b"Ip6InReceives 1\nUdp6InErrors 2\nUdpLite6InErrors 3\n", ("InErrors",)) == (2,)
    with pytest.raises(ParseError):
        parse_udp6(b"Ip6InReceives 1\nUdpLite6InErrors 3\n", ("InErrors",))


@pytest.mark.parametrize(
    "content",
    [b"", b"Ip6InReceives 1\n", b"Ip6InReceives 1\nUdp6InErrors 2", b"Ip6InReceives 1\nUdp6InErrors x\n"],
)
def test_other_forms(content: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse net/snmp6"):
        parse_udp6(content, NAMES)


@settings(deadline=None)
@given(st.integers(0, len(SNMP6)), st.binary(max_size=20))
def test_cut_or_garbled_files(cut: int, garbage: bytes) -> None:
    for content in (SNMP6[:cut], SNMP6[:cut] + garbage + SNMP6[cut:], garbage):
        with contextlib.suppress(ParseError):
            assert all(number is None or number >= 0 for number in parse_udp6(content, NAMES))


@settings(deadline=None)
@given(st.integers(0, len(SNMP6)))
def test_a_file_cut_short_never_gives_another_number(cut: int) -> None:
    with contextlib.suppress(ParseError):
        for found, number in zip(parse_udp6(SNMP6[:cut], NAMES), NUMBERS, strict=True):
            assert found in {None, number}
