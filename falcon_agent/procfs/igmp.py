"""/proc/PID/net/igmp: which interface has which index, for readers without any privilege.

The file is about IPv4 multicast groups, but it lists, with index and name, every interface that is up and has
IPv4, with or without an address: all of those are in the all-hosts group (RFC 3376, kernel: net/ipv4/igmp.c).
"""

from __future__ import annotations

from falcon_agent.errors import ParseError
from falcon_agent.procfs.net_dev import interface_name


def parse_igmp(content: bytes) -> dict[int, str]:
    r"""Interface names by interface index.

    A line such as `2\teth0      :     1      V3` is an interface; below it, indented, stand its groups.

    Raises:
        ParseError: the header is missing, or a line that begins with something else than an index.
    """
    lines = content.splitlines()
    if not lines or not lines[0].startswith(b"Idx"):
        raise ParseError("net/igmp", "no header")
    names = {}
    for line in lines[1:]:
        if line.startswith(b"\t"):
            continue
        index, _, rest = line.partition(b"\t")
        name, colon, _ = rest.partition(b":")
        try:
            number = int(index)
        except ValueError:
            raise ParseError("net/igmp", "a line begins with no interface index") from None
        if not colon or not name.strip():
            raise ParseError("net/igmp", "an interface without a name")
        names[number] = interface_name(name.strip())
    return names
