"""/proc/PID/net/dev_snmp6/INTERFACE: the index of an interface that has IPv6, up or down.

The file holds IPv6 counters; its first line says the index. It is there for every interface that IPv6 is
attached to, which is each one with an MTU of 1280 or more from the moment it is made, also where addresses are
switched off by `disable_ipv6` (kernel: net/ipv6/proc.c, addrconf.c). It has the same size whatever a container does.
"""

from __future__ import annotations

from falcon_agent.errors import ParseError


def parse_ifindex(content: bytes) -> int:
    r"""The interface's index, from a first line such as `ifIndex  \t7`.

    Raises:
        ParseError: the first line is another.
    """
    key, _, rest = content.partition(b"\n")[0].partition(b"\t")
    if key.rstrip() != b"ifIndex" or not rest.strip().isdigit():
        raise ParseError("net/dev_snmp6", "the first line is not the index")
    return int(rest)
