from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Cgroup, Hierarchies, IoStat
from falcon_agent.cgroupfs.io import parse_io_stat, parse_io_stat_v1
from falcon_agent.container import CgroupPaths
from falcon_agent.errors import ParseError
from tests.cgroupfs.trees import DOCKER, Tree
from tests.collectors.opened import DOCKER_IO

if TYPE_CHECKING:
    from pathlib import Path

FOUR = b"rbytes=1 wbytes=2 rios=3 wios=4"


def test_a_captured_container_of_v2() -> None:
    # dd read 40 and wrote 24 blocks of 64 KiB.
    assert Tree("v2").cgroup(DOCKER["v2"]).io() == {"98:0": IoStat(40 << 16, 24 << 16, 40, 24)}


def test_a_captured_container_of_v1() -> None:
    tree = Tree("v1-io")
    # It read 100 and wrote 30 blocks of 64 KiB; of the loop device's file on disk, less was read.
    assert tree.cgroup(DOCKER_IO).io() == {
        "7:0": IoStat(100 << 16, 30 << 16, 100, 30),
        "254:0": IoStat(16384, 30 << 16, 4, 30),
    }


def test_what_is_below_counts_where_the_kernel_tells(tmp_path: Path) -> None:
    tree = Tree.copy("v1-io", tmp_path)
    directory = tree.directory(DOCKER_IO, "blkio")
    (directory / "blkio.throttle.io_service_bytes_recursive").write_bytes(b"7:0 Read 10\nTotal 10\n")
    (directory / "blkio.throttle.io_serviced_recursive").write_bytes(b"7:0 Read 2\nTotal 2\n")
    assert tree.cgroup(DOCKER_IO).io() == {"7:0": IoStat(read_bytes=10, read_requests=2)}
    (directory / "blkio.throttle.io_serviced_recursive").unlink()  # an older kernel
    assert tree.cgroup(DOCKER_IO).io() == Tree("v1-io").cgroup(DOCKER_IO).io()


@pytest.mark.parametrize(("layout", "pid"), [("v2", DOCKER["v2"]), ("v1-io", DOCKER_IO)])
def test_a_controller_that_is_off(layout: str, pid: int, tmp_path: Path) -> None:
    tree = Tree.copy(layout, tmp_path)
    for file in tree.directory(pid, "blkio").glob("*io*"):
        file.unlink()
    assert tree.cgroup(pid).io() is None
    assert Cgroup(Hierarchies([]), CgroupPaths({"blkio": "/a"}, None)).io() is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", {}),
        (
            b"8:16 " + FOUR + b" dbytes=5 dios=6 cost.usage=7 depth=max avg_lat=8\n",
            {"8:16": IoStat(1, 2, 3, 4)},
        ),
        (b"8:0 " + FOUR + b"\n8:16 " + FOUR + b"\n", {"8:0": IoStat(1, 2, 3, 4), "8:16": IoStat(1, 2, 3, 4)}),
        # Linux 5.10 to 5.17 forget the end of a line.
        (b"7:0 7:1 8:0 " + FOUR + b"\n", {"8:0": IoStat(1, 2, 3, 4)}),
        (b"8:0 \n", {}),
        (b"8:0 cost.wait=4\n", {}),
        (b"(unknown) " + FOUR + b"\n", {}),
        (b"8:0 rbytes=0 wbytes=0 rios=0 wios=0\n", {"8:0": IoStat(0, 0, 0, 0)}),
    ],
)
def test_forms_of_io_stat(content: bytes, expected: dict[str, IoStat]) -> None:
    assert parse_io_stat(content) == expected


@pytest.mark.parametrize(
    "content", [b"8:0 " + FOUR, b"8:0 rbytes=1 wbytes=2 rios=3\n", b"8:0 rbytes=-1 wbytes=2 rios=3 wios=4\n"]
)
def test_other_forms_are_refused(content: bytes) -> None:
    with pytest.raises(ParseError, match=r"io\.stat"):
        parse_io_stat(content)


def zeros(device: str) -> bytes:
    """What Linux 6.1 wrote of a cgroup without a throttle, though it had read and written."""
    operations = ("Read", "Write", "Sync", "Async", "Discard", "Total")
    return "".join(f"{device} {operation} 0\n" for operation in operations).encode()


def test_a_zero_of_v1_is_not_known_to_be_one() -> None:
    # Linux 6.18, before anybody set a throttle on the device.
    assert parse_io_stat_v1(b"Total 0\n", b"Total 0\n") == {}
    # Linux 6.1, without a throttle; then with one for reads, after 40 reads of 64 KiB and 24 writes.
    assert parse_io_stat_v1(zeros("98:0") + b"Total 0\n", zeros("98:0") + b"Total 0\n") == {}
    sizes = zeros("98:0").replace(b"Read 0", b"Read 2621440")
    requests = zeros("98:0").replace(b"Read 0", b"Read 40")
    assert parse_io_stat_v1(sizes + b"Total 2621440\n", requests + b"Total 40\n") == {
        "98:0": IoStat(read_bytes=2621440, read_requests=40)
    }


@pytest.mark.parametrize("content", [b"8:0 Read 1", b"8:0 Read -1\n", b"8:0 Read\n", b"Total\n"])
def test_other_forms_of_v1_are_refused(content: bytes) -> None:
    with pytest.raises(ParseError, match=r"blkio\.throttle\.io_service_bytes"):
        parse_io_stat_v1(content, b"Total 0\n")
    with pytest.raises(ParseError, match=r"blkio\.throttle\.io_serviced"):
        parse_io_stat_v1(b"Total 0\n", content)
