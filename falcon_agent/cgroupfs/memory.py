"""The memory controller: what is used, what of, and how much may be.

Sources: Linux, admin-guide/cgroup-v2.rst ("Memory Interface Files") and admin-guide/cgroup-v1/memory.rst.
"""

from __future__ import annotations

from dataclasses import dataclass

from falcon_agent.cgroupfs.fileformat import parse_flat_keyed, parse_single_value

_NO_LIMIT = 1 << 62
"""v1 writes "no limit" as the largest number of whole pages below 2^63, which depends on the page size."""


@dataclass(frozen=True, slots=True)
class MemoryStat:
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
    values = parse_flat_keyed(stat, "memory.stat")
    limit_bytes = values.get(b"hierarchical_memory_limit")
    return MemoryStat(
        usage_bytes=parse_single_value(usage, "memory.usage_in_bytes"),
        inactive_file_bytes=values.get(b"total_inactive_file"),
        rss_bytes=values.get(b"total_rss"),
        cache_bytes=values.get(b"total_cache"),
        swap_bytes=values.get(b"total_swap"),
        limit_bytes=None if limit_bytes is None or limit_bytes >= _NO_LIMIT else limit_bytes,
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
    values = parse_flat_keyed(stat or b"", "memory.stat")
    return MemoryStat(
        usage_bytes=parse_single_value(current, "memory.current"),
        inactive_file_bytes=values.get(b"inactive_file"),
        rss_bytes=values.get(b"anon"),
        cache_bytes=values.get(b"file"),
        swap_bytes=None if swap is None else parse_single_value(swap, "memory.swap.current"),
        limit_bytes=limit_bytes,
    )


def parse_memory_max(content: bytes) -> int | None:
    """`memory.max` of v2 in bytes, or None for `max`.

    Raises:
        ParseError: it holds anything else.
    """
    return None if content == b"max\n" else parse_single_value(content, "memory.max")


def parse_oom_kill(content: bytes, source: str) -> int | None:
    """Processes of the cgroup that the kernel killed for want of memory since it was made.

    None on kernels before 4.13, which do not count them.

    Args:
        content: of `memory.events` (v2, with everything below it) or `memory.oom_control` (v1).
        source: which of these, for the error.

    Raises:
        ParseError: the file is not flat keyed.
    """
    return parse_flat_keyed(content, source).get(b"oom_kill")
