"""/proc/stat: how many CPUs the host has (proc(5))."""

from __future__ import annotations

import re

from falcon_agent.errors import ParseError

_CPU_LINE = re.compile(rb"^cpu[0-9]+ ", re.MULTILINE)


def count_online_cpus(content: bytes) -> int:
    """The number of CPUs that are online, from /proc/stat: it has a line for each of them and for no other.

    Raises:
        ParseError: it has none.
    """
    count = len(_CPU_LINE.findall(content))
    if not count:
        raise ParseError("/proc/stat", "it has no cpu lines")
    return count
