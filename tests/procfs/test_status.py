from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.status import Status, parse_status

FIXTURES = Path(__file__).parents[1] / "fixtures/procfs"
INIT = (FIXTURES / "status-container-init").read_bytes()
HOST = (FIXTURES / "status-host").read_bytes()


def test_first_process_of_a_container() -> None:
    status = parse_status(INIT)
    assert status == Status(b"docker-init", 16843, (16865, 1))
    assert status.is_nested_init


def test_process_of_the_host() -> None:
    status = parse_status(HOST)
    assert status == Status(b"python", 16686, (16690,))
    assert not status.is_nested_init


def test_pid_1_of_the_host_is_no_nested_init() -> None:
    assert not Status(b"systemd", 0, (1,)).is_nested_init


def test_later_process_of_a_container_is_no_init() -> None:
    assert not Status(b"sh", 16865, (16900, 7)).is_nested_init


def test_kernel_before_4_1_has_no_nspid() -> None:
    content = b"".join(line for line in INIT.splitlines(keepends=True) if not line.startswith(b"NSpid"))
    assert parse_status(content).nspid == ()


def test_a_name_cannot_pass_for_a_line() -> None:
    # The kernel writes a newline in a name as \n in two characters; a carriage return it leaves alone.
    content = HOST.replace(b"Name:\tpython", b"Name:\tx\rNSpid:\t9\t1")
    assert parse_status(content) == Status(b"x\rNSpid:\t9\t1", 16686, (16690,))


@pytest.mark.parametrize("line", [b"Name", b"PPid"])
def test_a_missing_line_is_an_error(line: bytes) -> None:
    content = b"".join(one for one in HOST.splitlines(keepends=True) if not one.startswith(line + b":"))
    with pytest.raises(ParseError, match=f"no line {line.decode()}"):
        parse_status(content)


@given(st.integers(0, len(INIT) - 1))
def test_truncated_file_is_a_typed_error_or_all_of_it_that_matters(size: int) -> None:
    try:
        status = parse_status(INIT[:size])
    except ParseError:
        return
    assert status in {Status(b"docker-init", 16843, (16865, 1)), Status(b"docker-init", 16843, ())}


@given(st.binary(max_size=200))
def test_garbage_is_a_typed_error(garbage: bytes) -> None:
    for content in (garbage, garbage + b"\n", INIT + garbage + b"\n", b"PPid:\t" + garbage + b"\n" + INIT):
        try:
            parse_status(content)
        except ParseError as error:
            assert str(error).startswith("cannot parse")  # noqa: PT017


@pytest.mark.real
def test_this_very_process() -> None:
    status = parse_status(Path("/proc/self/status").read_bytes())
    assert status.nspid[0] == os.getpid()
    assert status.ppid == os.getppid()
