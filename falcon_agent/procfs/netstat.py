"""/proc/PID/net/netstat: what Linux counts of TCP beyond the standards (linux/snmp.h, net/ipv4/proc.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.procfs.mib import pick

if TYPE_CHECKING:
    from falcon_agent.procfs.mib import Numbers


def parse_tcpext(content: bytes, names: tuple[str, ...]) -> Numbers:
    """The named counters of line `TcpExt`, both IP versions together; None for those the kernel does not have.

    Raises:
        ParseError: there are no two lines `TcpExt`, or a number is none.
    """
    return pick(content, "net/netstat", "TcpExt", names)
