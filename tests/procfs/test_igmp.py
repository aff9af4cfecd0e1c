from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.igmp import parse_igmp

NET = Path(__file__).parents[1] / "fixtures" / "net"
IGMP = (NET / "pod" / "igmp").read_bytes()
HEADER = IGMP.splitlines(keepends=True)[0]


def test_captured_namespace() -> None:
    assert parse_igmp(IGMP) == {1: "lo", 2: "eth0", 3: "eth1", 4: "macv0"}


def test_captured_host() -> None:
    assert parse_igmp((NET / "host" / "igmp").read_bytes()) == {1: "lo", 4: "eth0", 9: "fpcap0"}


def test_a_name_of_fifteen_characters_touches_nothing() -> None:
    assert parse_igmp(HEADER + b"1234567\tabcdefghijklmno:     1      V3\n") == {1234567: "abcdefghijklmno"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"2\teth0 :",
        HEADER + b"x\teth0 : 1 V3\n",
        HEADER + b"2\teth0\n",
        HEADER + b"2\t :\n",
        HEADER + b"\n",
    ],
)
def test_other_forms(content: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse net/igmp"):
        parse_igmp(content)


@settings(deadline=None)
@given(st.integers(0, len(IGMP)), st.binary(max_size=20))
def test_cut_or_garbled_files(cut: int, garbage: bytes) -> None:
    for content in (IGMP[:cut], IGMP[:cut] + garbage + IGMP[cut:], HEADER + garbage):
        with contextlib.suppress(ParseError):
            assert all(parse_igmp(content).values())
