"""Reading kernel files: whole, bounded, with errors that say what happened."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest

from falcon_agent.errors import DeniedError, GoneError, KernelFileError
from falcon_agent.kernelfile import (
    note,
    open_to_read_again,
    read_again,
    read_error,
    read_optional,
    read_record,
    read_to_eof,
    recording,
)
from falcon_agent.procfs.process import Process
from tests.namespaces.lab import eventually


def test_a_large_procfs_file_is_read_whole() -> None:
    # One read of it is short: the kernel hands out a buffer at a time.
    fd = os.open("/proc/kallsyms", os.O_RDONLY)
    once = os.read(fd, 1024 * 1024)
    os.close(fd)
    whole = read_to_eof("/proc/kallsyms", limit=64 * 1024 * 1024)
    assert len(whole) > len(once)
    assert whole.endswith(b"\n")


def without_numbers(content: bytes) -> list[list[bytes]]:
    """Its lines, less what changes from one moment to the next."""
    return [re.sub(rb"\d+", b"0", line).split() for line in content.splitlines()]


@pytest.mark.parametrize("name", ["net/sockstat", "net/sockstat6", "net/snmp", "status"])
def test_a_record_is_whole_with_one_read(name: str) -> None:
    directory = os.open("/proc/self", os.O_PATH)
    try:
        with recording() as seen:
            found = read_record(name, dir_fd=directory, base="/proc/self")
        assert without_numbers(found) == without_numbers(read_to_eof(f"/proc/self/{name}"))
        assert seen == [(f"/proc/self/{name}", found)]
        with pytest.raises(GoneError, match="/proc/self/none"):
            read_record("none", dir_fd=directory, base="/proc/self")
    finally:
        os.close(directory)


def test_what_is_longer_than_expected_is_read_on(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"line\n" * 5000)
    directory = os.open(tmp_path, os.O_PATH)
    fd = open_to_read_again("long", dir_fd=directory)
    try:
        for length in (4096, 4095, 4097, 25_000, 0):
            content = (b"line\n" * 5000)[:length]
            (tmp_path / "long").write_bytes(content)
            assert read_again(fd, "long", str(tmp_path)) == content
            assert read_record("long", dir_fd=directory, base=str(tmp_path)) == content
    finally:
        os.close(fd)
        os.close(directory)


def test_nothing_larger_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 200_000)
    assert len(read_to_eof(str(path), limit=200_000)) == 200_000
    with pytest.raises(KernelFileError, match="larger than 199999 bytes"):
        read_to_eof(str(path), limit=199_999)
    with pytest.raises(KernelFileError, match="larger than"):
        read_to_eof("/dev/zero", limit=100_000)
    path.write_bytes(b"x" * 11)
    with pytest.raises(KernelFileError, match="larger than 10 bytes"):
        read_to_eof(str(path), limit=10)


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert read_to_eof(str(tmp_path / "fifo")) == b""


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, GoneError),
        (errno.ENODEV, GoneError),
        (errno.ESRCH, GoneError),
        (errno.EACCES, DeniedError),
        (errno.EPERM, DeniedError),
        (errno.EIO, KernelFileError),
    ],
)
def test_errors_are_typed_and_name_the_path(number: int, kind: type[KernelFileError]) -> None:
    error = read_error("/proc/1/stat", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert str(error) == f"cannot read /proc/1/stat: {os.strerror(number)}"


def test_absent_is_none() -> None:
    assert read_optional("/proc/self/no-such-file") is None
    with pytest.raises(KernelFileError, match="Is a directory"):
        read_optional("/proc/self")


def test_a_directory_descriptor_stays_with_its_process() -> None:
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        process = Process("/proc", sleeper.pid)
        eventually(lambda: b"sleep" in process.read("stat"), "the kernel has given it its name")
        sleeper.kill()
        sleeper.wait()
        with pytest.raises(GoneError):
            process.read("stat")
        process.close()
        process.close()


def test_recordings_hold_what_was_read_and_end_with_their_block() -> None:
    with recording() as outer:
        read_to_eof("/proc/self/comm")
        with recording() as inner:
            note("netlink", b"answer")
        read_to_eof("/proc/uptime")
    read_to_eof("/proc/version")
    assert [path for path, _ in outer] == ["/proc/self/comm", "netlink", "/proc/uptime"]
    assert inner == [("netlink", b"answer")]
    assert outer[0][1] == Path("/proc/self/comm").read_bytes()
