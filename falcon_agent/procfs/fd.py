"""/proc/PID/fd: the open file descriptors of a process (proc_pid_fd(5))."""

from __future__ import annotations

import os

from falcon_agent.kernelfile import is_recording, note, read_error


def count_open_files(process: str) -> int:
    """How many descriptors a process has open.

    Since Linux 6.2 the size of the directory is their number (filesystems/proc.rst, "3.14"), which everybody may
    ask for; older kernels say 0, and listing it needs CAP_DAC_READ_SEARCH.

    Args:
        process: the directory, `/proc/PID`.

    Raises:
        GoneError: the process ended.
        DeniedError: it is another user's, and the privilege is missing.
    """
    path = f"{process}/fd"
    try:
        count = os.stat(path).st_size
        if not count:
            with os.scandir(path) as entries:
                count = sum(1 for _ in entries)
    except OSError as error:
        raise read_error(path, error) from None
    if is_recording():
        note(path, b"%d entries\n" % count)
    return count
