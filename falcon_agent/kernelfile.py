"""Reading files of /proc, /sys and cgroupfs: to the end, bounded, with typed errors."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from falcon_agent.errors import DeniedError, GoneError, KernelFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 65536
RECORD = 4096
"""Longer than nearly every control file; a longer one is read on."""
MAX_BYTES = 16 * 1024 * 1024
"""No kernel file that this program reads is larger; a fixture or a bind mount in its place might be."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.ENOTDIR})
_DENIED = frozenset({errno.EACCES, errno.EPERM})

recordings: list[list[tuple[str, bytes]]] = []
"""Who wants to be told what is read; added to by `recording` only."""


@contextmanager
def recording() -> Iterator[list[tuple[str, bytes]]]:
    """Collect `(path, content)` of everything that is read inside the block, in order.

    `falcon-agent explain` shows the very bytes that a number was computed from. Sources that are no files
    (netlink answers) add themselves with `note`.
    """
    seen: list[tuple[str, bytes]] = []
    recordings.append(seen)
    try:
        yield seen
    finally:
        # By identity: two recordings may hold equal content.
        recordings[:] = [kept for kept in recordings if kept is not seen]


def note(path: str, content: bytes) -> None:
    """Tell the active recordings what was read from `path`."""
    for seen in recordings:
        seen.append((path, content))


def is_recording() -> bool:
    """Whether anybody listens to `note`; spares building its arguments."""
    return bool(recordings)


def read_error(path: str, error: OSError) -> KernelFileError:
    """The typed error for an `OSError` met at `path`: gone, denied or failed."""
    reason = error.strerror or str(error)
    if error.errno in _GONE:
        return GoneError(path, reason)
    if error.errno in _DENIED:
        return DeniedError(path, reason)
    return KernelFileError(path, reason)


def read_to_eof(path: str, *, dir_fd: int | None = None, base: str = "", limit: int = MAX_BYTES) -> bytes:
    """The whole content of a kernel file.

    One read may be short however large the buffer (procfs hands out a page or a record at a time), so this
    reads until the kernel says end of file.

    Args:
        path: file to read, relative to `dir_fd` if that is given.
        dir_fd: an open directory; one on /proc/PID keeps naming the same process when the pid is reused.
        base: what `dir_fd` stands for, for messages.
        limit: more bytes than this is an error, so that nothing can fill the memory.

    Raises:
        GoneError: the file, process or cgroup is not there (any more).
        DeniedError: a privilege is missing.
        KernelFileError: anything else, or more than `limit` bytes.
    """
    name = f"{base}/{path}" if base else path
    try:
        fd = os.open(path, _FLAGS, dir_fd=dir_fd)
    except OSError as error:
        raise read_error(name, error) from None
    try:
        content = os.read(fd, _CHUNK)
        if content:
            parts = [content]
            size = len(content)
            while more := os.read(fd, _CHUNK):
                parts.append(more)
                size += len(more)
                if size > limit:
                    raise KernelFileError(name, f"larger than {limit} bytes")
            if len(parts) > 1:
                content = b"".join(parts)
    except OSError as error:
        raise read_error(name, error) from None
    finally:
        os.close(fd)
    if len(content) > limit:
        raise KernelFileError(name, f"larger than {limit} bytes")
    if recordings:
        note(name, content)
    return content


def read_record(path: str, *, dir_fd: int, base: str) -> bytes:
    """The whole content of a file that the kernel makes as one record, for one system call less than `read_to_eof`.

    fs/seq_file.c hands out whole records: a file of a single one (`proc_create_net_single`, `single_open`) comes
    whole by the first read with room for it. net/sockstat, sockstat6 and snmp are such files; net/dev is not.

    Args:
        path: file to read, relative to `dir_fd`.
        dir_fd: an open directory.
        base: what `dir_fd` stands for, for messages.

    Raises:
        GoneError, DeniedError, KernelFileError: as `read_to_eof`.
    """
    try:
        fd = os.open(path, _FLAGS, dir_fd=dir_fd)
        try:
            content = os.read(fd, RECORD)
        finally:
            os.close(fd)
    except OSError as error:
        raise read_error(f"{base}/{path}", error) from None
    if len(content) == RECORD:
        return read_to_eof(path, dir_fd=dir_fd, base=base)
    if recordings:
        note(f"{base}/{path}", content)
    return content


def open_to_read_again(name: str, *, dir_fd: int | None = None, base: str = "") -> int:
    """A descriptor for `read_again`; the caller closes it.

    Args:
        name: path of the file, relative to `dir_fd` if that is given.
        dir_fd: an open directory.
        base: what `dir_fd` stands for, for messages.

    Raises:
        GoneError, DeniedError, KernelFileError: as `read_to_eof`.
    """
    try:
        return os.open(name, _FLAGS, dir_fd=dir_fd)
    except OSError as error:
        raise read_error(f"{base}/{name}" if base else name, error) from None


def read_again(fd: int, name: str, base: str) -> bytes:
    """The whole content as it is now of a file that stays open, from its beginning.

    It must be of one record (see `read_record`), which is made anew for each read at offset 0. Control files of cgroups
    are such, but for the lists of processes.

    Args:
        fd: of `open_to_read_again`.
        name: of the file, for messages.
        base: the directory it is in, for messages.

    Raises:
        GoneError: the file was removed (ENODEV): the cgroup ended, or its controller was switched off.
        DeniedError, KernelFileError: as `read_to_eof`.
    """
    try:
        content = os.pread(fd, RECORD, 0)
        if len(content) >= RECORD:
            content = _read_on(fd, f"{base}/{name}", content)
    except OSError as error:
        raise read_error(f"{base}/{name}", error) from None
    if recordings:
        note(f"{base}/{name}", content)
    return content


def _read_on(fd: int, path: str, content: bytes) -> bytes:
    parts = [content]
    size = len(content)
    while more := os.pread(fd, _CHUNK, size):
        parts.append(more)
        size += len(more)
        if size > MAX_BYTES:
            raise KernelFileError(path, f"larger than {MAX_BYTES} bytes")
    return b"".join(parts)


def read_optional(
    path: str, *, dir_fd: int | None = None, base: str = "", limit: int = MAX_BYTES
) -> bytes | None:
    """Like `read_to_eof`, but None where the file is absent (an older kernel, a controller that is off)."""
    try:
        return read_to_eof(path, dir_fd=dir_fd, base=base, limit=limit)
    except GoneError:
        return None
