"""/proc/PID/net/snmp: the protocol counters of a network namespace (RFC 1213, RFC 4022)."""

from __future__ import annotations

from dataclasses import dataclass

from falcon_agent.errors import ParseError


@dataclass(frozen=True, slots=True)
class Snmp:
    """What this program uses of the file.

    Attributes:
        tcp_curr_estab: `Tcp: CurrEstab`, TCP connections of both families in ESTABLISHED; since Linux 6.10,
            and in stable kernels of that time, also those in CLOSE_WAIT, as RFC 4022 defines tcpCurrEstab.
    """

    tcp_curr_estab: int


def parse_snmp(content: bytes) -> Snmp:
    """The content of /proc/PID/net/snmp: for each protocol a line of names and below it a line of numbers.

    Raises:
        ParseError: the two `Tcp:` lines are missing, differ in length, or have no number for CurrEstab.
    """
    lines = [line.split() for line in content.splitlines() if line.startswith(b"Tcp:")]
    try:
        names, values = lines
        number = dict(zip(names, values, strict=True))[b"CurrEstab"]
    except (ValueError, KeyError):
        number = b""
    if not number.isdigit():
        raise ParseError("net/snmp", "no number CurrEstab in line Tcp")
    return Snmp(tcp_curr_estab=int(number))
