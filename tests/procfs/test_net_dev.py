from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.net_dev import NetDev, parse_net_dev

NET = Path(__file__).parents[1] / "fixtures" / "net"
NET_DEV = (NET / "pod" / "net_dev").read_bytes()
HEADER = b"".join(NET_DEV.splitlines(keepends=True)[:2])


def test_captured_namespace() -> None:
    rows = parse_net_dev(NET_DEV)
    assert list(rows) == ["lo", "eth0", "eth1", "macv0"]
    assert rows["eth0"] == NetDev(
        rx_bytes=1430,
        rx_packets=19,
        rx_errs=0,
        rx_drop=0,
        tx_bytes=102264,
        tx_packets=30,
        tx_errs=0,
        tx_drop=0,
    )


def test_every_column_has_its_place() -> None:
    rows = parse_net_dev(HEADER + b"  eth0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n")
    assert rows == {"eth0": NetDev(1, 2, 3, 4, 9, 10, 11, 12)}


def test_captured_host() -> None:
    assert parse_net_dev((NET / "host" / "net_dev").read_bytes())["eth0"].rx_bytes > 0


def test_names_that_are_no_utf8_stay_different() -> None:
    row = b": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
    rows = parse_net_dev(HEADER + b"\xff" + row + b"\xfe" + row + "ü".encode() + row)
    assert list(rows) == [r"\xff", r"\xfe", "ü"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        HEADER[:-10].splitlines(keepends=True)[0],
        HEADER + b"eth0 1 2\n",
        HEADER + b"eth0: 1 2\n",
        HEADER + b"eth0:" + b" -1" * 16 + b"\n",
        HEADER + b":" + b" 1" * 16 + b"\n",
        HEADER + b"eth0:" + b" x" * 16 + b"\n",
    ],
)
def test_other_forms(content: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse net/dev"):
        parse_net_dev(content)


@settings(deadline=None)
@given(st.integers(0, len(NET_DEV)), st.binary(max_size=20))
def test_cut_or_garbled_files(cut: int, garbage: bytes) -> None:
    for content in (NET_DEV[:cut], NET_DEV[:cut] + garbage + NET_DEV[cut:], HEADER + garbage):
        with contextlib.suppress(ParseError):
            assert all(row.rx_bytes >= 0 for row in parse_net_dev(content).values())
