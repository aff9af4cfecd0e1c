"""/proc/PID/stat: how many threads a process has (proc_pid_stat(5))."""

from __future__ import annotations

from falcon_agent.errors import ParseError


def parse_num_threads(stat: bytes) -> int:
    """Field 20 of /proc/PID/stat.

    Raises:
        ParseError: the line is cut short or no number stands there. The command name (field 2) may hold spaces
            and brackets, so fields are counted from the last closing bracket.
    """
    fields = stat[stat.rfind(b")") + 1 :].split()
    try:
        return int(fields[17])
    except (IndexError, ValueError):
        raise ParseError("/proc/PID/stat", "no number of threads in field 20") from None
