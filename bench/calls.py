"""System calls of this very process, counted by strace(1): it sees what C libraries do too."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_BEGIN = "/bench/cycle/begin"
_END = "/bench/cycle/end"
_CALL = re.compile(r"^\d+ +(?P<name>\w+)\((?:\d+<(?P<path>[^>]*)>)?")
_READS = frozenset({"read", "pread64", "readv", "preadv", "preadv2"})
_ATTACH_SECONDS = 60.0
_NOT_COUNTED = frozenset(
    {"futex", "mmap", "munmap", "mremap", "brk", "madvise", "sched_yield", "restart_syscall", "rt_sigreturn"}
)
"""Of waiting threads and of the memory allocator: their number changes from cycle to cycle."""


class Call(NamedTuple):
    """One system call.

    Attributes:
        name: of the call.
        path: of the file that the descriptor in its first argument stands for; empty without one.
    """

    name: str
    path: str


def traced(work: Callable[[], object]) -> list[Call]:
    """The system calls of all threads of this process while `work` runs, but those of waiting and memory.

    Raises:
        RuntimeError: strace is not there, or may not attach.
    """
    with tempfile.TemporaryDirectory(prefix="falcon-bench-") as directory:
        output = Path(directory, "strace")
        with _attached(output):
            _mark(_BEGIN)
            try:
                work()
            finally:
                _mark(_END)
        return list(_between(output.read_text(errors="replace").splitlines()))


def files_read(calls: Iterable[Call]) -> list[str]:
    """The files below /proc and /sys that were read, each once, in the order of the first read."""
    paths = dict.fromkeys(call.path for call in calls if call.name in _READS)
    return [path for path in paths if path.startswith(("/proc/", "/sys/"))]


def by_name(calls: Iterable[Call]) -> Counter[str]:
    """How many of each."""
    return Counter(call.name for call in calls)


@contextlib.contextmanager
def _attached(output: Path) -> Iterator[None]:
    argv = ["strace", "-f", "-y", "-qq", "-s", "0", "-e", "signal=none"]
    try:
        tracer = subprocess.Popen(
            [*argv, "-o", str(output), "-p", str(os.getpid())], stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError:
        raise RuntimeError("cannot count system calls: strace is missing; run `make setup` as root") from None
    try:
        end = time.monotonic() + _ATTACH_SECONDS
        while not all(_has_tracer(task) for task in Path("/proc/self/task").iterdir()):
            if tracer.poll() is not None or time.monotonic() > end:
                why = tracer.communicate()[1] if tracer.poll() is not None else "it does not attach"
                raise RuntimeError(f"cannot count system calls: strace: {why}")
            time.sleep(0.01)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()


def _has_tracer(task: Path) -> bool:
    try:
        return "\nTracerPid:\t0\n" not in (task / "status").read_text()
    except OSError:
        return True  # the thread ended


def _mark(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.stat(path)


def _between(lines: Iterable[str]) -> Iterator[Call]:
    """The calls between the marks.

    One that another thread interrupted has a second line, which is passed over.
    """
    counting = False
    for line in lines:
        if _BEGIN in line:
            counting = True
        elif _END in line:
            return
        elif counting and (found := _CALL.match(line)) and found["name"] not in _NOT_COUNTED:
            yield Call(found["name"], found["path"] or "")
