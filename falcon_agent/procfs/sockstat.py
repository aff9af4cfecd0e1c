"""/proc/PID/net/sockstat and sockstat6: how many sockets the network namespace of PID has.

Only some of the numbers belong to the namespace (kernel: net/ipv4/proc.c, net/ipv6/proc.c). `orphan`,
`alloc` and every `mem` are totals of the whole host, whichever namespace the file is read in.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from falcon_agent.errors import ParseError

_USUAL = re.compile(
    rb"sockets: used ([0-9]{1,10})\nTCP: inuse ([0-9]{1,10}) orphan ([0-9]{1,10}) tw ([0-9]{1,10}) .*\n"
    rb"UDP: inuse ([0-9]{1,10}) "
)
"""The form that it has had since Linux 2.6, for a third of the time; another order is understood too."""


class Sockstat(NamedTuple):
    """IPv4 sockets of a network namespace, and what both families share.

    Attributes:
        sockets_used: sockets of any kind, TCP, UDP, unix, netlink and others, without time-wait ones.
        tcp_inuse: IPv4 TCP sockets in any state but TIME_WAIT, listening ones included.
        tcp_orphan_of_host: TCP sockets of the **whole host** that no program holds. Never a container's.
        tcp_tw: time-wait TCP sockets of both families, and the small ones that stand for an orphan in
            FIN_WAIT2.
        udp_inuse: IPv4 UDP sockets that are bound to a port.
    """

    sockets_used: int
    tcp_inuse: int
    tcp_orphan_of_host: int
    tcp_tw: int
    udp_inuse: int


class Sockstat6(NamedTuple):
    """IPv6 sockets of a network namespace; a socket that serves both families is counted here only.

    Attributes:
        tcp6_inuse: IPv6 TCP sockets in any state but TIME_WAIT.
        udp6_inuse: IPv6 UDP sockets that are bound to a port.
    """

    tcp6_inuse: int
    udp6_inuse: int


class HostSockets(NamedTuple):
    """What the file says of the **whole host**, in whichever namespace it is read.

    Attributes:
        tcp_orphan: TCP sockets that no program holds, in a state other than TIME_WAIT.
        tcp_alloc: TCP sockets that take up memory, those not yet connected and the orphans among them.
        tcp_mem_pages: memory in the buffers of TCP sockets, in pages.
    """

    tcp_orphan: int
    tcp_alloc: int
    tcp_mem_pages: int


def parse_host_sockets(content: bytes) -> HostSockets:
    """The part of /proc/PID/net/sockstat that is about the host.

    Raises:
        ParseError: a line or a field is missing, or is no number.
    """
    source = "net/sockstat"
    lines = _lines(content)
    return HostSockets(
        tcp_orphan=_field(lines, source, b"TCP", b"orphan"),
        tcp_alloc=_field(lines, source, b"TCP", b"alloc"),
        tcp_mem_pages=_field(lines, source, b"TCP", b"mem"),
    )


@lru_cache(maxsize=1024)
def parse_sockstat(content: bytes) -> Sockstat:
    """The content of /proc/PID/net/sockstat.

    Quiet namespaces have the same, so what it means is remembered.

    Raises:
        ParseError: a line or a field is missing, or is no number.
    """
    usual = _USUAL.match(content)
    if usual:
        return Sockstat._make(map(int, usual.groups()))
    source = "net/sockstat"
    lines = _lines(content)
    return Sockstat(
        sockets_used=_field(lines, source, b"sockets", b"used"),
        tcp_inuse=_field(lines, source, b"TCP", b"inuse"),
        tcp_orphan_of_host=_field(lines, source, b"TCP", b"orphan"),
        tcp_tw=_field(lines, source, b"TCP", b"tw"),
        udp_inuse=_field(lines, source, b"UDP", b"inuse"),
    )


@lru_cache(maxsize=256)
def parse_sockstat6(content: bytes) -> Sockstat6:
    """The content of /proc/PID/net/sockstat6, a file that a kernel without IPv6 does not have.

    It is the same in most namespaces, so what it means is remembered.

    Raises:
        ParseError: a line or a field is missing, or is no number.
    """
    source = "net/sockstat6"
    lines = _lines(content)
    return Sockstat6(
        tcp6_inuse=_field(lines, source, b"TCP6", b"inuse"),
        udp6_inuse=_field(lines, source, b"UDP6", b"inuse"),
    )


def _lines(content: bytes) -> dict[bytes, list[bytes]]:
    """The words of each line (`TCP: inuse 5 orphan 0`) by its title."""
    lines = {}
    for line in content.splitlines():
        title, _, rest = line.partition(b":")
        lines[title] = rest.split()
    return lines


def _field(lines: dict[bytes, list[bytes]], source: str, title: bytes, name: bytes) -> int:
    words = lines.get(title, [])
    # Names and numbers alternate.
    number = words[words.index(name) + 1 :][:1] if name in words else []
    if not number or not number[0].isdigit():
        raise ParseError(source, f"no number {name.decode()} in line {title.decode()}")
    return int(number[0])
