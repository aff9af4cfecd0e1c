"""/proc/PID/limits: the resource limits of a process (proc_pid_limits(5))."""

from __future__ import annotations

import re

from falcon_agent.errors import ParseError

_OPEN_FILES = re.compile(rb"^Max open files +(unlimited|[0-9]{1,20}) ", re.MULTILINE)


def parse_max_open_files(content: bytes) -> int | None:
    """The soft limit of open files (RLIMIT_NOFILE), or None for unlimited.

    Raises:
        ParseError: there is no such line.
    """
    match = _OPEN_FILES.search(content)
    if match is None:
        raise ParseError("/proc/PID/limits", "no line 'Max open files' with a number")
    return None if match[1] == b"unlimited" else int(match[1])
