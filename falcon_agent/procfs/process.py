"""A process of the host, held by a descriptor on its /proc directory."""

from __future__ import annotations

import os

from falcon_agent.errors import GoneError, ParseError
from falcon_agent.kernelfile import read_error, read_to_eof


def parse_starttime(stat: bytes) -> int:
    """Field 22 of /proc/PID/stat, in clock ticks since boot (proc(5)).

    Raises:
        ParseError: the line is cut short or no number stands there. The command name (field 2) may hold spaces
            and brackets, so fields are counted from the last closing bracket.
    """
    fields = stat[stat.rfind(b")") + 1 :].split()
    try:
        return int(fields[19])
    except (IndexError, ValueError):
        raise ParseError("/proc/PID/stat", "no start time in field 22") from None


class Process:
    """/proc/PID, opened once.

    A descriptor on the directory stays bound to this very process: when the pid is reused, reads through it fail
    with ESRCH instead of describing a stranger. It pins nothing (unlike one on net/* or ns/net).

    Raises:
        GoneError: there is no such process, or (with `starttime`) its pid now belongs to another.
    """

    def __init__(self, proc: str, pid: int, starttime: int | None = None) -> None:
        self.path = f"{proc}/{pid}"
        self.pid = pid
        try:
            self.fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise read_error(self.path, error) from None
        if starttime is not None:
            try:
                if self.starttime() != starttime:
                    raise GoneError(self.path, "the pid belongs to another process now")
            except BaseException:
                self.close()
                raise

    def read(self, name: str) -> bytes:
        """The content of a file below /proc/PID, e.g. `net/sockstat`; errors as `read_to_eof`."""
        return read_to_eof(name, dir_fd=self.fd, base=self.path)

    def starttime(self) -> int:
        """When the process started, in clock ticks since boot."""
        return parse_starttime(self.read("stat"))

    def namespace_inode(self, kind: str) -> int:
        """The inode that names its namespace of this kind, e.g. `net`.

        Raises:
            DeniedError: another user's process, without CAP_SYS_PTRACE.
            GoneError: the process ended.
        """
        path = f"ns/{kind}"
        try:
            return os.stat(path, dir_fd=self.fd).st_ino
        except OSError as error:
            raise read_error(f"{self.path}/{path}", error) from None

    def close(self) -> None:
        """Let the directory go; may be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
