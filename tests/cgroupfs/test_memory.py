from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.cgroupfs import MemoryStat
from falcon_agent.cgroupfs.memory import (
    parse_memory_max,
    parse_memory_stat,
    parse_memory_stat_v1,
    parse_oom_kill,
)
from falcon_agent.errors import ParseError
from tests.cgroupfs.trees import captured

if TYPE_CHECKING:
    from collections.abc import Callable

# Shaped so that each plain line of v1 differs from its total.
V1 = b"""\
cache 1
rss 2
swap 3
inactive_file 4
hierarchical_memory_limit 67108864
total_cache 100
total_rss 200
total_swap 300
total_inactive_file 400
"""


def test_v1_takes_the_totals() -> None:
    assert parse_memory_stat_v1(b"1000\n", V1) == MemoryStat(
        usage_bytes=1000,
        inactive_file_bytes=400,
        rss_bytes=200,
        cache_bytes=100,
        swap_bytes=300,
        limit_bytes=67108864,
    )


def test_v1_without_swap_accounting() -> None:
    assert parse_memory_stat_v1(b"1000\n", V1.replace(b"total_swap 300\n", b"")).swap_bytes is None


@pytest.mark.parametrize(
    "no_limit",
    [
        9223372036854771712,  # 4 KiB pages
        9223372036854710272,  # 64 KiB pages
        18446744073709551615,  # before Linux 3.19
    ],
)
def test_v1_no_limit_is_the_largest_number(no_limit: int) -> None:
    assert parse_memory_stat_v1(b"1\n", b"hierarchical_memory_limit %d\n" % no_limit).limit_bytes is None


def test_v2() -> None:
    stat = b"anon 20725760\nfile 1871872\nkernel 200704\ninactive_file 1871872\n"
    assert parse_memory_stat(b"22929408\n", stat, b"9682944\n", 67108864) == MemoryStat(
        usage_bytes=22929408,
        inactive_file_bytes=1871872,
        rss_bytes=20725760,
        cache_bytes=1871872,
        swap_bytes=9682944,
        limit_bytes=67108864,
    )


def test_v2_with_the_usage_alone() -> None:
    assert parse_memory_stat(b"1\n", None, None, None) == MemoryStat(usage_bytes=1)


def test_v2_limit() -> None:
    assert parse_memory_max(b"134217728\n") == 134217728
    assert parse_memory_max(b"max\n") is None
    with pytest.raises(ParseError, match=r"cannot parse memory\.max"):
        parse_memory_max(b"max")


def test_oom_kill() -> None:
    assert (
        parse_oom_kill(b"low 0\nhigh 0\nmax 23795\noom 1391\noom_kill 1\noom_group_kill 0\n", "memory.events")
        == 1
    )
    assert parse_oom_kill(b"oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "memory.oom_control") == 7
    assert parse_oom_kill(b"oom_kill_disable 0\nunder_oom 0\n", "memory.oom_control") is None


@pytest.mark.parametrize(
    ("name", "parse"),
    [
        ("memory.stat", lambda content: parse_memory_stat_v1(b"1\n", content)),
        ("memory.stat", lambda content: parse_memory_stat(b"1\n", content, None, None)),
        ("memory.usage_in_bytes", lambda content: parse_memory_stat_v1(content, b"")),
        ("memory.current", lambda content: parse_memory_stat(content, None, None, None)),
        ("memory.swap.current", lambda content: parse_memory_stat(b"1\n", None, content, None)),
        ("memory.max", parse_memory_max),
        ("memory.events", lambda content: parse_oom_kill(content, "memory.events")),
        ("memory.oom_control", lambda content: parse_oom_kill(content, "memory.oom_control")),
    ],
)
@given(data=st.data())
def test_truncated_and_garbled_files(
    name: str, parse: Callable[[bytes], object], data: st.DataObject
) -> None:
    content = data.draw(st.sampled_from(captured(name)))
    broken = content[: data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=20))
    try:
        value = parse(broken)
    except ParseError:
        return
    assert value is None or isinstance(value, MemoryStat | int)
