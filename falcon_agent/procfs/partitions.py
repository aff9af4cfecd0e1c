"""/proc/partitions: which block device is which (proc(5)).

It costs half of /proc/diskstats, and leaves out what has no medium and the hidden paths of a multipath device.
"""

from __future__ import annotations

import re

from falcon_agent.errors import ParseError

_HEADER = b"major minor  #blocks  name\n\n"
_LINE = re.compile(rb" *([0-9]{1,10}) +([0-9]{1,10}) +[0-9]{1,20} (\S{1,64})\n")


def parse_partitions(content: bytes) -> dict[str, str]:
    """Block devices, `MAJOR:MINOR` to name, such as `254:0` to `vda`; whole disks and partitions.

    Raises:
        ParseError: it has another form, or the last line was cut short.
    """
    rest = content.removeprefix(_HEADER)
    matches = list(_LINE.finditer(rest))
    if sum(match.end() - match.start() for match in matches) != len(rest):
        raise ParseError("/proc/partitions", "its lines are not major, minor, size and name")
    return {f"{int(match[1])}:{int(match[2])}": match[3].decode(errors="replace") for match in matches}
