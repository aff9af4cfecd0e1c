from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.cgroupfs.cpuset import parse_cpu_list
from falcon_agent.errors import ParseError


@pytest.mark.parametrize(
    ("content", "count"),
    [(b"0-1\n", 2), (b"1\n", 1), (b"0-3,5\n", 5), (b"0,2-3,8-127\n", 123), (b"\n", 0), (b"7-7\n", 1)],
)
def test_counts_cpus(content: bytes, count: int) -> None:
    assert parse_cpu_list(content, "cpuset.cpus") == count


@pytest.mark.parametrize(
    "garbage", [b"", b"0-1", b"3-1\n", b"0-\n", b"-1\n", b",\n", b"0,\n", b"a\n", b"0 1\n", b"0-99999999\n"]
)
def test_garbage_is_a_typed_error(garbage: bytes) -> None:
    with pytest.raises(ParseError, match=r"cannot parse cpuset\.cpus"):
        parse_cpu_list(garbage, "cpuset.cpus")


@given(st.text("0123456789-,\n ", max_size=40))
def test_any_text(text: str) -> None:
    try:
        count = parse_cpu_list(text.encode(), "cpuset.cpus")
    except ParseError:
        return
    assert 0 <= count <= 20_000_000


@given(st.sets(st.integers(0, 500), min_size=1))
def test_counts_what_the_kernel_would_write(cpus: set[int]) -> None:
    assert parse_cpu_list(",".join(map(str, sorted(cpus))).encode() + b"\n", "cpuset.cpus") == len(cpus)
