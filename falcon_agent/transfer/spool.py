"""What waits for delivery, on disk: one order of batches, one cursor per target."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from threading import RLock
from typing import TYPE_CHECKING, Any

from falcon_agent.transfer.batches import body_of
from falcon_agent.transfer.spooldisk import SpoolDisk
from falcon_agent.transfer.spoolfault import DamageError, DiskError, SpoolError
from falcon_agent.transfer.spoolfile import Row
from falcon_agent.transfer.spoolpack import Packer
from falcon_agent.transfer.spoolqueue import TargetQueue
from falcon_agent.transfer.spoolstate import State
from falcon_agent.transfer.spoolstatus import SpoolStatus, TargetStatus, file_bytes, read_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.batches import Batch
    from falcon_agent.transfer.points import Points
    from falcon_agent.transfer.queue import Spool

__all__ = ["DiskSpool", "SpoolError", "SpoolStatus"]

_log = logging.getLogger(__name__)

_MAX_DEAD_BYTES = 64 * 1024
"""Length of the longest refused record that is kept."""


class DiskSpool:
    """Keeps every batch until each target has it, within bounds, in an order that graph can store.

    While the disk does not take them, new batches wait in memory, behind what is on disk.

    Args:
        directory: where the database is; made if it is missing.
        targets: names. Each gets everything from when it is first named; what waits for one that is named no
            longer is lost.
        stat: told `records.lost` once per target, by reason: `spool_full`, `too_old`, `clock` (stamped by a clock
            that was set back since), `clock_back` (not newer than what the target has), `repeated` (a second cycle of
            one timestamp), `disk` (the disk was away
            for too long), `damaged`, `target_removed`, `dropped` (by a person); and `queue.records`, `queue.bytes`,
            `spool.memory` (records that the disk has not taken), `spool.damaged`.
        max_bytes: most bytes that wait, compressed; the oldest go first.
        max_age: seconds after which a batch is not worth sending.
        memory_bytes: most bytes that wait in memory while the disk does not take them.
        clock: seconds since the epoch.

    Raises:
        SpoolError: another process holds it, or a newer version wrote it. A disk that fails is no reason not to
            start.
    """

    def __init__(
        self,
        directory: str,
        targets: Sequence[str],
        stat: SelfStat,
        *,
        max_bytes: int,
        max_age: float,
        memory_bytes: int = 8 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._stat = stat
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._lock = RLock()
        self._queues = {name: TargetQueue(name, self, self._lock) for name in targets}
        self._state = State(stat, self._queues)
        self._disk = SpoolDisk(directory, self._state, self._admit)
        try:
            self._disk.open()
        except BaseException:
            self._disk.close()
            raise
        self._report()

    def queue(self, target: str) -> Spool:
        """What waits for one target."""
        return self._queues[target]

    @property
    def newest(self) -> int | None:
        """The newest timestamp that was ever put; None before the first."""
        with self._lock:
            stamps = [self._state.newest, *(queue.cursor.taken for queue in self._queues.values())]
            return max((stamp for stamp in stamps if stamp is not None), default=None)

    def put(self, batches: Iterable[Batch | Points]) -> None:
        """Append for every target; it is on disk when this returns, if the disk takes it."""
        packer = Packer()
        # Each may go as soon as it is packed.
        rows = sorted((Row.of(batch, packer) for batch in batches), key=lambda row: row.timestamp)
        with self._lock:
            self._disk.reopen()
            self._admit(rows, self._state.last_id)
            self._bound()
            self._disk.save()
            self._bound_memory()
            self._report()
            for queue in self._queues.values():
                queue.changed.notify_all()

    def status(self) -> SpoolStatus:
        """How far every target is; what only memory holds is in `memory_records`."""
        with self._lock:
            targets: tuple[TargetStatus, ...] | None = None
            if self._disk.file is not None:
                try:
                    targets = read_targets(self._disk.file)
                except (DiskError, DamageError) as error:
                    self._disk.fail(error)
            if targets is None:
                targets = tuple(
                    TargetStatus(name, queue.records, queue.size, taken=queue.cursor.taken)
                    for name, queue in self._queues.items()
                )
            memory = sum(row.count for row in self._state.memory)
            size = file_bytes(self._directory)
            return SpoolStatus(targets, self._disk.held, os.getpid(), size, memory, self._disk.trouble)

    def discard(self, before: int | None = None, target: str | None = None) -> int:
        """Drop what waits, for one target or all, everything or only timestamps before one; returns the records."""
        chosen = [queue for name, queue in self._queues.items() if target in {None, name}]
        lost = 0
        with self._lock:
            for number, timestamp, count, size in self._disk.rows():
                if before is not None and timestamp >= before:
                    break
                lost += sum(queue.pass_over(number, count, size, "dropped") for queue in chosen)
            self._disk.save()
            self._report()
        return lost

    def forget_dead(self, target: str | None = None) -> int:
        """Delete the refused records of one target or all; returns how many.

        Raises:
            SpoolError: the disk does not take it.
        """
        with self._lock:
            if self._disk.file is None:
                raise SpoolError(self._disk.trouble)
            return self._disk.file.forget_dead(target)

    def close(self) -> int:
        """Write what is not written and let the spool go; returns the records that the disk did not take."""
        with self._lock:
            self._disk.reopen()
            self._disk.save()
            lost = 0
            for row in self._state.memory:
                lost += self._expel(row)
            self._state.memory.clear()
            self._disk.close()
            self._report()
            return lost

    # For the views, which hold the lock.

    def next_row(self, after: int, known: int) -> Row | int | None:
        """The oldest row behind an id; see `spoolqueue.Store`."""
        return self._disk.next_row(after, known)

    def moved(self) -> None:
        """Write a cursor that moved."""
        self._state.dirty = True
        self._disk.sync()
        self._report()

    def overtaken(self, queue: TargetQueue) -> None:
        """Pass over what was measured since the clock was set back: graph has a newer point of the target now."""
        for number, timestamp, count, size in self._disk.rows(queue.cursor.acked):
            if queue.cursor.taken is None or timestamp > queue.cursor.taken:
                break
            queue.pass_over(number, count, size, "clock_back")

    def lose(self, target: str, reason: str, records: int) -> None:
        """Count records that a target will not get, here and in the database."""
        self._state.lose(target, reason, records)

    def bury(self, target: str, items: Sequence[Any], reason: str) -> None:
        """Keep refused records, the newest `spoolfile.MAX_DEAD`; one that is too long to keep is only logged."""
        now = int(self._clock())
        for item in items:
            text = body_of([item])[1:-1]
            if len(text) <= _MAX_DEAD_BYTES:
                self._state.dead.append((target, reason, now, text))
        self.moved()

    # Taking in, within bounds.

    def _admit(self, rows: Sequence[Row], upto: int) -> None:
        """Give rows their place behind the row `upto`; drop and refuse what a clock has put out of order."""
        state = self._state
        if rows and state.newest is not None:
            if rows[0].timestamp < state.newest:
                self._set_back(rows[0].timestamp, upto)
            else:
                rows = self._without_repeated(rows, state.newest)
        if not rows:
            return
        for row in rows:
            if not row.id:
                state.last_id += 1
                row.id = state.last_id
            for queue in self._queues.values():
                if row.id <= queue.cursor.acked:
                    continue
                queue.add(row.count, len(row.body))
                # A target that took something newer has no backlog: what it had was stamped later and just dropped.
                if queue.cursor.taken is not None and row.timestamp <= queue.cursor.taken:
                    queue.pass_over(row.id, row.count, len(row.body), "clock_back")
            state.memory.append(row)
        state.newest = rows[-1].timestamp

    def _without_repeated(self, rows: Sequence[Row], newest: int) -> Sequence[Row]:
        """Refuse a second cycle of the newest timestamp: graph would drop one of the two, and not always this."""
        for row in rows:
            if row.timestamp == newest:
                for name in self._queues:
                    self.lose(name, "repeated", row.count)
        return [row for row in rows if row.timestamp != newest]

    def _set_back(self, timestamp: int, upto: int) -> None:
        """Drop what waits and was stamped at or after this time: the clock that did it was wrong."""
        lost = 0
        for queue in self._queues.values():
            records, size = self._disk.totals(queue.cursor.acked, timestamp)
            lent = queue.doom_since(timestamp, upto)
            if lent is not None:
                records, size = records - lent[0], size - lent[1]
            queue.add(-records, -size)
            self.lose(queue.name, "clock", records)
            lost += records
        state = self._state
        state.memory = deque(row for row in state.memory if row.timestamp < timestamp)
        state.void = min(state.void, timestamp)
        state.dirty = True
        _log.warning(
            "new records have the time %d, which is not after what came before: the clock was set back, and"
            " %d waiting records of that time and later are lost",
            timestamp,
            lost,
        )

    def _bound(self) -> None:
        """Drop the oldest until what waits is young and small enough."""
        oldest = self._clock() - self._max_age
        excess = max((queue.size for queue in self._queues.values()), default=0) - self._max_bytes
        for number, timestamp, count, size in self._disk.rows():
            reason = "too_old" if timestamp < oldest else "spool_full" if excess > 0 else ""
            if not reason:
                break
            for queue in self._queues.values():
                queue.pass_over(number, count, size, reason)
            excess -= size
            self._state.dirty = True

    def _bound_memory(self) -> None:
        """Drop the oldest of what the disk does not take."""
        total = sum(len(row.body) for row in self._state.memory)
        while total > self._memory_bytes:
            row = self._state.memory.popleft()
            total -= len(row.body)
            self._expel(row)

    def _expel(self, row: Row) -> int:
        """A row that was in memory only is gone; returns how many records are lost by that."""
        return sum(
            queue.expel(row.id, row.count, len(row.body), "disk")
            for queue in self._queues.values()
            if row.id > queue.cursor.acked
        )

    def _report(self) -> None:
        self._stat.set("queue.records", sum(queue.records for queue in self._queues.values()))
        self._stat.set("queue.bytes", max((queue.size for queue in self._queues.values()), default=0))
        self._stat.set("spool.memory", sum(row.count for row in self._state.memory))
