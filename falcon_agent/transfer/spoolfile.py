"""The database file of the spool: opening, migrating, locking, and the few statements that are run on it.

SQLite in WAL mode with `synchronous=NORMAL`: a commit is in the kernel's hands (a killed process loses nothing),
a checkpoint is on the disk. Who decides what is written is `spool.DiskSpool`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from falcon_agent.transfer.batches import Batch
from falcon_agent.transfer.spoolfault import DamageError, DiskError, SpoolError, guarded
from falcon_agent.transfer.spoolpack import MAX_BODY, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from falcon_agent.transfer.points import Points
    from falcon_agent.transfer.spoolpack import Packer

DATABASE = "spool.db"
_ASIDE = f"{DATABASE}.damaged-"
_MAX_ASIDE = 3
"""Damaged databases that are kept; a disk that damages every one must not be filled with them."""

_APPLICATION = 0x46414C43
MAX_DEAD = 1000
MAX_DEAD_BYTES = 64 * 1024
"""Dead letters that are kept, and the length of the longest that is."""

END_OF_TIME = 2**63 - 1
_BUSY = 1.0
"""Seconds to wait for another program that has the database locked, e.g. a backup."""

_CACHE_KIB = 512
_WAL_BYTES = 4 * 1024 * 1024
_SPARE_PAGES = 1024
_VACUUM_PAGES = 2048
"""Free pages that stay in the file for reuse, and how many are given back at most at once, each of 4 KiB."""

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE batch (id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, count INTEGER NOT NULL,
           size INTEGER NOT NULL, body BLOB NOT NULL)""",
        "CREATE TABLE target (name TEXT PRIMARY KEY, acked INTEGER NOT NULL, taken INTEGER)",
    ),
    (
        """CREATE TABLE dead (id INTEGER PRIMARY KEY, target TEXT NOT NULL, reason TEXT NOT NULL,
           time INTEGER NOT NULL, item BLOB NOT NULL)""",
        """CREATE TABLE lost (target TEXT NOT NULL, reason TEXT NOT NULL, records INTEGER NOT NULL,
           PRIMARY KEY (target, reason))""",
    ),
    (),  # the tables stay; what is new is packed in another way, which an older program cannot read
    (),  # once more
)
"""What each version of the schema added. A new database takes all steps, an older one those it has not."""

VERSION = len(_STEPS)


@dataclass(slots=True)
class Row:
    """One batch as it is stored.

    Attributes:
        id: place in the order; grows.
        timestamp: of its records.
        count: records in it.
        body: of the POST, or the points that it is made from, packed.
    """

    id: int
    timestamp: int
    count: int
    body: bytes

    @classmethod
    def of(cls, batch: Batch | Points, packer: Packer) -> Row:
        """A row without a place yet."""
        packed = packer.pack(batch.body) if isinstance(batch, Batch) else packer.pack_points(batch.document)
        return cls(0, batch.timestamp, batch.count, packed)

    def batch(self) -> Batch:
        """What `of` was given, as a body.

        Raises:
            DamageError: the bytes are not those that were stored.
        """
        try:
            body = unpack(self.body)
        except ValueError as error:
            raise DamageError(f"cannot unpack a batch of the spool: {error}") from None
        return Batch(body, self.count, self.timestamp)


@dataclass(slots=True)
class Cursor:
    """How far a target is.

    Attributes:
        acked: id of the last row that it has passed.
        taken: newest timestamp that it was given, or None if nothing yet.
    """

    acked: int = 0
    taken: int | None = None


@dataclass(slots=True)
class Change:
    """What is to be written in one transaction, beside new rows.

    Attributes:
        void: rows with this timestamp or a later one are deleted.
        passed: rows up to this id are deleted.
        cursors: by target, the ones that moved.
        gone: targets to forget.
        lost: records to add to what is counted lost, by `(target, reason)`.
        dead: refused records `(target, reason, time, JSON)`.
    """

    void: int = END_OF_TIME
    passed: int = 0
    cursors: Mapping[str, Cursor] = field(default_factory=dict)
    gone: Sequence[str] = ()
    lost: Mapping[tuple[str, str], int] = field(default_factory=dict)
    dead: Sequence[tuple[str, str, int, bytes]] = ()


