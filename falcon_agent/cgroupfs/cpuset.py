"""The cpuset controller: the CPUs a cgroup may run on."""

from __future__ import annotations

import re
from functools import lru_cache

from falcon_agent.errors import ParseError

_CPU_LIST = re.compile(rb"(?:[0-9]{1,7}(?:-[0-9]{1,7})?(?:,[0-9]{1,7}(?:-[0-9]{1,7})?)*)?\n")


@lru_cache(maxsize=256)
def parse_cpu_list(content: bytes, source: str) -> int:
    """How many CPUs a list such as `0-3,5` names (cpuset(7), "List format").

    An empty list, 0, is what a v1 cpuset has before it is set up; no process can be in it.

    Args:
        content: of `cpuset.effective_cpus` (v1) or `cpuset.cpus.effective` (v2).
        source: its name, for the error.

    Raises:
        ParseError: it is no such list.
    """
    if not _CPU_LIST.fullmatch(content):
        raise ParseError(source, f"{content[:80]!r} is not a list of CPUs")
    count = 0
    for part in content.split(b",") if content != b"\n" else ():
        first, _, last = part.partition(b"-")
        size = int(last or first) - int(first) + 1
        if size < 1:
            raise ParseError(source, f"the range {part[:80]!r} runs backwards")
        count += size
    return count
