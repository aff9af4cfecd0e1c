"""/proc/PID/net/snmp: the protocol counters of a network namespace (RFC 1213, RFC 4022, RFC 4113)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from falcon_agent.errors import ParseError
from falcon_agent.procfs.mib import pick

if TYPE_CHECKING:
    from falcon_agent.procfs.mib import Numbers

_SOURCE = "net/snmp"


@dataclass(frozen=True, slots=True)
class Snmp:
    """The part of the file that is no counter.

    Attributes:
        tcp_curr_estab: `Tcp: CurrEstab`, TCP connections of both families in ESTABLISHED; since Linux 6.10,
            and in stable kernels of that time, also those in CLOSE_WAIT, as RFC 4022 defines tcpCurrEstab.
    """

    tcp_curr_estab: int


def parse_snmp(content: bytes) -> Snmp:
    """The content of /proc/PID/net/snmp.

    Raises:
        ParseError: the two `Tcp:` lines are missing, differ in length, or have no number for CurrEstab.
    """
    (established,) = parse_tcp(content, ("CurrEstab",))
    if established is None:
        raise ParseError(_SOURCE, "no number CurrEstab in line Tcp")
    return Snmp(tcp_curr_estab=established)


def parse_tcp(content: bytes, names: tuple[str, ...]) -> Numbers:
    """The named counters of line `Tcp`, both IP versions together; None for those the kernel does not have.

    Raises:
        ParseError: there are no two lines `Tcp`, or a number is none.
    """
    return pick(content, _SOURCE, "Tcp", names)


def parse_udp(content: bytes, names: tuple[str, ...]) -> Numbers:
    """The named counters of line `Udp`, of IPv4 alone; None for those the kernel does not have.

    Raises:
        ParseError: there are no two lines `Udp`, or a number is none.
    """
    return pick(content, _SOURCE, "Udp", names)
