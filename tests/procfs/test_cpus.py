from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.cpus import count_online_cpus

CAPTURED = (Path(__file__).parent.parent / "fixtures/cgroup/hybrid/first/proc/stat").read_bytes()


def test_counts_the_lines_of_single_cpus() -> None:
    assert count_online_cpus(CAPTURED) == 2
    assert count_online_cpus(b"cpu  9 9\ncpu0 1 1\ncpu2 1 1\ncpu11 1 1\nintr 5 0\nctxt 1\n") == 3


@pytest.mark.real
def test_this_host() -> None:
    assert count_online_cpus(Path("/proc/stat").read_bytes()) == os.sysconf("SC_NPROCESSORS_ONLN")


@pytest.mark.parametrize("garbage", [b"", b"cpu  1 2 3\n", b"xcpu0 1\n"])
def test_no_cpu_is_a_typed_error(garbage: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse /proc/stat: it has no cpu lines"):
        count_online_cpus(garbage)


@given(cut=st.integers(0, len(CAPTURED)), more=st.binary(max_size=20))
def test_truncated_and_garbled_files(cut: int, more: bytes) -> None:
    try:
        count = count_online_cpus(CAPTURED[:cut] + more)
    except ParseError:
        return
    assert count > 0
