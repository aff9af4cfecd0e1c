"""Capabilities from /proc/PID/status."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.capabilities import effective_capabilities

STATUS = b"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t%016x\nCapBnd:\t000001ffffffffff\n"


def test_names_of_the_bits() -> None:
    # include/uapi/linux/capability.h: CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21
    assert effective_capabilities(STATUS % 0) == frozenset()
    assert effective_capabilities(STATUS % (1 << 19)) == {"CAP_SYS_PTRACE"}
    assert effective_capabilities(STATUS % (1 << 19 | 1 << 21)) == {"CAP_SYS_PTRACE", "CAP_SYS_ADMIN"}


def test_those_of_root() -> None:
    assert "CAP_SYS_ADMIN" in effective_capabilities(Path("/proc/self/status").read_bytes())


@pytest.mark.parametrize("status", [b"", b"Name:\tx\n", b"CapEff:\tfoo\n", b"CapEff:\n"])
def test_no_such_line(status: bytes) -> None:
    with pytest.raises(ParseError, match="CapEff"):
        effective_capabilities(status)


@given(st.binary())
def test_garbage_is_a_typed_error_or_a_set(status: bytes) -> None:
    try:
        assert isinstance(effective_capabilities(b"CapEff:" + status), frozenset)
    except ParseError as error:
        assert "cannot parse" in str(error)  # noqa: PT017  either outcome is right
