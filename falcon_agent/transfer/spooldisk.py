"""The state of a spool on a disk that may be full, read-only, failing, or come back with something else on it."""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TYPE_CHECKING

from falcon_agent.transfer.spoolfault import DamageError, DiskError, FullError, SpoolError
from falcon_agent.transfer.spoolfile import END_OF_TIME, MAX_DEAD, SpoolFile, remove, set_aside
from falcon_agent.transfer.spoollock import hold, is_current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from falcon_agent.transfer.spoolfile import Row
    from falcon_agent.transfer.spoolstate import State

_log = logging.getLogger(__name__)


class SpoolDisk:
    """Writes a state, reads what is no longer in memory, and deals with every failure of either.

    Nothing that it is asked raises because of the disk: what cannot be written stays in the state, and what
    cannot be read is as if it were not there until it can.

    Args:
        directory: where the database is.
        state: what to keep.
        admit: takes in rows that came before the database could be read, up to whose last id they are behind.

    Attributes:
        trouble: what is wrong at the moment, in words; empty if nothing is.
        file: the database, None while it cannot be read.
    """

    def __init__(self, directory: str, state: State, admit: Callable[[Sequence[Row], int], None]) -> None:
        self._directory = directory
        self._state = state
        self._admit = admit
        self._left: dict[str, int] | None = None
        self._known = False
        self._closed = False
        self._lock: int | None = None
        self.trouble = ""
        self.file: SpoolFile | None = None

    @property
    def held(self) -> bool:
        """Whether this process has the lock."""
        return self._lock is not None

    def open(self) -> None:
        """Lock and open the database and take over what is in it; a disk that fails leaves memory only.

        Raises:
            SpoolError: another process uses it, or a newer version wrote it.
        """
        try:
            if self._lock is not None and not is_current(self._lock, self._directory):
                os.close(self._lock)
                self._lock = None
            if self._lock is None:
                self._lock = hold(self._directory)
            self._load(SpoolFile(self._directory))
        except DamageError as error:
            self._replace(error)
        except DiskError as error:
            self._say(error)
        self.sync()

    def reopen(self) -> None:
        """Try again if the disk was away, or the file was taken away."""
        if self._closed:
            return
        if self.file is not None and not self.file.present():
            self._replace(DamageError(f"cannot find {self.file.path} any more"))
        elif self.file is None:
            try:
                self.open()
            except SpoolError as error:
                self._say(error)

    def close(self) -> None:
        """Let everything go, for good."""
        self._closed = True
        if self.file is not None:
            self.file.close()
            self.file = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _load(self, file: SpoolFile) -> None:
        """Join what the database says with what happened while it could not be read."""
        state = self._state
        try:
            found = file.cursors()
            last, newest = file.last()
            # Damage is to be found now, and not after more was put into it.
            file.dead_counts()
            file.lost()
            base = max([last, *(cursor.acked for cursor in found.values())])
            left = self._left
            if not self._known:
                # A target that is new starts at the present, unless all of them are.
                left = {
                    name: found[name].acked if name in found else (base if found else 0)
                    for name in state.queues
                }
                for name, queue in state.queues.items():
                    took = queue.cursor.acked > 0
                    queue.cursor.acked = queue.cursor.acked + base if took else left[name]
                    stamps = [queue.cursor.taken, found[name].taken if name in found else None]
                    queue.cursor.taken = max((stamp for stamp in stamps if stamp is not None), default=None)
                    queue.renumber(base)
                for row in state.memory:
                    row.id += base
                state.last_id += base
            for queue in state.queues.values():
                # What it lends came while the disk was away, and what is on disk would come too late after it.
                if queue.lends_kept:
                    queue.cursor.acked = max(queue.cursor.acked, base)
            # Behind a cursor that moved on in memory are rows that nobody got, and that are too late now.
            missed = {
                name: file.totals(after)[0] - file.totals(state.queues[name].cursor.acked)[0]
                for name, after in (left or {}).items()
            }
            removed = {
                name: file.totals(at.acked)[0] for name, at in found.items() if name not in state.queues
            }
        except SpoolError:
            file.close()
            raise
        self.file = file
        self._left = None
        for name, records in missed.items():
            state.lose(name, "disk", records)
        for name, records in removed.items():
            state.lose(name, "target_removed", records)
            _log.warning("the target %s is no longer configured; %d records for it are lost", name, records)
        state.gone = tuple(removed)
        state.dirty = True
        if self._known:
            self._recount()
            return
        self._known = True
        waiting, state.memory = list(state.memory), deque()
        self._recount()
        state.newest = newest
        self._admit(waiting, base)

    def _recount(self) -> None:
        """Total what waits for every target."""
        for queue in self._state.queues.values():
            queue.recount(*self.totals(queue.cursor.acked), readable=self.file is not None)

    # Reading.

    def next_row(self, after: int, known: int) -> Row | int | None:
        """The oldest row behind an id; see `spoolqueue.Store`."""
        if self.file is not None:
            try:
                number = self.file.next_id(after, self._state.void)
                if number is not None:
                    return number if number == known else self.file.follow(after, self._state.void)
            except (DiskError, DamageError) as error:
                self.fail(error)
        row = next((row for row in self._state.memory if row.id > after), None)
        return row if row is None or row.id != known else known

    def totals(self, after: int, since: int = -END_OF_TIME) -> tuple[int, int]:
        """Records and bytes behind an id with this timestamp or a later one, on disk and in memory."""
        records = size = 0
        if self.file is not None:
            try:
                records, size = self.file.totals(after, self._state.void, since)
            except (DiskError, DamageError) as error:
                self.fail(error)
        more_records, more_size = self._state.in_memory(after, since)
        return records + more_records, size + more_size

    def rows(self, after: int | None = None) -> Iterator[tuple[int, int, int, int]]:
        """`(id, timestamp, count, size)` behind an id, or of all that waits, oldest first."""
        after = self._state.passed() if after is None else after
        if self.file is not None:
            try:
                yield from self.file.scan(after, self._state.void)
            except (DiskError, DamageError) as error:
                self.fail(error)
        for row in list(self._state.memory):
            if row.id > after:
                yield row.id, row.timestamp, row.count, len(row.body)

    # Writing.

    def save(self) -> None:
        """Write what is not written, and have the disk itself keep it."""
        self.sync()
        try:
            if self.file is None:
                return
            self.file.checkpoint()
        except DamageError as error:
            self._replace(error)
        except DiskError as error:
            self._say(error)
        else:
            if self.trouble and not self._state.memory:
                _log.warning("the spool is on disk again")
                self.trouble = ""

    def sync(self, *, again: bool = True) -> None:
        """Write what is not written yet; what the disk does not take stays to be written."""
        state, file = self._state, self.file
        state.prune()
        if file is None:
            return
        try:
            # In two transactions, so that a full disk can still be emptied: deleting needs less room than adding.
            if state.dirty:
                file.apply(state.change())
                state.written()
            if state.memory:
                file.append(state.memory)
                state.memory.clear()
        except DamageError as error:
            self._replace(error)
            if again:
                self.sync(again=False)
        except DiskError as error:
            self._say(error)
            if again and isinstance(error, FullError):
                self._shrink(file)

    def _shrink(self, file: SpoolFile) -> None:
        """Begin the file anew if nothing in it waits: one that has filled the disk has no room left to delete rows."""
        state = self._state
        try:
            if file.next_id(state.passed(), state.void) is not None:
                return
            state.lost.update(file.lost())
            state.dead = deque([*file.dead(), *state.dead], maxlen=MAX_DEAD)
            file.close()
            self.file = None
            remove(self._directory)
            self._load(SpoolFile(self._directory))
        except SpoolError as error:
            self._say(error)
        else:
            self.sync(again=False)

    # Failing.

    def fail(self, error: DiskError | DamageError) -> None:
        """The database cannot be read: replace it, or go on without it until it can be."""
        if isinstance(error, DamageError):
            self._replace(error)
        else:
            self._say(error)
            self._leave("")

    def _say(self, error: SpoolError) -> None:
        """The disk does not do what it should: name it once."""
        if not self.trouble:
            _log.error("%s; new records wait in memory until it can be used again", error)
        self.trouble = str(error)

    def _leave(self, reason: str) -> None:
        """Go on without what is on disk; `reason` says why it is lost, empty if it may come back."""
        if self.file is not None:
            self.file.close()
            self.file = None
        state = self._state
        self._left = {name: queue.cursor.acked for name, queue in state.queues.items()}
        kept = {row.id for row in state.memory}
        for name, queue in state.queues.items():
            before = queue.records
            queue.strand(kept, reason)
            queue.recount(*state.in_memory(queue.cursor.acked), readable=False)
            if reason:
                state.lose(name, reason, before - queue.records)

    def _replace(self, error: DamageError) -> None:
        """Move a damaged database aside and begin a new one."""
        self._state.stat.count("spool.damaged")
        self._leave("damaged")
        try:
            aside = set_aside(self._directory)
            _log.error("%s; kept as %s, a new one is begun", error, aside)
            self._state.void = END_OF_TIME
            self._left = None
            self._load(SpoolFile(self._directory))
        except SpoolError as worse:
            self._say(worse)
