"""`cgroup.procs`: the processes of a cgroup and of everything below it.

Sources: Linux, admin-guide/cgroup-v2.rst ("Core Interface Files", "Threads") and admin-guide/cgroup-v1/cgroups.rst.
"""

from __future__ import annotations

import errno
import os
import re

from falcon_agent.errors import GoneError, KernelFileError, ParseError
from falcon_agent.kernelfile import read_error, read_to_eof

_PROCS = re.compile(rb"(?:[0-9]{1,10}\n)*")
_THREADED = os.strerror(errno.EOPNOTSUPP)
_EMPTY_LINKS = 2


def list_processes(directory: str, most: int) -> list[int] | None:
    """The numbers of the processes, in no order; 0 stands for one that the reader's PID namespace does not show.

    A container may make cgroups below its own; those that go away meanwhile are passed over.

    Args:
        directory: of the cgroup.
        most: with more processes, or more cgroups below it, than this the answer is None.

    Raises:
        GoneError: the cgroup was removed.
        DeniedError, KernelFileError: a file of it cannot be read.
        ParseError: a file holds anything but numbers.
    """
    found = _processes(directory)
    below = [directory]
    seen = 1
    while below and len(found) <= most:
        for child in _children(below.pop()):
            seen += 1
            if seen > most:
                return None
            below.append(child)
            try:
                found += _processes(child)
            except GoneError:
                continue
    return found if len(found) <= most else None


def _processes(directory: str) -> list[int]:
    try:
        content = read_to_eof(f"{directory}/cgroup.procs")
    except KernelFileError as error:
        if error.reason == _THREADED:
            return []  # its processes are those of the cgroup above; only threads are told apart here
        raise
    if not _PROCS.fullmatch(content):
        raise ParseError("cgroup.procs", f"{content[:80]!r} is not process numbers")
    return [int(line) for line in content.split()]


def _children(directory: str) -> list[str]:
    try:
        # A directory has a link from each one below it: most cgroups need no listing.
        if os.stat(directory).st_nlink == _EMPTY_LINKS:
            return []
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise read_error(directory, error) from None
