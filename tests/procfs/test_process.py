from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import DeniedError, GoneError, ParseError
from falcon_agent.procfs.process import Process, parse_starttime
from tests.namespaces.lab import become_nobody, descriptors, eventually, in_child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAT = b"7 (sh) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 10 11\n"


def test_starttime_is_field_22() -> None:
    assert parse_starttime(STAT) == 123456


def test_a_command_name_may_hold_brackets_and_spaces() -> None:
    assert parse_starttime(STAT.replace(b"(sh)", b"(a) S 1 (b) )")) == 123456


@settings(deadline=None)
@given(st.integers(0, len(STAT)), st.binary(max_size=30))
def test_cut_or_garbled_stat(cut: int, garbage: bytes) -> None:
    for content in (STAT[:cut], STAT[:cut] + garbage + STAT[cut:], garbage):
        with contextlib.suppress(ParseError):
            parse_starttime(content)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


@pytest.mark.real
def test_a_process_is_read_through_its_directory(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process("/proc", sleeper.pid)
    try:
        assert process.starttime() > 0
        assert b"TCP:" in process.read("net/sockstat")
        assert process.namespace_inode("net") == os.stat("/proc/self/ns/net").st_ino
    finally:
        process.close()


@pytest.mark.real
def test_a_dead_process_is_gone_while_a_zombie_and_after(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process("/proc", sleeper.pid)
    try:
        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(GoneError):
            process.read("net/sockstat")
        with pytest.raises(GoneError):
            process.namespace_inode("net")
        sleeper.wait()
        with pytest.raises(GoneError):
            process.starttime()
        with pytest.raises(GoneError):
            Process("/proc", sleeper.pid)
    finally:
        process.close()


@pytest.mark.real
def test_another_start_time_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process("/proc", sleeper.pid)
    began = process.starttime()
    process.close()
    Process("/proc", sleeper.pid, began).close()
    before = descriptors()
    with pytest.raises(GoneError, match="belongs to another"):
        Process("/proc", sleeper.pid, began + 1)
    assert descriptors() <= before


@pytest.mark.real
def test_a_namespace_needs_privilege_and_the_counters_do_not(sleeper: subprocess.Popen[bytes]) -> None:
    def inode() -> int:
        return Process("/proc", sleeper.pid).namespace_inode("net")

    def counters() -> int:
        return len(Process("/proc", sleeper.pid).read("net/sockstat"))

    eventually(lambda: os.readlink(f"/proc/{sleeper.pid}/exe") != os.readlink("/proc/self/exe"), "exec")
    assert in_child(inode, before=become_nobody).startswith(DeniedError.__name__)
    assert int(in_child(counters, before=become_nobody)) > 0


def test_closing_twice_closes_once(tmp_path: Path) -> None:
    process = Process("/proc", os.getpid())
    process.close()
    with (tmp_path / "x").open("w") as other:
        process.close()
        assert os.fstat(other.fileno()).st_size == 0, sys.version
