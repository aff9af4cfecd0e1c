"""Opening what a container's path names, inside the container and nowhere else (openat2(2), statx(2)).

`/proc/PID/root/PATH` follows the container's absolute symbolic links on the host; openat2 with RESOLVE_IN_ROOT takes
them, and every `..`, as the container does. Needs Linux 5.6; mount IDs need 5.8.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from typing import NamedTuple

from falcon_agent.errors import KernelFileError
from falcon_agent.kernelfile import read_error

_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_IN_ROOT = 0x10
_TRIES = 8

_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_TYPE = 0x01
_STATX_MNT_ID = 0x1000
_STATX_BYTES = 256
_MASK, _MODE, _MNT_ID = struct.Struct("=I"), struct.Struct("=28xH"), struct.Struct("=144xQ")

_libc = ctypes.CDLL(None, use_errno=True)


class Place(NamedTuple):
    """Where an open descriptor leads.

    Attributes:
        mount_id: of the mount it is on, as in mountinfo.
        is_directory: it is one.
    """

    mount_id: int
    is_directory: bool


def open_root(process_fd: int, base: str) -> int:
    """A descriptor (O_PATH) on the root directory of a process.

    It keeps the file system there mounted, so it is to be closed soon.

    Args:
        process_fd: descriptor on its /proc directory.
        base: that directory's path, for messages.

    Raises:
        DeniedError: another user's process, without CAP_SYS_PTRACE.
        GoneError: the process ended.
    """
    try:
        return os.open("root", os.O_PATH | os.O_CLOEXEC, dir_fd=process_fd)
    except OSError as error:
        raise read_error(f"{base}/root", error) from None


def open_in_root(
    root_fd: int,
    path: str,
    base: str,
    flags: int = os.O_PATH,
    *,
    symlinks: bool = True,
    other_mounts: bool = True,
) -> int:
    """Open a path as if `root_fd` were the root directory; neither links nor `..` lead out of it.

    Args:
        root_fd: descriptor on a directory.
        path: below it, with or without a `/` before it.
        base: what `root_fd` stands for, for messages.
        flags: of open(2). Other than with O_PATH, opening a FIFO may wait, and a device act.
        symlinks: whether any part of the path may be a symbolic link.
        other_mounts: whether the path may lead into another mount than that of `root_fd`.

    Raises:
        GoneError: there is no such file.
        DeniedError: a directory on the way is closed to others, and CAP_DAC_READ_SEARCH is missing.
        KernelFileError: anything else, e.g. ELOOP or EXDEV for what was excluded.
    """
    resolve = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
    if not symlinks:
        resolve |= _RESOLVE_NO_SYMLINKS
    if not other_mounts:
        resolve |= _RESOLVE_NO_XDEV
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    encoded = os.fsencode(path)
    name = f"{base}/{path.lstrip('/')}"
    if b"\0" in encoded:
        raise KernelFileError(repr(name), "a path has no NUL")
    number = errno.EAGAIN
    # EAGAIN: somebody renamed or mounted meanwhile, so the kernel cannot be sure that it stayed inside.
    for _ in range(_TRIES):
        fd: int = _libc.syscall(_OPENAT2, root_fd, encoded, how, len(how))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in {errno.EAGAIN, errno.EINTR}:
            break
    raise read_error(name, OSError(number, os.strerror(number)))


def place_of(fd: int, name: str) -> Place:
    """Where a descriptor leads; never asks a remote file system's server.

    Args:
        fd: any descriptor.
        name: what it stands for, for messages.

    Raises:
        KernelFileError: the kernel is older than Linux 5.8 and does not tell the mount.
    """
    found = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _libc.statx(fd, b"", flags, _STATX_TYPE | _STATX_MNT_ID, found) != 0:
        number = ctypes.get_errno()
        raise read_error(name, OSError(number, os.strerror(number)))
    if not _MASK.unpack_from(found)[0] & _STATX_MNT_ID:
        raise KernelFileError(name, "this kernel does not tell mount IDs (Linux 5.8 does)")
    return Place(_MNT_ID.unpack_from(found)[0], stat.S_ISDIR(_MODE.unpack_from(found)[0]))
