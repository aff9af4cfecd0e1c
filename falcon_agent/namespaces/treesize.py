"""How many bytes the files of a directory tree hold that somebody else may change meanwhile."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from falcon_agent.errors import GoneError, KernelFileError
from falcon_agent.kernelfile import read_error
from falcon_agent.namespaces.rootfs import open_in_root

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

MAX_ENTRIES = 5_000_000
MAX_PENDING = 100_000
"""Directories that are known and not yet looked into; and files with several hard links that are remembered."""
_STEP_ENTRIES = 128
_ELSEWHERE = {os.strerror(errno.ELOOP), os.strerror(errno.EXDEV)}
"""A link has taken the directory's place, or another mount lies over it."""


@dataclass(slots=True)
class Progress:
    """How far a walk is.

    Attributes:
        entries: files and directories seen.
        size: bytes counted.
    """

    entries: int = 0
    size: int = 0


def tree_size(open_top: Callable[[], int], base: str) -> Generator[Progress, None, int]:
    """The sum of `st_size` of everything but directories below a directory, each inode once (as du --apparent-size).

    A generator, so that it can be done in pieces; between two of them it keeps two descriptors open. Symbolic
    links count by their own length and are not followed, nor are other mounts. What vanishes on the way is not
    counted.

    Args:
        open_top: opens the directory, to be read.
        base: its path, for messages.

    Yields:
        How far it is, at least once for every 128 entries.

    Returns:
        Bytes.

    Raises:
        KernelFileError: it cannot be read in full: too many entries, a path longer than 4096 bytes, no privilege.
    """
    top = open_top()
    try:
        device = os.fstat(top).st_dev
        progress = Progress()
        linked: set[int] = set()
        pending = ["."]
        while pending:
            yield progress
            path = pending.pop()
            try:
                fd = open_in_root(
                    top, path, base, os.O_RDONLY | os.O_DIRECTORY, symlinks=False, other_mounts=False
                )
            except GoneError:  # also where a file has taken the directory's place
                continue
            except KernelFileError as error:
                if error.reason in _ELSEWHERE:
                    continue
                raise
            try:
                with os.scandir(fd) as entries:
                    yield from _directory(entries, path, device, pending, linked, progress)
            except OSError as error:
                raise read_error(f"{base}/{path}", error) from None
            finally:
                os.close(fd)
            if max(len(pending), len(linked)) > MAX_PENDING or progress.entries > MAX_ENTRIES:
                raise KernelFileError(base, f"it holds too many files: more than {progress.entries}")
        return progress.size
    finally:
        os.close(top)


def _directory(
    entries: Iterable[os.DirEntry[str]],
    path: str,
    device: int,
    pending: list[str],
    linked: set[int],
    progress: Progress,
) -> Generator[Progress, None, None]:
    """Count what is in one directory, and remember the directories in it."""
    for entry in entries:
        progress.entries += 1
        if not progress.entries % _STEP_ENTRIES:
            yield progress
            if max(len(pending), len(linked)) > MAX_PENDING or progress.entries > MAX_ENTRIES:
                return
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if found.st_dev != device:
            continue
        if stat.S_ISDIR(found.st_mode):
            pending.append(f"{path}/{entry.name}")
        elif found.st_nlink == 1 or found.st_ino not in linked:
            if found.st_nlink > 1:
                linked.add(found.st_ino)
            progress.size += found.st_size