def set_aside(directory: str) -> str:
    """Give a damaged database another name, so that a new one can be begun; returns that name.

    Raises:
        DiskError: it cannot be renamed.
    """
    path = os.path.join(directory, DATABASE)
    aside = os.path.join(directory, f"{_ASIDE}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    number = 0
    name = aside
    while os.path.lexists(name):
        number += 1
        name = f"{aside}-{number}"
    try:
        # The log first: a new database must never meet the old one's.
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                os.rename(path + suffix, name + suffix)
        kept = [entry for entry in os.listdir(directory) if entry.startswith(_ASIDE)]
        stems = {entry.removesuffix("-wal").removesuffix("-shm") for entry in kept}
        old = sorted(stems - {os.path.basename(name)}, key=lambda stem: (len(stem), stem))
        for stem in old[: max(0, len(old) + 1 - _MAX_ASIDE)]:
            for suffix in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, stem + suffix))
    except OSError as error:
        raise DiskError(f"cannot move {path} aside: {error.strerror}") from None
    return name


def remove(directory: str) -> None:
    """Delete the database; nobody may have it open.

    Raises:
        DiskError: it cannot be deleted.
    """
    path = os.path.join(directory, DATABASE)
    with guarded(path):
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                os.unlink(path + suffix)


class SpoolFile:
    """The open database; not for several threads at once.

    Args:
        directory: where it is; must exist.
        writable: False to look at it beside an agent that uses it.

    Raises:
        SpoolError: a newer version wrote it.
        DiskError, DamageError: it cannot be opened; every method may raise these two.
    """

    def __init__(self, directory: str, *, writable: bool = True) -> None:
        self.path = os.path.join(directory, DATABASE)
        with guarded(self.path):
            if writable:
                # SQLite would make it readable for all; its other files take over the mode of this one.
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                os.close(os.open(self.path, flags, 0o600))
            self._db = sqlite3.connect(
                f"file:{quote(os.path.abspath(self.path))}?mode={'rw' if writable else 'ro'}",
                timeout=_BUSY,
                isolation_level=None,
                check_same_thread=False,
                uri=True,
                cached_statements=32,
            )
        try:
            with guarded(self.path):
                self._prepare(writable=writable)
                self._inode = os.stat(self.path).st_ino
        except BaseException:
            self.close()
            raise

    def _prepare(self, *, writable: bool) -> None:
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * MAX_BODY)
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute("PRAGMA mmap_size = 0")
        version = self._number("PRAGMA user_version")
        application = self._number("PRAGMA application_id")
        if version > VERSION and application == _APPLICATION:
            raise SpoolError(
                f"cannot use {self.path}: it has version {version}, this program knows {VERSION}: use the newer"
                " program to drain it, or remove the file"
            )
        if not 0 <= version <= VERSION or (version and application != _APPLICATION):
            raise DamageError(f"cannot use {self.path}: its header is not that of a spool")
        if not writable:
            if not version:
                raise SpoolError(
                    f"cannot read {self.path}: no agent has finished making it; try again, or start one"
                )
            if version < VERSION:
                raise SpoolError(f"cannot read {self.path}: an older version wrote it; start the agent once")
            return
        if not version:
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        if version < VERSION:
            with self._transaction():
                for step in _STEPS[version:]:
                    for statement in step:
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    def present(self) -> bool:
        """Whether the file is still the one in the directory: one that was removed takes rows all the same."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except OSError:
            return False

    def _number(self, statement: str, *values: int) -> int:
        (number,) = self._db.execute(statement, values).fetchone()
        return int(number)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # After some errors SQLite has rolled back already.
            if self._db.in_transaction:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Let go of it; the last connection moves its log into it."""
        with suppress(sqlite3.Error):
            self._db.close()

    def cursors(self) -> dict[str, Cursor]:
        """Where each target is."""
        with guarded(self.path):
            rows = self._db.execute("SELECT name, acked, taken FROM target ORDER BY name").fetchall()
            return {
                str(name): Cursor(int(acked), None if taken is None else int(taken))
                for name, acked, taken in rows
            }

    def last(self) -> tuple[int, int | None]:
        """Id and timestamp of the newest row, or 0 and None."""
        with guarded(self.path):
            row = self._db.execute("SELECT id, timestamp FROM batch ORDER BY id DESC LIMIT 1").fetchone()
            return (0, None) if row is None else (int(row[0]), int(row[1]))

    def totals(self, after: int, below: int = END_OF_TIME, since: int = -END_OF_TIME) -> tuple[int, int]:
        """Records and bytes of the rows behind the id `after` whose timestamp is below one and not before another."""
        with guarded(self.path):
            records, size = self._db.execute(
                "SELECT ifnull(sum(count), 0), ifnull(sum(size), 0) FROM batch"
                " WHERE id > ? AND timestamp < ? AND timestamp >= ?",
                (after, below, since),
            ).fetchone()
            return int(records), int(size)

    def span(self, after: int) -> tuple[int | None, int | None, int]:
        """Oldest and newest timestamp behind the id `after`, and how many different ones."""
        with guarded(self.path):
            oldest, newest, number = self._db.execute(
                "SELECT min(timestamp), max(timestamp), count(DISTINCT timestamp) FROM batch WHERE id > ?",
                (after,),
            ).fetchone()
            return oldest, newest, int(number)

    def next_id(self, after: int, below: int = END_OF_TIME) -> int | None:
        """The oldest row behind the id `after`, or None."""
        with guarded(self.path):
            row = self._db.execute(
                "SELECT id FROM batch WHERE id > ? AND timestamp < ? ORDER BY id LIMIT 1", (after, below)
            ).fetchone()
            return None if row is None else int(row[0])

    def follow(self, after: int, below: int = END_OF_TIME) -> Row | None:
        """The oldest row behind the id `after` with its body, or None."""
        with guarded(self.path):
            row = self._db.execute(
                "SELECT id, timestamp, count, body FROM batch WHERE id > ? AND timestamp < ? ORDER BY id LIMIT 1",
                (after, below),
            ).fetchone()
            return None if row is None else Row(int(row[0]), int(row[1]), int(row[2]), bytes(row[3]))

    def scan(self, after: int, below: int) -> Iterator[tuple[int, int, int, int]]:
        """`(id, timestamp, count, size)` of the rows behind the id `after`, oldest first."""
        with guarded(self.path):
            found = self._db.execute(
                "SELECT id, timestamp, count, size FROM batch WHERE id > ? AND timestamp < ? ORDER BY id",
                (after, below),
            )
            try:
                for row in found:
                    yield int(row[0]), int(row[1]), int(row[2]), int(row[3])
            finally:
                found.close()

    def dead(self, target: str | None = None) -> Iterator[tuple[str, str, int, bytes]]:
        """`(target, reason, time, JSON)` of the refused records, oldest first."""
        with guarded(self.path):
            found = self._db.execute(
                "SELECT target, reason, time, item FROM dead WHERE ifnull(?, target) = target ORDER BY id",
                (target,),
            )
            for name, reason, when, item in found:
                yield str(name), str(reason), int(when), bytes(item)

    def dead_counts(self) -> dict[str, int]:
        """How many refused records are kept, by target."""
        with guarded(self.path):
            return dict(self._db.execute("SELECT target, count(*) FROM dead GROUP BY target").fetchall())

    def lost(self) -> dict[tuple[str, str], int]:
        """Records lost since the spool was begun, by `(target, reason)`."""
        with guarded(self.path):
            return {(t, r): n for t, r, n in self._db.execute("SELECT target, reason, records FROM lost")}

    def apply(self, change: Change) -> None:
        """Write a change, all of it or nothing."""
        with guarded(self.path), self._transaction():
            if change.void != END_OF_TIME:
                self._db.execute("DELETE FROM batch WHERE timestamp >= ?", (change.void,))
            self._db.execute("DELETE FROM batch WHERE id <= ?", (change.passed,))
            self._db.executemany("DELETE FROM target WHERE name = ?", [(name,) for name in change.gone])
            self._db.executemany(
                "INSERT OR REPLACE INTO target (name, acked, taken) VALUES (?, ?, ?)",
                [(name, cursor.acked, cursor.taken) for name, cursor in change.cursors.items()],
            )
            self._db.executemany(
                "INSERT INTO lost (target, reason, records) VALUES (?, ?, ?)"
                " ON CONFLICT (target, reason) DO UPDATE SET records = records + excluded.records",
                [(target, reason, records) for (target, reason), records in change.lost.items()],
            )
            if change.dead:
                self._db.executemany(
                    "INSERT INTO dead (target, reason, time, item) VALUES (?, ?, ?, ?)", change.dead
                )
                self._db.execute("DELETE FROM dead WHERE id <= (SELECT max(id) FROM dead) - ?", (MAX_DEAD,))

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows, all of them or none."""
        with guarded(self.path), self._transaction():
            self._db.executemany(
                "INSERT INTO batch (id, timestamp, count, size, body) VALUES (?, ?, ?, ?, ?)",
                [(row.id, row.timestamp, row.count, len(row.body), row.body) for row in rows],
            )

    def forget_dead(self, target: str | None = None) -> int:
        """Delete refused records; returns how many."""
        with guarded(self.path), self._transaction():
            return self._db.execute("DELETE FROM dead WHERE ifnull(?, target) = target", (target,)).rowcount

    def checkpoint(self) -> None:
        """Have everything on the disk, and give back what a drained backlog left free."""
        with guarded(self.path):
            if self._number("PRAGMA freelist_count") > _SPARE_PAGES:
                # It works while it is stepped, and `execute` steps once where there are no columns.
                self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
