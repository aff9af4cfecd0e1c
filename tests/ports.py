"""Ports of loopback for servers that are not there yet, or not any more."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port where nobody listens now, and that the kernel gives to nobody who does not ask for it by its number.

    One that was bound as port 0 and let go is in the range for outgoing connections: whoever connects next may get it,
    and who connects to it may even get itself.
    """
    first, last = map(int, _RANGE.read_text().split())
    ports = range(_LOWEST, first) if first > _LOWEST else range(last + 1, 65536)
    while True:
        port = random.choice(ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
