"""The form of /proc/PID/net/snmp and net/netstat: for each protocol a line of names, below it one of numbers.

Both are made by net/ipv4/proc.c of the kernel, from counters that each network namespace has of its own
(`net->mib`); the names are those of RFC 1213, RFC 4022 and RFC 4113, and of Linux (linux/snmp.h).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from falcon_agent.errors import ParseError

Numbers: TypeAlias = tuple[int | None, ...]
"""Counters in the order they were asked for; None for one that this kernel does not have."""


def pick(content: bytes, source: str, protocol: str, names: tuple[str, ...]) -> Numbers:
    """Chosen counters of one protocol.

    Args:
        content: the whole file.
        source: its name, for messages.
        protocol: the title of the two lines, e.g. `TcpExt`.
        names: of the columns, e.g. `ListenOverflows`.

    Raises:
        ParseError: the two lines are missing, cut short or differ in length, or a chosen column has no number.
    """
    title = f"{protocol}: ".encode()
    start = 0 if content.startswith(title) else content.find(b"\n" + title) + 1
    middle = content.find(b"\n", start)
    end = content.find(b"\n", middle + 1)
    if (
        middle < 0
        or end < 0
        or not (content.startswith(title, start) and content.startswith(title, middle + 1))
    ):
        raise ParseError(source, f"no line of names and line of numbers for {protocol}")
    columns, places = _places(content[start:middle], names)
    words = content[middle + 1 : end].split()
    if len(words) != columns:
        raise ParseError(source, f"{columns - 1} names and {len(words) - 1} numbers for {protocol}")
    for place in places:
        if place is not None and not words[place].isdigit():
            raise ParseError(source, f"no number {words[place]!r} for {protocol}")
    return tuple([None if place is None else int(words[place]) for place in places])


@lru_cache(maxsize=16)
def _places(header: bytes, names: tuple[str, ...]) -> tuple[int, tuple[int | None, ...]]:
    """How many columns a line of names has, and which are the chosen ones.

    A kernel writes the same line for every namespace, so this is found out once.
    """
    columns = {name.decode("ascii", "replace"): place for place, name in enumerate(header.split())}
    return len(header.split()), tuple(columns.get(name) for name in names)
