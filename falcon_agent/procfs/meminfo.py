"""/proc/meminfo: the memory of the host (proc(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass

from falcon_agent.errors import ParseError

_SOURCE = "/proc/meminfo"
_MEM_TOTAL = re.compile(rb"^MemTotal: +([0-9]{1,16}) kB\n", re.MULTILINE)
_BYTES_PER_KB = 1024
"""The file says kB and means 1024 bytes."""


@dataclass(frozen=True, slots=True)
class MemInfo:
    """What is used of /proc/meminfo.

    Attributes:
        mem_total_bytes: `MemTotal`: memory the kernel can hand out, in bytes.
    """

    mem_total_bytes: int


def parse_meminfo(content: bytes) -> MemInfo:
    """The lines of /proc/meminfo that this program uses.

    Raises:
        ParseError: `MemTotal` is missing, 0 or not in kB.
    """
    match = _MEM_TOTAL.search(content)
    total_kb = int(match[1]) if match else 0
    if not total_kb:
        raise ParseError(_SOURCE, "it has no MemTotal in kB")
    return MemInfo(mem_total_bytes=total_kb * _BYTES_PER_KB)
