"""Spools for tests, and what is put into them."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any

from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.batches import Batch, body_of
from falcon_agent.transfer.spool import DiskSpool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from falcon_agent.transfer.queue import Spool

NOW = 1_795_161_720


def batch(timestamp: int, count: int = 1, padding: str = "") -> Batch:
    """Records `timestamp/0`, `timestamp/1`, ...; seconds count from `NOW`."""
    items = [{"metric": f"{timestamp}/{number}", "tags": padding} for number in range(count)]
    return Batch(body_of(items), count, NOW + timestamp)


def spool_of(directory: Path | str, *targets: str, **options: Any) -> DiskSpool:
    given: dict[str, Any] = {
        "max_bytes": 1 << 30,
        "max_age": 86400.0,
        "clock": lambda: NOW,
        "stat": SelfStat(),
    } | options
    return DiskSpool(str(directory), targets or ("default",), **given)


@contextlib.contextmanager
def spool(directory: Path | str, *targets: str, **options: Any) -> Iterator[DiskSpool]:
    made = spool_of(directory, *targets, **options)
    try:
        yield made
    finally:
        made.close()


def take(queue: Spool, most: int = 1_000_000) -> list[int]:
    """Take batches off a queue; returns their timestamps, counted from `NOW`."""
    taken: list[int] = []
    while len(taken) < most and (head := queue.peek()) is not None:
        taken.append(head.timestamp - NOW)
        queue.ack(head)
    return taken


@contextlib.contextmanager
def small_disk(directory: Path, size: str = "1m") -> Iterator[Path]:
    """A file system of its own, which can be filled or made read-only."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)
