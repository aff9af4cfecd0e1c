"""Pressure stall information: for how long work stood still for want of a resource.

Source: Linux, accounting/psi.rst ("Pressure interface", "Cgroup2 interface").
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias

from falcon_agent.errors import ParseError

Resource: TypeAlias = Literal["cpu", "memory", "io"]

_LINE = rb"%s (?:avg[0-9]+=[0-9.]+ )+total=([0-9]{1,20})\n"
_PRESSURE = re.compile(_LINE % b"some" + b"(?:" + _LINE % b"full" + b")?")


class Pressure(NamedTuple):
    """How long tasks of a cgroup have waited for one resource since it was made, in microseconds.

    Attributes:
        some_usec: time in which one of them or more waited.
        full_usec: time in which all of those that had work waited; None for the CPU before Linux 5.13.
    """

    some_usec: int
    full_usec: int | None


def parse_pressure(content: bytes, source: str) -> Pressure:
    """A `cpu.pressure`, `memory.pressure` or `io.pressure`, or the host's in /proc/pressure.

    The averages are passed over: `total` gives that of any time exactly.

    Args:
        content: of the file.
        source: its name, for the error.

    Raises:
        ParseError: it is not a line `some`, and at most one line `full` after it.
    """
    match = _PRESSURE.fullmatch(content)
    if match is None:
        raise ParseError(source, f"{content[:80]!r} is not a line 'some' and a line 'full'")
    some, full = match.groups()
    return Pressure(int(some), None if full is None else int(full))
