from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Cgroup
from falcon_agent.collectors import diskio
from falcon_agent.collectors.diskio import DiskioCollector
from falcon_agent.container import CgroupPaths
from falcon_agent.errors import GoneError, ParseError
from tests.cgroupfs.live import V2
from tests.cgroupfs.trees import DOCKER, Tree
from tests.collectors.opened import DOCKER_IO, cycle, of_host, of_tree, reasons
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falcon_agent.collectors.base import Collector
    from tests.real.engine import Engine

ALL = ("disk.io.read_bytes", "disk.io.write_bytes", "disk.io.read_requests", "disk.io.write_requests")
LOOP_CTL_ADD, LOOP_CTL_REMOVE, LOOP_CTL_GET_FREE = 0x4C80, 0x4C81, 0x4C82


def test_a_captured_container_of_v2() -> None:
    tree = Tree("v2")
    collector = DiskioCollector(tree.proc)
    with of_tree(tree, DOCKER["v2"]) as target:
        # dd read 40 and wrote 24 blocks of 64 KiB.
        assert cycle(collector, target) == {
            "disk.io.read_bytes[ubda]": 2621440, "disk.io.write_bytes[ubda]": 1572864,
            "disk.io.read_requests[ubda]": 40, "disk.io.write_requests[ubda]": 24,
        }  # fmt: skip
        assert not reasons(collector, target)


def test_a_captured_container_of_v1() -> None:
    tree = Tree("v1-io")
    collector = DiskioCollector(tree.proc)
    with of_tree(tree, DOCKER_IO) as target:
        # 100 reads and 30 writes of 64 KiB; the file of the loop device is on vda.
        assert cycle(collector, target) == {
            "disk.io.read_bytes[loop0]": 6553600, "disk.io.write_bytes[loop0]": 1966080,
            "disk.io.read_requests[loop0]": 100, "disk.io.write_requests[loop0]": 30,
            "disk.io.read_bytes[vda]": 16384, "disk.io.write_bytes[vda]": 1966080,
            "disk.io.read_requests[vda]": 4, "disk.io.write_requests[vda]": 30,
        }  # fmt: skip
        assert not reasons(collector, target)


def test_a_device_without_a_name_is_left_out(tmp_path: Path) -> None:
    tree = Tree.copy("v1-io", tmp_path)
    partitions = tree.root / "proc/partitions"
    partitions.write_text(partitions.read_text().replace(" 254 ", " 253 "))
    collector = DiskioCollector(tree.proc)
    with of_tree(tree, DOCKER_IO) as target:
        assert {name.rpartition("[")[2] for name in cycle(collector, target)} == {"loop0]"}
        assert not reasons(collector, target)
        partitions.write_bytes(b"")
        assert not cycle(collector, target)
        assert reasons(collector, target) == dict.fromkeys(
            ALL, "/proc/partitions has no name for its device 254:0: it has no medium, or is hidden"
        )


def test_nothing_counted_is_not_zero(tmp_path: Path) -> None:
    tree = Tree.copy("v1-io", tmp_path)
    directory = tree.directory(DOCKER_IO, "blkio")
    collector = DiskioCollector(tree.proc)
    with of_tree(tree, DOCKER_IO) as target:
        for file in directory.iterdir():
            file.write_bytes(b"7:0 Read 4\n7:0 Write 0\nTotal 4\n")
        assert set(cycle(collector, target)) == {"disk.io.read_bytes[loop0]", "disk.io.read_requests[loop0]"}
        one_way = reasons(collector, target)
        assert set(one_way) == {"disk.io.write_bytes", "disk.io.write_requests"}
        assert "throttle of that direction" in one_way["disk.io.write_bytes"]
        for file in directory.iterdir():
            file.write_bytes(b"7:0 Read 0\n7:0 Write 0\nTotal 0\n")
        assert not cycle(collector, target)
        assert set(reasons(collector, target)) == set(ALL)
        assert "waits for a throttle" in reasons(collector, target)["disk.io.read_bytes"]


def test_v2_without_any_request_or_account(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    collector = DiskioCollector(tree.proc)
    stat = tree.directory(DOCKER["v2"], "io") / "io.stat"
    with of_tree(tree, DOCKER["v2"]) as target:
        stat.write_bytes(b"")
        assert not cycle(collector, target)
        nothing = "no request of it has reached a block device yet"
        assert reasons(collector, target) == dict.fromkeys(ALL, nothing)
        stat.write_bytes(b"98:0 rbytes=0 wbytes=0 rios=0 wios=0\n")
        assert set(cycle(collector, target).values()) == {0}
        stat.unlink()
        assert not cycle(collector, target)
        no_account = "the kernel keeps no I/O account of this cgroup"
        assert reasons(collector, target) == dict.fromkeys(ALL, no_account)
        target.cgroup = Cgroup(tree.hierarchies, CgroupPaths({}, None))
        assert not cycle(collector, target)
        assert reasons(collector, target) == dict.fromkeys(ALL, "no cgroup hierarchy accounts for io here")
        collector.forget(target)
        collector.forget(target)
        assert not reasons(collector, target)


def test_a_container_that_has_no_blkio_cgroup_of_its_own(tmp_path: Path) -> None:
    root = Tree.copy("hybrid", tmp_path).root
    (root / "sys/fs/cgroup/blkio").mkdir()
    tree = Tree("hybrid", root)
    collector = DiskioCollector(tree.proc)
    with of_tree(tree, DOCKER["hybrid"]) as target:
        assert not cycle(collector, target)
        assert set(reasons(collector, target)) == set(ALL)
        assert "root cgroup" in reasons(collector, target)["disk.io.read_bytes"]


def test_no_more_devices_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree.copy("v1-io", tmp_path)
    monkeypatch.setattr(diskio, "MOST_DEVICES", 1)
    with of_tree(tree, DOCKER_IO) as target:
        # The same one in every cycle, however the kernel sorts them.
        assert {name.rpartition("[")[2] for name in cycle(DiskioCollector(tree.proc), target)} == {"vda]"}


def test_a_host_that_does_not_name_its_disks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GoneError):
        DiskioCollector(str(tmp_path)).begin([])
    (tmp_path / "partitions").write_bytes(b"vda\n")
    with pytest.raises(ParseError):
        DiskioCollector(str(tmp_path)).begin([])


