"""What a spool knows in memory: it is the truth, and the disk follows as far as it can."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from falcon_agent.transfer.spoolfile import END_OF_TIME, MAX_DEAD, Change

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.spoolfile import Row
    from falcon_agent.transfer.spoolqueue import TargetQueue


@dataclass(slots=True)
class State:
    """The cursors, the rows that are not on disk, and the changes that are not.

    Attributes:
        stat: told `records.lost` by reason.
        queues: one view per target, by name.
        memory: rows that are not on disk; they come behind those that are.
        last_id: the newest that was given out.
        newest: timestamp of the newest row, None before the first.
        void: rows on disk with this timestamp or a later one are dropped, and to be deleted.
        lost: to be added to what the database counts, by `(target, reason)`.
        dead: refused records to be kept, `(target, reason, time, JSON)`.
        gone: targets to be forgotten.
        dirty: any of this, or a cursor, is not on disk.
    """

    stat: SelfStat
    queues: Mapping[str, TargetQueue] = field(default_factory=dict)
    memory: deque[Row] = field(default_factory=deque)
    last_id: int = 0
    newest: int | None = None
    void: int = END_OF_TIME
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead: deque[tuple[str, str, int, bytes]] = field(default_factory=lambda: deque(maxlen=MAX_DEAD))
    gone: tuple[str, ...] = ()
    dirty: bool = False

    def passed(self) -> int:
        """Id of the last row that no target needs."""
        return min((queue.cursor.acked for queue in self.queues.values()), default=self.last_id)

    def prune(self) -> None:
        """Forget the rows in memory that no target needs."""
        passed = self.passed()
        while self.memory and self.memory[0].id <= passed:
            self.memory.popleft()

    def lose(self, target: str, reason: str, records: int) -> None:
        """Count records that a target will not get."""
        if records > 0:
            self.stat.count("records.lost", reason, records)
            self.lost[target, reason] += records
            self.dirty = True

    def in_memory(self, after: int, since: int = -END_OF_TIME) -> tuple[int, int]:
        """Records and bytes in memory behind an id, with this timestamp or a later one."""
        rows = [row for row in self.memory if row.id > after and row.timestamp >= since]
        return sum(row.count for row in rows), sum(len(row.body) for row in rows)

    def change(self) -> Change:
        """What is to be written."""
        cursors = {name: queue.cursor for name, queue in self.queues.items()}
        return Change(self.void, self.passed(), cursors, self.gone, self.lost, tuple(self.dead))

    def written(self) -> None:
        """All of `change` is on disk."""
        self.void = END_OF_TIME
        self.gone = ()
        self.lost.clear()
        self.dead.clear()
        self.dirty = False
