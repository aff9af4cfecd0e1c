"""/proc/PID/net/snmp6: what a network namespace counts of IPv6, a name and a number a line (net/ipv6/proc.c).

TCP is not in it: the counters of net/snmp are of both IP versions there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.errors import ParseError

if TYPE_CHECKING:
    from falcon_agent.procfs.mib import Numbers

_SOURCE = "net/snmp6"


def parse_udp6(content: bytes, names: tuple[str, ...]) -> Numbers:
    """Counters of UDP over IPv6.

    Args:
        content: of a file that a kernel without IPv6 does not have.
        names: as net/snmp has them for IPv4, e.g. `InErrors` for the line `Udp6InErrors`.

    Returns:
        The numbers in that order; None for those the kernel does not have.

    Raises:
        ParseError: there are no lines of UDP, the last is cut short, or a number is none.
    """
    start = content.find(b"\nUdp6")  # they stand together, after the many of IP and ICMP
    if start < 0 or not content.endswith(b"\n"):
        raise ParseError(_SOURCE, "no lines Udp6")
    words = content[start:].split()
    numbers = dict(zip(words[::2], words[1::2], strict=False))
    found = [numbers.get(b"Udp6" + name.encode()) for name in names]
    for name, number in zip(names, found, strict=True):
        if number is not None and not number.isdigit():
            raise ParseError(_SOURCE, f"no number in line Udp6{name}")
    return tuple([None if number is None else int(number) for number in found])
