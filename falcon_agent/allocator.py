"""Have glibc's malloc give back what is free, and Python's collector look less often for what is not.

Left to itself it has an arena for each thread, keeps what a busy moment took, and raises its thresholds with every
large block it sees (mallopt(3), malloc_trim(3)). A cycle is a busy moment: its numbers, its JSON and its compressed
batches are gone a second later. With 300 containers that is 8 MB of resident memory (docs/decisions/006-memory.md).
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""From malloc.h."""

_TRIM_BYTES = 1024 * 1024
_MMAP_BYTES = 512 * 1024
"""Blocks from this size on are mappings of their own and go back at once. A body of 1000 records has 170 KB: with 128
and 64 KiB here a cycle of 300 containers had 900 pages made anew, a tenth of its CPU, and 0.6 MB less were resident."""


_YOUNG_OBJECTS = 50_000
"""As many are made, net, before the collector looks at them. A cycle of 300 containers holds 20,000 for a moment, none
of them in a ring, and with Python's 700 the collector took a tenth of the whole cycle."""


def collect_seldom() -> None:
    """Spare cycles the garbage collector; what is not in a ring goes without it, and rings are not made.

    An error that was kept with its frames is one, of a thousand objects and more (`errors.as_value`). Where a container
    ended in every second, such rings took 60 MB in 1,000 cycles.
    """
    gc.set_threshold(_YOUNG_OBJECTS)


def keep_little() -> None:
    """One arena for all threads, which take turns anyway; to be called before the first of them starts.

    Another C library than glibc goes on as it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
