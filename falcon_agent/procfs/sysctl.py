"""Files of /proc/sys that hold numbers (kernel: Documentation/admin-guide/sysctl, networking/ip-sysctl)."""

from __future__ import annotations

from falcon_agent.errors import ParseError


def parse_number(content: bytes, name: str) -> int:
    """The number that a file such as net/netfilter/nf_conntrack_max holds.

    Args:
        content: of the file.
        name: of the file below /proc/sys, for errors.

    Raises:
        ParseError: it holds anything but one number that is not negative.
    """
    return parse_numbers(content, name, 1)[0]


def parse_numbers(content: bytes, name: str, count: int) -> list[int]:
    """The numbers that a file such as net/ipv4/tcp_mem holds; arguments and errors as `parse_number`."""
    words = content.split()
    if len(words) != count or not all(word.isdigit() for word in words) or not content.endswith(b"\n"):
        raise ParseError(f"/proc/sys/{name}", f"{content[:40]!r} where {count} numbers belong")
    return [int(word) for word in words]
