"""Who uses a spool: one process at a time, by an flock that ends with the process."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

from falcon_agent.transfer.spoolfault import DiskError, SpoolError

_NAME = "spool.lock"
_TRIES = 10
_PAUSE = 0.02


def hold(directory: str) -> int:
    """Make this process the one that uses the spool; returns a descriptor that holds it while open.

    Raises:
        SpoolError: another process has it; the message names its pid.
        DiskError: the directory or the lock file cannot be made.
    """
    path = os.path.join(directory, _NAME)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise DiskError(f"cannot use the spool in {directory}: {error.strerror}") from None
    try:
        if not _locked(lock):
            pid = _pid(lock)
            who = f"the process {pid}" if pid is not None else "another process"
            raise SpoolError(
                f"cannot use the spool in {directory}: {who} uses it; stop it or set another spool.directory"
            )
        # The pid is for messages only: a full disk must not keep the agent from starting.
        with suppress(OSError):
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        os.close(lock)
        raise DiskError(f"cannot use the spool in {directory}: {error.strerror}") from None
    except SpoolError:
        os.close(lock)
        raise
    return lock


def _locked(lock: int) -> bool:
    """Whether the lock could be had; tried again, for `holder` takes it for an instant."""
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_PAUSE)
    return False


def is_current(lock: int, directory: str) -> bool:
    """Whether the held lock is the file in the directory, and not one that was removed."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(os.path.join(directory, _NAME)))
    except OSError:
        return False


def _pid(lock: int) -> int | None:
    with suppress(OSError, ValueError):
        return int(os.pread(lock, 32, 0))
    return None


def holder(directory: str) -> tuple[bool, int | None]:
    """Whether a process uses the spool, and its pid where that is known."""
    try:
        lock = os.open(os.path.join(directory, _NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False, None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True, _pid(lock)
    else:
        return False, None
    finally:
        os.close(lock)
