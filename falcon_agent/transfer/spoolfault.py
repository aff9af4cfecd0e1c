"""What can be wrong with a spool, and which of SQLite's errors means what."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from falcon_agent.errors import FalconAgentError

if TYPE_CHECKING:
    from collections.abc import Iterator

_HARMLESS = frozenset(
    {
        sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_AUTH,
    }
)  # fmt: skip
"""Errors that say nothing against the content: it may be as good as ever when the disk is."""


class SpoolError(FalconAgentError):
    """The spool cannot be used: another agent holds it, or a newer version wrote it."""


class DiskError(SpoolError):
    """The disk does not take or give anything at the moment: full, read-only, failing, not permitted."""


class FullError(DiskError):
    """The disk is full."""


class DamageError(SpoolError):
    """The database is not what was written: cut off, overwritten, or with a table missing."""


@contextmanager
def guarded(path: str) -> Iterator[None]:
    """Turn what goes wrong with the file at `path` into `DiskError` or `DamageError`."""
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the error, the others refine it (https://sqlite.org/rescode.html).
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        kind = code & 0xFF
        if kind == sqlite3.SQLITE_FULL:
            raise FullError(f"cannot use {path}: {error}") from None
        if kind in _HARMLESS:
            raise DiskError(f"cannot use {path}: {error}") from None
        raise DamageError(f"cannot use {path}: {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        # SQLite stores any type anywhere: only damage puts text where a number was.
        raise DamageError(f"cannot use {path}: {error}") from None
    except OSError as error:
        raise DiskError(f"cannot use {path}: {error.strerror}") from None
