"""Being told at once that a process ended (pidfd_open(2), epoll(7)), to let go of what would outlive it."""

from __future__ import annotations

import errno
import os
import select
import threading
from typing import TYPE_CHECKING

from falcon_agent.errors import GoneError
from falcon_agent.procfs.reader import has_our_pids

if TYPE_CHECKING:
    from falcon_agent.procfs.process import Process


class Endings:
    """One thread that sleeps until one of many processes ends, and then has it let go (`Process.ended`).

    A kept descriptor on a file of /proc/PID/net keeps the network namespace, and so the veth, of a container that is
    dead. With this they go some milliseconds after its first process. It takes Linux 5.3: without that, or where the
    agent numbers processes otherwise than `proc`, nothing is kept.

    Args:
        proc: where /proc is.
    """

    def __init__(self, proc: str) -> None:
        self._usable = hasattr(os, "pidfd_open") and has_our_pids(proc) is True
        self._lock = threading.Lock()
        self._pidfds: dict[Process, int] = {}
        self._watched: dict[int, Process] = {}
        self._thread: threading.Thread | None = None

    def watch(self, process: Process) -> bool:
        """Let `process` keep what it reads until it ends; False where that could not be told.

        Raises:
            GoneError: it has ended.
        """
        if not self._usable:
            return False
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            raise GoneError(process.path, "the process ended") from None
        except OSError as error:
            self._usable = error.errno not in {errno.ENOSYS, errno.EPERM}
            return False
        # The number was still its own if it still runs now.
        if not process.still_runs():
            os.close(pidfd)
            raise GoneError(process.path, "the process ended")
        if self._thread is None:
            self._begin()
        process.keep()
        with self._lock:
            self._watched[pidfd] = process
            self._pidfds[process] = pidfd
            self._epoll.register(pidfd, select.EPOLLIN)
        return True

    def forget(self, process: Process) -> None:
        """Stop watching a process, if it still is."""
        with self._lock:
            self._drop(process)

    def close(self) -> None:
        """End the thread; nothing is watched any more."""
        if self._thread is None:
            return
        os.eventfd_write(self._wakeup, 1)
        self._thread.join()
        for process in list(self._pidfds):
            self._drop(process)
        self._epoll.close()
        os.close(self._wakeup)
        self._thread = None

    def _begin(self) -> None:
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        self._thread = threading.Thread(target=self._wait, name="endings", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._wakeup:
                    return
                with self._lock:
                    process = self._watched.get(fd)
                    if process is not None:
                        process.ended()
                        self._drop(process)

    def _drop(self, process: Process) -> None:
        pidfd = self._pidfds.pop(process, None)
        if pidfd is not None:
            del self._watched[pidfd]
            self._epoll.unregister(pidfd)
            os.close(pidfd)
