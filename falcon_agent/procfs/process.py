"""A process of the host, held by a descriptor on its /proc directory."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, cast

from falcon_agent.errors import GoneError, ParseError
from falcon_agent.kernelfile import open_to_read_again, read_again, read_error, read_record, read_to_eof

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import TypeVar

    S = TypeVar("S", bound=socket.socket)
    T = TypeVar("T")


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

    Attributes:
        path: of the directory.
        pid: as `proc` numbers it.
        fd: the open directory; -1 once closed.
        is_watched: whether somebody tells of its end, so that it may keep files open.

    Raises:
        GoneError: there is no such process, or (with `starttime`) its pid now belongs to another.
    """

    def __init__(self, proc: str, pid: int, starttime: int | None = None) -> None:
        self.path = f"{proc}/{pid}"
        self.pid = pid
        self._lock = threading.Lock()
        self._kept: dict[str, int] | None = None
        self._sockets: dict[str, socket.socket] = {}
        self.is_watched = False
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
        """The content of a file below /proc/PID, e.g. `net/dev`; errors as `read_to_eof`."""
        return read_to_eof(name, dir_fd=self.fd, base=self.path)

    def read_record(self, name: str) -> bytes:
        """The content of a file that is one record, e.g. `net/sockstat`; see `kernelfile.read_record`."""
        if self._kept is not None:
            with self._lock:
                # It may have ended meanwhile.
                if (kept := self._kept) is not None:
                    if name not in kept:
                        kept[name] = open_to_read_again(name, dir_fd=self.fd, base=self.path)
                    return read_again(kept[name], name, self.path)
        return read_record(name, dir_fd=self.fd, base=self.path)

    def keep(self) -> None:
        """Keep the files open that are read by `read_record`; whoever asks for this calls `ended` in time."""
        self._kept = {}
        self.is_watched = True

    def use_socket(self, name: str, make: Callable[[], S], use: Callable[[S], T]) -> T:
        """What `use` returns of a socket in its namespaces, which is kept for the next time where that may be.

        Nobody closes it meanwhile. It is not kept where `use` fails: the rest of an answer may be on its way.

        Args:
            name: of the socket, the same for the same `make`.
            make: opens it.
            use: is given it.
        """
        with self._lock:
            sock = cast("S | None", self._sockets.pop(name, None)) or make()
            try:
                found = use(sock)
            except BaseException:
                sock.close()
                raise
            if self._kept is None:
                sock.close()
            else:
                self._sockets[name] = sock
        return found

    def ended(self) -> None:
        """The process has ended: let go at once of what keeps its namespaces alive."""
        with self._lock:
            kept, self._kept = self._kept, None
            for fd in (kept or {}).values():
                os.close(fd)
            for sock in self._sockets.values():
                sock.close()
            self._sockets.clear()

    def still_runs(self) -> bool:
        """Whether it has not ended; one whose end nobody has waited for yet counts as running, unless it is watched."""
        if self.is_watched:
            return self._kept is not None
        try:
            os.stat("stat", dir_fd=self.fd)
        except OSError:
            return False
        return True

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
        """Let the directory and what is kept go; may be called twice."""
        self.ended()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
