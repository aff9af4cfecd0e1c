from __future__ import annotations

from pathlib import Path

import pytest

from falcon_agent.errors import ParseError
from falcon_agent.procfs.sysctl import parse_number, parse_numbers


def test_this_kernel() -> None:
    memory = parse_numbers(Path("/proc/sys/net/ipv4/tcp_mem").read_bytes(), "net/ipv4/tcp_mem", 3)
    assert memory == sorted(memory)
    assert parse_number(Path("/proc/sys/kernel/pid_max").read_bytes(), "kernel/pid_max") > 300


def test_numbers_stand_between_tabs() -> None:
    assert parse_numbers(b"287898\t383867\t575796\n", "net/ipv4/tcp_mem", 3) == [287898, 383867, 575796]
    assert parse_number(b"0\n", "net/netfilter/nf_conntrack_count") == 0


@pytest.mark.parametrize("content", [b"", b"\n", b"1", b"-1\n", b"1 2\n", b"x\n", b"1.5\n", b"0x1\n"])
def test_anything_else_is_an_error(content: bytes) -> None:
    with pytest.raises(ParseError, match="/proc/sys/kernel/pid_max"):
        parse_number(content, "kernel/pid_max")
