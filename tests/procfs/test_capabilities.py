"""Who a process is, from /proc/PID/status."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.capabilities import Credentials, capability_mask, parse_credentials

STATUS = (
    b"Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t20 30 \n"
    b"CapPrm:\t000001ffffffffff\nCapEff:\t%016x\nCapBnd:\t000001ffffffffff\n"
)


def test_what_counts_is_the_effective_ones() -> None:
    assert parse_credentials(STATUS % 0) == Credentials(2, 6, frozenset({20, 30}), 0)


def test_names_of_the_bits() -> None:
    # include/uapi/linux/capability.h: CAP_NET_BROADCAST 11, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21
    assert parse_credentials(STATUS % 0).capabilities == frozenset()
    assert parse_credentials(STATUS % (1 << 19)).capabilities == {"CAP_SYS_PTRACE"}
    both = parse_credentials(STATUS % (1 << 11 | 1 << 21)).capabilities
    assert both == {"CAP_NET_BROADCAST", "CAP_SYS_ADMIN"}


def test_a_mask_of_names_as_systemd_writes_them() -> None:
    assert capability_mask(["cap_sys_admin", "CAP_NET_BROADCAST", "cap_wake_alarm"]) == 1 << 21 | 1 << 11
    assert capability_mask([]) == 0


def test_those_of_real_processes() -> None:
    own = parse_credentials(Path("/proc/self/status").read_bytes())
    assert (own.uid, own.gid, own.groups) == (os.geteuid(), os.getegid(), frozenset(os.getgroups()))
    assert "CAP_SYS_ADMIN" in own.capabilities
    other = subprocess.run(
        ["setpriv", "--reuid=12", "--regid=34", "--groups=56,78", "cat", "/proc/self/status"],
        capture_output=True,
        check=True,
    )
    assert parse_credentials(other.stdout) == Credentials(12, 34, frozenset({56, 78}), 0)


def test_no_groups_at_all() -> None:
    assert parse_credentials((STATUS % 0).replace(b"20 30 ", b"")).groups == frozenset()


@pytest.mark.parametrize("line", [b"Uid", b"Gid", b"Groups", b"CapEff"])
def test_no_such_line(line: bytes) -> None:
    rest = [one for one in (STATUS % 0).split(b"\n") if not one.startswith(line)]
    with pytest.raises(ParseError, match=f"no line {line.decode()}"):
        parse_credentials(b"\n".join(rest))
    with pytest.raises(ParseError, match="not what it should be"):
        parse_credentials(b"\n".join([*rest, line + b":\tfoo"]))


@given(st.binary())
def test_garbage_is_a_typed_error_or_credentials(content: bytes) -> None:
    for status in (content, STATUS % 0 + b"Uid:" + content):
        try:
            assert isinstance(parse_credentials(status), Credentials)
        except ParseError as error:
            assert "cannot parse" in str(error)  # noqa: PT017  either outcome is right
