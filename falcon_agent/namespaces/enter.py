"""Running a call inside a namespace of a process (setns(2), network_namespaces(7), uts_namespaces(7))."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from falcon_agent.errors import KernelFileError, as_value
from falcon_agent.kernelfile import read_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias, TypeVar

    T = TypeVar("T")
    _Jobs: TypeAlias = "SimpleQueue[_Job | None]"


class Kind(NamedTuple):
    """A kind of namespace that a single thread of a program may enter.

    Attributes:
        file: below /proc/PID/ns.
        words: for messages.
        flag: from sched.h; given to setns, so that it works under systemd's RestrictNamespaces=, which forbids
            0 ("any kind").
    """

    file: str
    words: str
    flag: int


NETWORK = Kind("net", "network", 0x40000000)
UTS = Kind("uts", "UTS", 0x04000000)
"""Where a host's name is, and nothing else."""

_libc = ctypes.CDLL(None, use_errno=True)  # os.setns is there from Python 3.12 on


class _Reply(NamedTuple):
    """What became of a job.

    Attributes:
        value: what the call returned.
        error: what it raised instead.
        is_home: whether the thread is back in its own namespace.
    """

    value: Any
    error: BaseException | None
    is_home: bool


class _Job(NamedTuple):
    call: Callable[[], Any]
    dir_fd: int
    base: str
    inode: int | None
    reply: SimpleQueue[_Reply]


class Namespaces:
    """A thread that goes into namespaces of one kind and runs calls there; it never does anything else.

    A namespace belongs to a thread, so the rest of the program stays where it is. If the way home fails, the
    thread ends and the next call gets a new one. No descriptor of a foreign namespace is kept: it would keep
    a dead container's namespace, and its veth on the host, alive.

    Args:
        kind: of namespace.
        proc: where /proc is mounted.
        timeout: seconds that a call may take.
    """

    def __init__(self, kind: Kind, proc: str = "/proc", timeout: float = 5.0) -> None:
        self._kind = kind
        self._proc = proc
        self._timeout = timeout
        self._lock = threading.Lock()
        self._jobs: _Jobs | None = None
        self._late: SimpleQueue[_Reply] | None = None

    def run(self, call: Callable[[], T], dir_fd: int, base: str, inode: int | None = None) -> T:
        """Run `call` in the namespace of a process and return what it returns.

        What it returns must not keep the namespace alive: a socket made inside does, until it is closed.

        Args:
            call: does one short piece of work, with a time limit of its own.
            dir_fd: descriptor on the process's /proc directory.
            base: that directory's path, for messages.
            inode: the namespace it has to be, if that is known.

        Raises:
            DeniedError: CAP_SYS_ADMIN or CAP_SYS_PTRACE is missing.
            GoneError: the process ended.
            KernelFileError: the process is in another namespace than `inode`, or the call did not return in
                time (then no other is begun until it has).
            Exception: whatever `call` raises.
        """
        with self._lock:
            self._take_late_reply(base)
            if self._jobs is None:
                self._jobs = self._start()
            reply: SimpleQueue[_Reply] = SimpleQueue()
            self._jobs.put(_Job(call, dir_fd, base, inode, reply))
            try:
                outcome = reply.get(timeout=self._timeout)
            except Empty:
                self._late = reply
                raise KernelFileError(
                    f"{base}/ns/{self._kind.file}", "work inside did not end in time"
                ) from None
            self._settle(outcome)
        if outcome.error is not None:
            try:
                raise outcome.error
            finally:
                del outcome
        value: T = outcome.value
        return value

    def _take_late_reply(self, base: str) -> None:
        """A call that hangs keeps out those after it, so that hanging threads cannot pile up."""
        if self._late is None:
            return
        try:
            outcome = self._late.get_nowait()
        except Empty:
            raise KernelFileError(
                f"{base}/ns/{self._kind.file}", "an earlier call inside a namespace still hangs"
            ) from None
        self._late = None
        self._settle(outcome)

    def _settle(self, outcome: _Reply) -> None:
        if not outcome.is_home:
            self._jobs = None

    def _start(self) -> _Jobs:
        path = f"{self._proc}/thread-self/ns/{self._kind.file}"
        try:
            home = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise read_error(path, error) from None
        jobs: _Jobs = SimpleQueue()
        # A daemon: the program may end while the thread waits for work.
        name = f"{self._kind.file}-namespaces"
        thread = threading.Thread(target=_serve, args=(self._kind, jobs, home), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # a limit on tasks
            os.close(home)
            raise KernelFileError(path, str(error)) from None
        weakref.finalize(self, jobs.put, None)
        return jobs


class NetworkNamespaces(Namespaces):
    """A thread that goes into network namespaces."""

    def __init__(self, proc: str = "/proc", timeout: float = 5.0) -> None:
        super().__init__(NETWORK, proc, timeout)


class UtsNamespaces(Namespaces):
    """A thread that goes into UTS namespaces."""

    def __init__(self, proc: str = "/proc", timeout: float = 5.0) -> None:
        super().__init__(UTS, proc, timeout)


def _serve(kind: Kind, jobs: _Jobs, home: int) -> None:
    """The thread: job after job, as long as it finds home."""
    try:
        while (job := jobs.get()) is not None:
            outcome = _visit(kind, job, home)
            job.reply.put(outcome)
            if not outcome.is_home:
                return
            # The last job's values would otherwise live until the next one comes.
            del job, outcome
    finally:
        os.close(home)


def _visit(kind: Kind, job: _Job, home: int) -> _Reply:
    """Go there, work, come home."""
    try:
        _enter(kind, job.dir_fd, job.base, job.inode)
    except Exception as refused:  # noqa: BLE001  it belongs to the caller, who raises it
        return _Reply(None, as_value(refused), is_home=True)
    value: Any = None
    error: BaseException | None = None
    try:
        value = job.call()
    except BaseException as raised:  # noqa: BLE001  the same; and the thread must go home in any case
        error = as_value(raised)
    return _Reply(value, error, is_home=_libc.setns(home, kind.flag) == 0)


def _enter(kind: Kind, dir_fd: int, base: str, inode: int | None) -> None:
    path = f"{base}/ns/{kind.file}"
    try:
        namespace = os.open(f"ns/{kind.file}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            if inode is not None and os.fstat(namespace).st_ino != inode:
                raise KernelFileError(path, f"the process is not in {kind.words} namespace {inode} any more")
            if _libc.setns(namespace, kind.flag) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(namespace)
    except OSError as error:
        raise read_error(path, error) from None
