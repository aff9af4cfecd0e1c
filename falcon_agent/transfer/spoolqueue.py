"""One target's view of the spool: its cursor, and the batch that is lent to its sender."""

from __future__ import annotations

from threading import Condition
from typing import TYPE_CHECKING, Any, Protocol

from falcon_agent.transfer.spoolfault import DamageError
from falcon_agent.transfer.spoolfile import Cursor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from threading import RLock

    from falcon_agent.transfer.batches import Batch
    from falcon_agent.transfer.spoolfile import Row


class Store(Protocol):
    """What a view needs of the spool behind it; `spool.DiskSpool` is one."""

    def put(self, batches: Iterable[Batch]) -> None:
        """Append for every target."""

    def next_row(self, after: int, known: int) -> Row | int | None:
        """The oldest row behind an id; only its id if that is `known`; None if there is none."""

    def moved(self) -> None:
        """A cursor moved: write it down."""

    def overtaken(self, queue: TargetQueue) -> None:
        """The target took a batch of the time before the clock was set back."""

    def lose(self, target: str, reason: str, records: int) -> None:
        """Count records that a target will not get."""

    def bury(self, target: str, items: Sequence[Any], reason: str) -> None:
        """Keep refused records."""


class TargetQueue:
    """A `queue.Spool`; the members without a docstring of their own are described there.

    Attributes:
        name: of the target.
        cursor: the last row that it has passed, and the newest timestamp that it took.
        records: that wait, the lent ones included.
        size: bytes of their compressed bodies.
        changed: told when something was put.
        doom: the lent batch is out of the spool, so it is lost for this reason if the attempt fails; nothing is
            counted if the reason is empty; None: it is in the spool.
    """

    def __init__(self, name: str, store: Store, lock: RLock) -> None:
        self.name = name
        self.cursor = Cursor()
        self.records = 0
        self.size = 0
        self.changed = Condition(lock)
        self.doom: str | None = None
        self._store = store
        self._head: Batch | None = None
        self._head_id = 0
        self._head_size = 0
        self._lent = False
        self._woken = False

    def put(self, batches: Iterable[Batch]) -> None:
        """Append, for all targets."""
        self._store.put(batches)

    def peek(self) -> Batch | None:
        """Lend the oldest batch; the same object as long as it is the same batch."""
        with self.changed:
            self._give_back()
            while (row := self._store.next_row(self.cursor.acked, self._head_id)) is not None:
                if isinstance(row, int):
                    break
                self._head, self._head_id, self._head_size = None, row.id, len(row.body)
                try:
                    self._head = row.batch()
                    break
                except DamageError:
                    self.pass_over(row.id, row.count, len(row.body), "damaged")
                    self._store.moved()
            self._lent = row is not None and self._head is not None
            if not self._lent:
                # Whatever the totals say, there is nothing: a disk went away, or lied.
                self.records = self.size = self._head_id = 0
                self._head = None
            return self._head

    def ack(self, batch: Batch) -> None:
        """Move the cursor past the lent batch; any other is left alone."""
        with self.changed:
            if not self._lent or batch is not self._head:
                return
            overtaken = self.doom == "clock"
            self._subtract(batch.count, self._head_size)
            self.cursor.acked = max(self.cursor.acked, self._head_id)
            self.cursor.taken = max(batch.timestamp, self.cursor.taken or batch.timestamp)
            self._lent, self._head, self._head_id, self.doom = False, None, 0, None
            if overtaken:
                self._store.overtaken(self)
            self._store.moved()

    def release(self, batch: Batch) -> None:
        """Give the lent batch back."""
        with self.changed:
            if self._lent and batch is self._head:
                self._give_back()

    def _give_back(self) -> None:
        self._lent = False
        if self.doom is not None and self._head is not None:
            self._subtract(self._head.count, self._head_size)
            if self.doom:
                self._store.lose(self.name, self.doom, self._head.count)
            self._head, self._head_id, self.doom = None, 0, None
            self._store.moved()

    def wait(self, timeout: float) -> bool:
        """Wait for a batch."""
        with self.changed:
            self.changed.wait_for(lambda: self.records or self._woken, timeout)
            self._woken = False
            return bool(self.records)

    def wake(self) -> None:
        """End a `wait` now, or the next one if nobody waits."""
        with self.changed:
            self._woken = True
            self.changed.notify_all()

    def bury(self, items: Sequence[Any], reason: str) -> None:
        """Keep refused records in the table of dead letters."""
        with self.changed:
            self._store.bury(self.name, items, reason)

    def close(self) -> int:
        """Give back what is lent; nothing is lost, for the spool goes on."""
        with self.changed:
            self._give_back()
            self.wake()
            return 0

    # What the spool asks of its views, with the lock held.

    def lends(self, number: int) -> bool:
        """Whether the row of this id is lent and still in the spool."""
        return self._lent and self.doom is None and self._head_id == number

    @property
    def lends_kept(self) -> bool:
        """Whether a batch is lent that is still in the spool."""
        return self.lends(self._head_id)

    def doom_since(self, timestamp: int, upto: int) -> tuple[int, int] | None:
        """Doom the lent batch if it has this timestamp or a later one, and this id or an older; records and bytes."""
        if self._head is None or not self.lends(self._head_id):
            return None
        if self._head.timestamp < timestamp or self._head_id > upto:
            return None
        self.doom = "clock"
        return self._head.count, self._head_size

    def strand(self, kept: Collection[int], reason: str) -> None:
        """The disk is gone; a lent batch that is not kept in memory is out of the spool."""
        if self.lends(self._head_id) and self._head_id not in kept:
            self.doom = reason

    def recount(self, records: int, size: int, *, readable: bool) -> None:
        """Take over new totals of what is in the spool; a batch that is lent and is not in it waits too."""
        if readable and self.doom == "":
            self.doom = None
        self.records, self.size = records, size
        if self.doom is not None and self._head is not None:
            self.add(self._head.count, self._head_size)

    def renumber(self, base: int) -> None:
        """Add to the ids that were given out before the disk could be read."""
        if self._head_id:
            self._head_id += base

    def add(self, count: int, size: int) -> None:
        """A batch more waits."""
        self.records += count
        self.size += size

    def pass_over(self, number: int, count: int, size: int, reason: str) -> int:
        """The row with this id will not be sent, nor any before it; returns how many records are lost by that."""
        if number <= self.cursor.acked:
            return 0
        self.cursor.acked = number
        return self.expel(number, count, size, reason)

    def expel(self, number: int, count: int, size: int, reason: str) -> int:
        """A row that waits is gone; if it is lent, whether it is lost is not known yet."""
        if self.lends(number):
            self.doom = reason
            return 0
        self._subtract(count, size)
        self._store.lose(self.name, reason, count)
        return count

    def _subtract(self, count: int, size: int) -> None:
        self.records = max(0, self.records - count)
        self.size = max(0, self.size - size)
