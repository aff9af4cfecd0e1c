"""The io controller (v2) and blkio (v1): bytes and requests, for each block device.

Sources: Linux, admin-guide/cgroup-v2.rst ("IO Interface Files") and admin-guide/cgroup-v1/blkio-controller.rst.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from falcon_agent.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEVICE = re.compile(rb"[0-9]{1,10}:[0-9]{1,10}")
_NUMBER = re.compile(rb"[0-9]{1,20}")
_V1_LINE = re.compile(rb"(\S+) (\S+) ([0-9]{1,20})")


class IoStat(NamedTuple):
    """What a cgroup, with everything below it, has had of one block device; None where nothing was counted.

    Attributes:
        read_bytes: bytes read from it.
        write_bytes: bytes written to it.
        read_requests: reads, as they were handed to the device.
        write_requests: writes, alike.
    """

    read_bytes: int | None = None
    write_bytes: int | None = None
    read_requests: int | None = None
    write_requests: int | None = None


def parse_io_stat(content: bytes) -> dict[str, IoStat]:
    """`io.stat` of v2, by `MAJOR:MINOR` of the device.

    A line is the device and `key=value` pairs. Which there are depends on what else controls the device: those
    of iocost and iolatency are passed over, and so are devices that only these speak of. Linux 5.10 to 5.17 forget
    the end of the line of a device without any pair, so that two devices stand on one line.

    Raises:
        ParseError: one of the four values is missing or no number, or the last line was cut short.
    """
    pairs: dict[bytes, dict[bytes, bytes]] = {}
    for line in _lines(content, "io.stat"):
        device = b""
        for word in line.split():
            key, sign, value = word.partition(b"=")
            if not sign:
                device = word
            elif _DEVICE.fullmatch(device):
                pairs.setdefault(device, {})[key] = value
    return {device.decode(): _stat(values) for device, values in pairs.items() if b"rbytes" in values}


def _stat(values: Mapping[bytes, bytes]) -> IoStat:
    found = [values.get(key, b"") for key in (b"rbytes", b"wbytes", b"rios", b"wios")]
    if not all(map(_NUMBER.fullmatch, found)):
        raise ParseError("io.stat", "rbytes, wbytes, rios and wios are not all numbers")
    read_bytes, write_bytes, read_requests, write_requests = map(int, found)
    return IoStat(read_bytes, write_bytes, read_requests, write_requests)


def parse_io_stat_v1(service_bytes: bytes, serviced: bytes) -> dict[str, IoStat]:
    """The same from two files of v1, where a 0 is not known to be one: it becomes None.

    The code that throttles does the counting. On Linux 6.18 a device has no lines before anybody has set a throttle
    on it, in any cgroup; afterwards everything on it is counted. On Linux 6.1 a cgroup's reads stay 0 until it has
    a throttle for reads itself, and its writes alike.

    Args:
        service_bytes: of `blkio.throttle.io_service_bytes` or its `_recursive` form.
        serviced: of `blkio.throttle.io_serviced`, alike.

    Raises:
        ParseError: a line is not `MAJOR:MINOR OPERATION NUMBER`, or the last one was cut short.
    """
    in_bytes = _operations(service_bytes, "blkio.throttle.io_service_bytes")
    in_requests = _operations(serviced, "blkio.throttle.io_serviced")
    stats = {}
    for device, requests in in_requests.items():
        sizes = in_bytes.get(device, {})
        stat = IoStat(
            read_bytes=sizes.get(b"Read") or None,
            write_bytes=sizes.get(b"Write") or None,
            read_requests=requests.get(b"Read") or None,
            write_requests=requests.get(b"Write") or None,
        )
        if stat != IoStat():
            stats[device.decode()] = stat
    return stats


def _operations(content: bytes, source: str) -> dict[bytes, dict[bytes, int]]:
    """Device to operation (`Read`, `Write`, `Sync`, ...) to number."""
    devices: dict[bytes, dict[bytes, int]] = {}
    for line in _lines(content, source):
        if line.startswith(b"Total "):
            continue
        match = _V1_LINE.fullmatch(line)
        if match is None:
            raise ParseError(source, f"{line[:80]!r} is not a device, an operation and a number")
        device, operation, number = match.groups()
        if _DEVICE.fullmatch(device):
            devices.setdefault(device, {})[operation] = int(number)
    return devices


def _lines(content: bytes, source: str) -> list[bytes]:
    *lines, rest = content.split(b"\n")
    if rest:
        raise ParseError(source, "the last line is cut short")
    return lines
