"""Hearing of cgroups that are made and removed, as it happens (inotify(7), which cgroup file systems serve too)."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
from typing import NamedTuple

from falcon_agent.kernelfile import read_error

_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_Q_OVERFLOW = 0x4000
_IN_IGNORED = 0x8000
_IN_ONLYDIR = 0x01000000
_IN_DONT_FOLLOW = 0x02000000
_IN_ISDIR = 0x40000000

_MADE = _IN_CREATE | _IN_MOVED_TO
_REMOVED = _IN_DELETE | _IN_MOVED_FROM
_MASK = _MADE | _REMOVED | _IN_ONLYDIR | _IN_DONT_FOLLOW
_EVENT = struct.Struct("iIII")
_BYTES = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class Heard(NamedTuple):
    """What happened directly below the watched directories, in its order; a path may have been removed first.

    Attributes:
        made: paths of new directories.
        removed: of removed ones, each before another may have been made in its place.
        lost: the kernel's queue was full: anything may have happened besides.
    """

    made: list[str]
    removed: list[str]
    lost: bool


class DirectoryWatch:
    """A bounded number of directories, of which each tells what is made and removed directly below it.

    Used by one thread; only `stop` may be called from another.

    Args:
        limit: directories to watch at most; each costs the kernel about 1 kB.

    Raises:
        KernelFileError: the user's inotify instances or this program's descriptors are used up.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._paths: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._stop = -1
        self._inotify = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if self._inotify < 0:
                raise _last_error()
            self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            self.close()
            raise read_error("inotify", error) from None

    @property
    def paths(self) -> set[str]:
        """The directories that are watched."""
        return set(self._numbers)

    def add(self, path: str) -> bool:
        """Watch a directory; one that is gone, or already watched, is fine.

        Returns:
            False if there are `limit` of them or the kernel has no more to give (`max_user_watches`).

        Raises:
            KernelFileError: it cannot be watched for another reason, e.g. a privilege.
        """
        if path in self._numbers:
            return True
        if len(self._paths) >= self._limit:
            return False
        number = _libc.inotify_add_watch(self._inotify, os.fsencode(path), _MASK)
        if number < 0:
            error = _last_error()
            if error.errno == errno.ENOSPC:
                return False
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return True
            raise read_error(path, error)
        # A number that is known means that this is another name of a watched directory: it was moved.
        if (before := self._paths.get(number)) is not None:
            del self._numbers[before]
        self._paths[number] = path
        self._numbers[path] = number
        return True

    def discard(self, path: str) -> None:
        """Watch a directory no longer. One that was removed has to be discarded too: kernfs does not tell."""
        number = self._numbers.pop(path, None)
        if number is not None:
            del self._paths[number]
            _libc.inotify_rm_watch(self._inotify, number)

    def wait(self, seconds: float) -> Heard | None:
        """Sleep until something happens, then tell it, 64 KiB of events at most; nothing if the time is over first.

        Returns:
            None after `stop`.
        """
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._inotify, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(seconds * 1000)}
        if self._stop in ready:
            return None
        return self._read() if ready else Heard([], [], lost=False)

    def stop(self) -> None:
        """End `wait`, now and from now on; from any thread, before `close`."""
        os.eventfd_write(self._stop, 1)

    def close(self) -> None:
        """Watch nothing any more; may be called twice."""
        for fd in (self._inotify, self._stop):
            if fd >= 0:
                os.close(fd)
        self._inotify = self._stop = -1
        self._paths.clear()
        self._numbers.clear()

    def _read(self) -> Heard:
        try:
            content = os.read(self._inotify, _BYTES)
        except BlockingIOError:
            content = b""
        made: dict[str, None] = {}
        removed: dict[str, None] = {}
        lost = False
        at = 0
        while at < len(content):
            number, mask, _, length = _EVENT.unpack_from(content, at)
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                lost = True
            elif mask & _IN_IGNORED:
                continue
            elif mask & _IN_ISDIR and (above := self._paths.get(number)) is not None:
                name = content[at - length : at].rstrip(b"\0")
                path = f"{above}/{os.fsdecode(name)}"
                (made if mask & _MADE else removed)[path] = None
                # A directory that was made again is another one: what was first known of it does not hold.
                if mask & _REMOVED:
                    made.pop(path, None)
        return Heard(list(made), list(removed), lost)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
