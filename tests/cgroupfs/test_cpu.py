from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.cgroupfs import CpuStat
from falcon_agent.cgroupfs.cpu import (
    parse_cfs_period,
    parse_cfs_quota,
    parse_cpu_max,
    parse_cpu_stat,
    parse_cpu_stat_v1,
)
from falcon_agent.errors import ParseError
from tests.cgroupfs.trees import captured

if TYPE_CHECKING:
    from collections.abc import Callable

V2 = b"usage_usec 23632850\nuser_usec 8026798\nsystem_usec 15606052\n"
V2_QUOTA = b"nr_periods 292\nnr_throttled 291\nthrottled_usec 22020813\nnr_bursts 0\nburst_usec 0\n"
V1_QUOTA = b"nr_periods 262\nnr_throttled 261\nthrottled_time 20964753203\nnr_bursts 0\nburst_time 0\n"


def test_v2_counts_in_microseconds() -> None:
    assert parse_cpu_stat(V2 + V2_QUOTA) == CpuStat(
        usage_ns=23_632_850_000,
        user_ns=8_026_798_000,
        system_ns=15_606_052_000,
        nr_periods=292,
        nr_throttled=291,
        throttled_ns=22_020_813_000,
    )


def test_v2_without_the_cpu_controller_has_no_throttling() -> None:
    assert parse_cpu_stat(V2) == CpuStat(23_632_850_000, 8_026_798_000, 15_606_052_000)


def test_v2_without_usage() -> None:
    assert parse_cpu_stat(V2_QUOTA) is None


def test_v1_counts_in_nanoseconds_and_ticks() -> None:
    assert parse_cpu_stat_v1(b"17190164836\n", b"user 736\nsystem 983\n", V1_QUOTA) == CpuStat(
        usage_ns=17_190_164_836,
        user_ns=7_360_000_000,
        system_ns=9_830_000_000,
        nr_periods=262,
        nr_throttled=261,
        throttled_ns=20_964_753_203,
    )


def test_v1_with_the_usage_alone() -> None:
    assert parse_cpu_stat_v1(b"1\n", None, None) == CpuStat(usage_ns=1)


def test_quota_in_cores() -> None:
    assert parse_cpu_max(b"50000 100000\n") == 0.5
    assert parse_cpu_max(b"max 100000\n") is None
    assert parse_cfs_quota(b"-1\n") is None
    assert parse_cfs_quota(b"25000\n") == 25000
    assert parse_cfs_period(25000, b"100000\n") == 0.25


@pytest.mark.parametrize(
    "garbage", [b"", b"max\n", b"max 100000", b"0 100000\n", b"1 0\n", b"-1 100000\n", b"1 max\n"]
)
def test_quota_garbage_v2(garbage: bytes) -> None:
    with pytest.raises(ParseError, match=r"cannot parse cpu\.max"):
        parse_cpu_max(garbage)


@pytest.mark.parametrize("garbage", [b"", b"-1", b"-2\n", b"max\n", b"1 2\n"])
def test_quota_garbage_v1(garbage: bytes) -> None:
    with pytest.raises(ParseError, match=r"cannot parse cpu\.cfs_quota_us"):
        parse_cfs_quota(garbage)


@pytest.mark.parametrize(("quota", "period"), [(1, b"0\n"), (0, b"1\n"), (1, b""), (1, b"-1\n")])
def test_period_garbage(quota: int, period: bytes) -> None:
    with pytest.raises(ParseError, match=r"cannot parse cpu\.cfs_period_us"):
        parse_cfs_period(quota, period)


@pytest.mark.parametrize(
    ("name", "parse"),
    [
        ("cpu.stat", parse_cpu_stat),
        ("cpu.stat", lambda content: parse_cpu_stat_v1(b"1\n", None, content)),
        ("cpuacct.stat", lambda content: parse_cpu_stat_v1(b"1\n", content, None)),
        ("cpuacct.usage", lambda content: parse_cpu_stat_v1(content, None, None)),
        ("cpu.max", parse_cpu_max),
        ("cpu.cfs_quota_us", parse_cfs_quota),
        ("cpu.cfs_period_us", lambda content: parse_cfs_period(1, content)),
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
    assert value is None or isinstance(value, CpuStat | float | int)
