"""The memory controller: what is used, what of, and how much may be.

Sources: Linux, admin-guide/cgroup-v2.rst ("Memory Interface Files") and admin-guide/cgroup-v1/memory.rst.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from falcon_agent.cgroupfs.fileformat import parse_keyed, parse_single_value

_NO_LIMIT = 1 << 62
"""v1 writes "no limit" as the largest number of whole pages below 2^63, which depends on the page size."""
# In the order in which the kernel writes them.
_V1_LINES = (
    b"\nhierarchical_memory_limit ",
    b"\ntotal_cache ",
    b"\ntotal_rss ",
    b"\ntotal_swap ",
    b"\ntotal_inactive_file ",
)
_V2_LINES = (b"\nanon ", b"\nfile ", b"\ninactive_file ")


class MemoryStat(NamedTuple):
    """The memory charged to a cgroup and everything below it, in bytes.

    Attributes:
        usage_bytes: all of it: processes, page cache, kernel.
        inactive_file_bytes: page cache that has not been used lately; the kernel takes it back first.
        rss_bytes: anonymous memory: heaps and stacks.
        cache_bytes: page cache, with tmpfs and shared memory.
        swap_bytes: swapped out; None where the kernel does not account for it.
        limit_bytes: the smallest limit of its own and its ancestors', or None if there is none.
    """

    usage_bytes: int
    inactive_file_bytes: int | None = None
    rss_bytes: int | None = None
    cache_bytes: int | None = None
    swap_bytes: int | None = None
    limit_bytes: int | None = None


def parse_memory_stat_v1(usage: bytes, stat: bytes) -> MemoryStat:
    """From `memory.usage_in_bytes` and `memory.stat` of v1.

    The `total_` lines count everything below too, as v2 does; the plain ones describe one level only.
    `hierarchical_memory_limit` covers the ancestors already. A kernel without swap accounting leaves
    `total_swap` out.

    Raises:
        ParseError: a file has another form.
    """
    limit, cache, rss, swap, inactive_file = parse_keyed(stat, "memory.stat", *_V1_LINES)
    return MemoryStat(
        parse_single_value(usage, "memory.usage_in_bytes"),
        inactive_file,
        rss,
        cache,
        swap,
        None if limit is None or limit >= _NO_LIMIT else limit,
    )


def parse_memory_stat(
    current: bytes, stat: bytes | None, swap: bytes | None, limit_bytes: int | None
) -> MemoryStat:
    """From `memory.current`, `memory.stat` and, where the kernel has it, `memory.swap.current` of v2.

    Args:
        current: of `memory.current`.
        stat: of `memory.stat`.
        swap: of `memory.swap.current`.
        limit_bytes: the smallest `memory.max` from here to the root.

    Raises:
        ParseError: a file has another form.
    """
    anon, file, inactive_file = parse_keyed(stat or b"", "memory.stat", *_V2_LINES)
    return MemoryStat(
        parse_single_value(current, "memory.current"),
        inactive_file,
        anon,
        file,
        None if swap is None else parse_single_value(swap, "memory.swap.current"),
        limit_bytes,
    )


@lru_cache(maxsize=64)
def parse_memory_max(content: bytes) -> int | None:
    """`memory.max` of v2 in bytes, or None for `max`.

    Raises:
        ParseError: it holds anything else.
    """
    return None if content == b"max\n" else parse_single_value(content, "memory.max")


@lru_cache(maxsize=256)
def parse_oom_kill(content: bytes, source: str) -> int | None:
    """Processes of the cgroup that the kernel killed for want of memory since it was made.

    None on kernels before 4.13, which do not count them.

    Args:
        content: of `memory.events` (v2, with everything below it) or `memory.oom_control` (v1).
        source: which of these, for the error.

    Raises:
        ParseError: the line has no number, or the file is cut short.
    """
    return parse_keyed(content, source, b"\noom_kill ")[0]
