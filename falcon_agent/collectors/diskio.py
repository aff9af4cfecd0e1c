"""What containers read from disks and write to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.kernelfile import read_to_eof
from falcon_agent.metric import Metric, Source
from falcon_agent.procfs.partitions import parse_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from falcon_agent.cgroupfs import Cgroup, IoStat
    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample

MOST_DEVICES = 32
"""Of one container; the others are left out."""

_TAGS = ("device",)


def _metric(operation: str, unit: str, meaning: str, key: str, file: str) -> Metric:
    return Metric(
        f"container.disk.io.{operation.lower()}_{unit}",
        "COUNTER",
        unit,
        meaning,
        f"{key} (v2), {operation} (v1), of one device",
        (Source("io.stat", (), "v2"), Source(file, (), "v1"), Source(f"{file}_recursive", (), "v1")),
        _TAGS,
    )


_BYTES = "blkio.throttle.io_service_bytes"
_REQUESTS = "blkio.throttle.io_serviced"

READ_BYTES = _metric("Read", "bytes", "Bytes read from the device.", "rbytes", _BYTES)
WRITE_BYTES = _metric("Write", "bytes", "Bytes written to the device.", "wbytes", _BYTES)
READ_REQUESTS = _metric("Read", "requests", "Reads that went to the device.", "rios", _REQUESTS)
WRITE_REQUESTS = _metric("Write", "requests", "Writes that went to the device.", "wios", _REQUESTS)

_NO_ACCOUNT = "the kernel keeps no I/O account of this cgroup"
_NOTHING_V2 = "no request of it has reached a block device yet"
_NOTHING_V1 = (
    "nothing was counted yet: no request of it has reached a block device, or the kernel waits for a throttle (under"
    " cgroup v1 that is what switches the counting on: blkio.throttle.read_bps_device and write_bps_device)"
)
_ONE_WAY_V1 = (
    "none was counted yet: it made none, or the kernel waits for a throttle of that direction (cgroup v1)"
)


class DiskioCollector:
    """What containers read from each block device and write to it; needs no privilege.

    Page cache hits are no I/O. Under v1 the kernel charges what is written through the page cache to the host, so
    only direct and synchronous writes are the container's, and some kernels count nothing at all until a throttle
    is set: then these metrics are absent, not 0. A device that lies on others (dm, md, loop) is counted beside them.
    One file is read for each container, two under v1 (0.05 ms of CPU), and /proc/partitions once in every cycle.

    Args:
        proc: where /proc is.
    """

    name = "diskio"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = (READ_BYTES, WRITE_BYTES, READ_REQUESTS, WRITE_REQUESTS)

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._names: Mapping[str, str] = {}
        self._absent: dict[str, dict[str, str]] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Read the names of the host's block devices.

        Raises:
            KernelFileError, ParseError: /proc/partitions does not tell.
        """
        self._names = parse_partitions(read_to_eof(f"{self._proc}/partitions"))

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The counters of one container for each device; errors as the methods of `Cgroup`."""
        if target is None:
            return
        absent = self._absent[target.container.key] = {}
        stats = target.cgroup.io()
        known = {} if stats is None else {key: stat for key, stat in stats.items() if key in self._names}
        seen = set()
        for key in sorted(known)[:MOST_DEVICES]:
            tags = (("device", self._names[key]),)
            for metric, value in _values(known[key]):
                if value is not None:
                    seen.add(metric)
                    yield metric, value, tags
        for metric in self.metrics:
            if metric not in seen:
                absent[metric.name] = _reason(stats, known, target.cgroup)

    def forget(self, target: Target) -> None:
        """Drop what was said about a container that left."""
        self._absent.pop(target.container.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why `metric` had no value for `target` in the last cycle."""
        return self._absent.get(target.container.key, {}).get(metric.name)


def _values(stat: IoStat) -> Iterable[tuple[Metric, int | None]]:
    yield READ_BYTES, stat.read_bytes
    yield WRITE_BYTES, stat.write_bytes
    yield READ_REQUESTS, stat.read_requests
    yield WRITE_REQUESTS, stat.write_requests


def _reason(stats: Mapping[str, IoStat] | None, known: Mapping[str, IoStat], cgroup: Cgroup) -> str:
    """Why no device has a value."""
    if stats is None:
        return cgroup.reason("blkio" if "blkio" in cgroup.paths.v1 else "io") or _NO_ACCOUNT
    if known:
        return _ONE_WAY_V1
    if stats:
        return f"/proc/partitions has no name for its device {min(stats)}: it has no medium, or is hidden"
    return _NOTHING_V1 if "blkio" in cgroup.paths.v1 else _NOTHING_V2
