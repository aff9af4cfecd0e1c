from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.meminfo import MemInfo, parse_meminfo

CAPTURED = (Path(__file__).parent.parent / "fixtures/cgroup/hybrid/first/proc/meminfo").read_bytes()


def test_captured() -> None:
    assert parse_meminfo(CAPTURED) == MemInfo(mem_total_bytes=24684084 * 1024)


@pytest.mark.real
def test_this_host() -> None:
    total = parse_meminfo(Path("/proc/meminfo").read_bytes()).mem_total_bytes
    assert f"{total // 1024} kB" in Path("/proc/meminfo").read_text().splitlines()[0]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"MemTotal: 5 MB\n",
        b"MemTotal:       24684084",
        b"MemTotal: 0 kB\n",
        b"XMemTotal: 5 kB\n",
        b"MemTotal: -5 kB\n",
    ],
)
def test_garbage_is_a_typed_error(garbage: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse /proc/meminfo: it has no MemTotal in kB"):
        parse_meminfo(garbage)


@given(cut=st.integers(0, len(CAPTURED)), more=st.binary(max_size=20))
def test_truncated_and_garbled_files(cut: int, more: bytes) -> None:
    try:
        total = parse_meminfo(CAPTURED[:cut] + more).mem_total_bytes
    except ParseError:
        return
    assert total > 0
