"""What waits for delivery, as a sender sees it; here in memory, in `spool` on disk."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.batches import Batch


class Spool(Protocol):
    """An ordered store of batches that have one reader: lent by `peek`, gone only after `ack`."""

    @property
    def records(self) -> int:
        """Records that wait, the lent ones included."""

    @property
    def size(self) -> int:
        """Bytes that wait, the lent ones included."""

    def put(self, batches: Iterable[Batch]) -> None:
        """Append; where room is short the oldest go first, counted as `records.lost`."""

    def peek(self) -> Batch | None:
        """Lend the oldest batch, or None if nothing waits. It is not dropped until `ack` or `release`."""

    def ack(self, batch: Batch) -> None:
        """The lent batch is dealt with: forget it."""

    def release(self, batch: Batch) -> None:
        """The attempt failed: the batch stays the oldest, and may be dropped like any other."""

    def wait(self, timeout: float) -> bool:
        """Wait `timeout` seconds at most, or until `wake`, for something to lend; True if there is."""

    def wake(self) -> None:
        """End a `wait` now."""

    def bury(self, items: Sequence[Any], reason: str) -> None:
        """Keep records that the target refused for themselves where a person can look."""

    def close(self) -> int:
        """Stop; returns how many records are lost by that, counted as `records.lost`."""


class MemoryQueue:
    """A `Spool` in memory, bounded by the bytes of the bodies.

    Args:
        max_bytes: the most that waits; a batch larger than that is lost at once.
        stat: told `records.lost` by reason (`queue_full`, `stopped`), `queue.records` and `queue.bytes`.
    """

    def __init__(self, max_bytes: int, stat: SelfStat) -> None:
        self._max_bytes = max_bytes
        self._stat = stat
        self._batches: deque[Batch] = deque()
        self._lent: Batch | None = None
        self._records = 0
        self._bytes = 0
        self._woken = False
        self._changed = Condition()

    @property
    def records(self) -> int:
        """Records that wait, the lent ones included."""
        return self._records

    @property
    def size(self) -> int:
        """Bytes that wait, the lent ones included."""
        return self._bytes

    def put(self, batches: Iterable[Batch]) -> None:
        """Append; see `Spool.put`."""
        with self._changed:
            for batch in batches:
                self._batches.append(batch)
                self._records += batch.count
                self._bytes += len(batch.body)
                while self._bytes > self._max_bytes and self._drop_oldest():
                    pass
            self._report()
            self._changed.notify_all()

    def _drop_oldest(self) -> bool:
        """Drop the oldest batch that is not lent (what becomes of that one is about to be known)."""
        for at, batch in enumerate(self._batches):
            if batch is not self._lent:
                del self._batches[at]
                self._forget(batch)
                self._stat.count("records.lost", "queue_full", batch.count)
                return True
        return False

    def peek(self) -> Batch | None:
        """Lend the oldest batch; see `Spool.peek`."""
        with self._changed:
            self._lent = self._batches[0] if self._batches else None
            return self._lent

    def ack(self, batch: Batch) -> None:
        """Forget the lent batch; any other is left alone."""
        with self._changed:
            if self._lent is batch:
                self._batches.popleft()
                self._lent = None
                self._forget(batch)
                self._report()

    def release(self, batch: Batch) -> None:
        """Give the lent batch back; see `Spool.release`."""
        with self._changed:
            if self._lent is batch:
                self._lent = None

    def wait(self, timeout: float) -> bool:
        """Wait for a batch; see `Spool.wait`."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._woken, timeout)
            self._woken = False
            return bool(self._batches)

    def wake(self) -> None:
        """End a `wait` now, or the next one if nobody waits."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def bury(self, items: Sequence[Any], reason: str) -> None:
        """Nothing: memory is no place to look, and the sender has named the records in the log."""

    def close(self) -> int:
        """Forget everything; what waited is lost, counted with reason `stopped`."""
        with self._changed:
            lost = self._records
            self._batches.clear()
            self._lent = None
            self._records = self._bytes = 0
            if lost:
                self._stat.count("records.lost", "stopped", lost)
            self._report()
            return lost

    def _forget(self, batch: Batch) -> None:
        self._records -= batch.count
        self._bytes -= len(batch.body)

    def _report(self) -> None:
        self._stat.set("queue.records", self._records)
        self._stat.set("queue.bytes", self._bytes)
