"""How a spool is doing, for a person; also beside the agent that uses it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from falcon_agent.transfer.spoolfile import DATABASE, SpoolFile
from falcon_agent.transfer.spoollock import holder

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """What waits for one target.

    Attributes:
        name: of the target.
        records: that wait.
        size: bytes of their compressed bodies.
        oldest: timestamp of the oldest, None where nothing waits.
        newest: timestamp of the newest.
        timestamps: how many different ones wait; each takes one pace to send.
        taken: newest timestamp that the target has, None where it has nothing.
        dead: records that it refused and that are kept.
        lost: records that it never got, by reason, since the spool was begun.
    """

    name: str
    records: int
    size: int
    oldest: int | None = None
    newest: int | None = None
    timestamps: int = 0
    taken: int | None = None
    dead: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """The whole spool.

    Attributes:
        targets: one entry each, by name.
        held: whether a process uses it.
        holder: pid of that process, None where it is not known.
        file_bytes: of the database, its log included.
        memory_records: that the disk does not take at the moment; None seen from another process.
        trouble: what is wrong with the disk, empty if nothing; empty as well seen from another process.
    """

    targets: tuple[TargetStatus, ...]
    held: bool = False
    holder: int | None = None
    file_bytes: int = 0
    memory_records: int | None = None
    trouble: str = ""


def read_targets(file: SpoolFile) -> tuple[TargetStatus, ...]:
    """What the database says about every target in it.

    Raises:
        DiskError, DamageError: it cannot be read.
    """
    dead, lost = file.dead_counts(), file.lost()
    found = []
    for name, cursor in file.cursors().items():
        records, size = file.totals(cursor.acked)
        oldest, newest, timestamps = file.span(cursor.acked)
        reasons = {reason: number for (target, reason), number in sorted(lost.items()) if target == name}
        found.append(
            TargetStatus(
                name, records, size, oldest, newest, timestamps, cursor.taken, dead.get(name, 0), reasons
            )
        )
    return tuple(found)


def file_bytes(directory: str) -> int:
    """Bytes of the database and its log."""
    total = 0
    for suffix in ("", "-wal"):
        try:
            total += os.stat(os.path.join(directory, DATABASE + suffix)).st_size
        except OSError:
            continue
    return total


def inspect(directory: str) -> SpoolStatus:
    """The state of a spool that another process may be using; a directory without one has no targets.

    Raises:
        SpoolError: it is there and cannot be read.
    """
    held, pid = holder(directory)
    if not os.path.exists(os.path.join(directory, DATABASE)):
        return SpoolStatus((), held, pid)
    file = SpoolFile(directory, writable=False)
    try:
        return SpoolStatus(read_targets(file), held, pid, file_bytes(directory))
    finally:
        file.close()
