"""The pids controller: how many tasks there are, and how many there may be.

Sources: Linux, admin-guide/cgroup-v2.rst ("PID Interface Files") and admin-guide/cgroup-v1/pids.rst.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from falcon_agent.cgroupfs.fileformat import parse_keyed, parse_single_value


class PidsStat(NamedTuple):
    """The tasks of a cgroup and everything below it: each thread is one.

    Attributes:
        current: how many there are.
        limit: the smallest limit of its own and its ancestors', or None if there is none.
        denied: how often it was refused one more, since it was made; None before Linux 4.8.
    """

    current: int
    limit: int | None
    denied: int | None


def parse_pids(current: bytes, events: bytes | None, limit: int | None) -> PidsStat:
    """From `pids.current` and, where the kernel has it, `pids.events`.

    Args:
        current: of `pids.current`.
        events: of `pids.events`.
        limit: the smallest `pids.max` from here to the root.

    Raises:
        ParseError: a file has another form.
    """
    denied = None if events is None else parse_keyed(events, "pids.events", b"\nmax ")[0]
    return PidsStat(parse_single_value(current, "pids.current"), limit, denied)


@lru_cache(maxsize=64)
def parse_pids_max(content: bytes) -> int | None:
    """`pids.max`, or None for `max`.

    Raises:
        ParseError: it holds anything else.
    """
    return None if content == b"max\n" else parse_single_value(content, "pids.max")
