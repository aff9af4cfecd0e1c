"""/proc/PID/net/dev: counters of every interface in the network namespace of PID (proc(5))."""

from __future__ import annotations

from dataclasses import dataclass

from falcon_agent.errors import ParseError

_COLUMNS = 16


@dataclass(frozen=True, slots=True)
class NetDev:
    """One row, with the kernel's names; `rx` is what the interface received, `tx` what it sent.

    Attributes:
        rx_bytes: bytes, link-layer headers included.
        rx_packets: packets.
        rx_errs: packets with errors.
        rx_drop: packets dropped, for want of buffers too.
        tx_bytes: bytes, link-layer headers included.
        tx_packets: packets.
        tx_errs: packets that could not be sent for an error.
        tx_drop: packets dropped.
    """

    rx_bytes: int
    rx_packets: int
    rx_errs: int
    rx_drop: int
    tx_bytes: int
    tx_packets: int
    tx_errs: int
    tx_drop: int


def parse_net_dev(content: bytes) -> dict[str, NetDev]:
    """The content of /proc/PID/net/dev: rows by interface name, in the kernel's order.

    Raises:
        ParseError: the two header lines are not there, or a row has not 16 numbers.
    """
    lines = content.splitlines()
    if len(lines) < 2 or b"bytes" not in lines[1]:  # noqa: PLR2004  two header lines
        raise ParseError("net/dev", "no header")
    rows = {}
    for line in lines[2:]:
        # No separator is certain to follow: the name and the first number may touch the colon.
        name, _, numbers = line.rpartition(b":")
        words = numbers.split()
        if not name.strip() or len(words) != _COLUMNS or not b"".join(words).isdigit():
            raise ParseError("net/dev", f"a row has not a name and {_COLUMNS} numbers")
        rows[interface_name(name.strip())] = NetDev(*map(int, words[0:4] + words[8:12]))
    return rows


def interface_name(name: bytes) -> str:
    r"""An interface name as text; what is not UTF-8 becomes `\xNN`, so different names stay different."""
    return name.decode(errors="backslashreplace")
