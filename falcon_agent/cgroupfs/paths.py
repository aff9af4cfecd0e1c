"""/proc/PID/cgroup: the cgroup of a process in every hierarchy (cgroups(7))."""

from __future__ import annotations

import os

from falcon_agent.container import CgroupPaths
from falcon_agent.errors import ParseError

_SOURCE = "/proc/PID/cgroup"


def parse_cgroup_paths(content: bytes) -> CgroupPaths:
    """The paths of a process, from its /proc/PID/cgroup.

    A line is `id:controllers:path`. The path may hold colons; v2 is the line without controllers; co-mounted
    controllers (`cpu,cpuacct`) share one line and each gets the path; a named hierarchy without controllers
    appears as `name=systemd`.

    The kernel adds ` (deleted)` to the path of a cgroup that was removed under its last, dying process. That
    stays in the path: a cgroup may really bear such a name, and cutting it off would name another one.

    Raises:
        ParseError: a line has another form, or the last one was cut short.
    """
    *lines, rest = content.split(b"\n")
    if rest:
        raise ParseError(_SOURCE, "the last line is cut short")
    v1: dict[str, str] = {}
    v2 = None
    for line in lines:
        number, _, controllers_and_path = line.partition(b":")
        controllers, colon, path = controllers_and_path.partition(b":")
        if not (number.isdigit() and colon and path.startswith(b"/")):
            raise ParseError(_SOURCE, f"{line[:80]!r} is not id:controllers:path")
        if controllers:
            v1.update(dict.fromkeys(os.fsdecode(controllers).split(","), os.fsdecode(path)))
        else:
            v2 = os.fsdecode(path)
    return CgroupPaths(v1, v2)
