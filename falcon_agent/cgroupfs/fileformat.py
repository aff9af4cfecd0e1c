"""The two forms most control files have (Linux, admin-guide/cgroup-v2.rst, "Format")."""

from __future__ import annotations

import re

from falcon_agent.errors import ParseError

_FLAT_KEYED = re.compile(rb"(?:[^ \n]+ [0-9]{1,20}\n)*")
_SINGLE_VALUE = re.compile(rb"[0-9]{1,20}\n")


def parse_flat_keyed(content: bytes, source: str) -> dict[bytes, int]:
    """A file of `KEY VALUE` lines, such as `cpu.stat` or `memory.stat`.

    Which keys there are depends on the kernel's age and configuration: an absent one means "not known".

    Args:
        content: of the file.
        source: its name, for the error.

    Raises:
        ParseError: a line has another form, or the last one was cut short.
    """
    # The whole grammar is checked at once: int() alone would let through signs and underscores.
    if not _FLAT_KEYED.fullmatch(content):
        raise ParseError(source, "its lines are not KEY VALUE")
    words = content.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def parse_single_value(content: bytes, source: str) -> int:
    """A file that holds one number, such as `memory.current`.

    Raises:
        ParseError: it holds anything else.
    """
    if not _SINGLE_VALUE.fullmatch(content):
        raise ParseError(source, f"{content[:80]!r} is not one number")
    return int(content)