def test_it_is_a_collector_of_containers() -> None:
    collector: Collector = DiskioCollector()
    assert (collector.name, collector.scope) == ("diskio", "container")
    assert not list(collector.collect(None))
    assert tuple(metric.name.removeprefix("container.") for metric in collector.metrics) == ALL
    assert {metric.tags for metric in collector.metrics} == {("device",)}


@contextlib.contextmanager
def loop_device(directory: Path) -> Iterator[str]:
    """A block device of this test alone, on which nobody ever set a throttle."""
    file = directory / "disk"
    with file.open("wb") as made:
        made.truncate(16 << 20)
    with Path("/dev/loop-control").open("rb") as control:
        number = next(n for n in range(1000, 2000) if not Path(f"/sys/block/loop{n}").exists())
        fcntl.ioctl(control, LOOP_CTL_ADD, number)
        name = f"loop{number}"
        device = Path("/dev") / name
        if not device.exists():  # nobody looks after /dev here
            major, minor = Path(f"/sys/block/{name}/dev").read_text().split(":")
            os.mknod(device, 0o060600, os.makedev(int(major), int(minor)))
        try:
            subprocess.run(["losetup", device, file], check=True)
            try:
                yield name
            finally:
                subprocess.run(["losetup", "--detach", device], check=True)
        finally:
            wait_until(lambda: has_removed(control.fileno(), number), f"{name} is not open any more")
            device.unlink(missing_ok=True)


def has_removed(control: int, number: int) -> bool:
    """Whether a loop device is removed, now that it was tried: who looks at every new device may have it open."""
    try:
        fcntl.ioctl(control, LOOP_CTL_REMOVE, number)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def diskstats(name: str) -> dict[str, int]:
    """What /proc/diskstats says of a device: reads, sectors read, writes, sectors written."""
    for line in Path("/proc/diskstats").read_text().splitlines():
        words = line.split()
        if words[2] == name:
            reads, _, sectors_read, _, writes, _, sectors_written = map(int, words[3:10])
            return {
                f"disk.io.read_bytes[{name}]": sectors_read * 512,
                f"disk.io.write_bytes[{name}]": sectors_written * 512,
                f"disk.io.read_requests[{name}]": reads,
                f"disk.io.write_requests[{name}]": writes,
            }
    raise AssertionError(f"no device {name}")


def dd(engine: Engine, container: str, *operands: str) -> None:
    engine.exec(container, "dd", "bs=65536", *operands)


@pytest.mark.real
def test_real_direct_io_of_one_container_against_diskstats(docker_engine: Engine, tmp_path: Path) -> None:
    with loop_device(tmp_path) as name:
        device = f"/dev/{name}"
        throttles = ("--device-read-bps", f"{device}:1tb", "--device-write-bps", f"{device}:1tb")
        collector = DiskioCollector()
        with (
            docker_engine.container("--device", device) as quiet,
            docker_engine.container("--device", device, *throttles) as busy,
            of_host(docker_engine.pid(quiet)) as beside,
            of_host(docker_engine.pid(busy)) as target,
        ):
            start = diskstats(name)
            dd(docker_engine, busy, f"if={device}", "of=/dev/null", "iflag=direct", "count=40")
            dd(docker_engine, busy, "if=/dev/zero", f"of={device}", "oflag=direct", "count=24")
            found = {key: value for key, value in cycle(collector, target).items() if f"[{name}]" in key}
            assert found[f"disk.io.read_bytes[{name}]"] == 40 << 16
            assert found[f"disk.io.write_bytes[{name}]"] == 24 << 16
            # A request is counted there a moment after who made it was told of its end.
            wait_until(
                lambda: found == {key: end - start[key] for key, end in diskstats(name).items()},
                f"diskstats of {start}, {diskstats(name)} have grown by {found}",
            )
            assert not [key for key in cycle(collector, beside) if f"[{name}]" in key]


@pytest.mark.real
def test_without_a_throttle_v1_says_nothing(docker_engine: Engine, tmp_path: Path) -> None:
    with loop_device(tmp_path) as name:
        device = f"/dev/{name}"
        collector = DiskioCollector()
        with (
            docker_engine.container("--device", device) as container,
            of_host(docker_engine.pid(container)) as target,
        ):
            dd(docker_engine, container, f"if={device}", "of=/dev/null", "iflag=direct", "count=40")
            found = {key: value for key, value in cycle(collector, target).items() if f"[{name}]" in key}
            if V2:
                assert found[f"disk.io.read_bytes[{name}]"] == 40 << 16
            else:
                assert not found
