"""What each container has written into its own layer."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from falcon_agent.errors import DeniedError, FalconAgentError, GoneError
from falcon_agent.kernelfile import is_recording, note, read_error, read_to_eof
from falcon_agent.metric import Metric, Source
from falcon_agent.namespaces.calls import Call, Calls
from falcon_agent.namespaces.rootfs import open_in_root
from falcon_agent.namespaces.treesize import Progress, tree_size
from falcon_agent.procfs.mountinfo import parse_mountinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample
    from falcon_agent.procfs.mountinfo import Mount

INTERVAL = 900.0
"""Seconds from the end of one walk through a layer to the beginning of the next."""
_MAX_AGE_INTERVALS = 3
_FIND_AGAIN = 15
"""Times in an interval that a layer is looked for that was not found."""
_CPU_SECONDS = 0.05
_WALL_SECONDS = 0.2
_HANG_SECONDS = 2.0
_OWN_PROC = "/proc"
_MOUNTINFO_BYTES = 4 * 1024 * 1024
_OWN_MOUNTINFO_BYTES = 1024 * 1024

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13

_NEEDS = "CAP_DAC_READ_SEARCH"

LAYER_BYTES = Metric(
    "container.layer.bytes",
    "GAUGE",
    "bytes",
    "Size of the files that the container has written or changed in its root file system: SIZE of docker ps -s.",
    "sum of st_size of everything but directories below the upper directory of its overlay, hard links once",
    (Source("layer of"),),
    needs=_NEEDS,
)


@dataclass(slots=True)
class _Layer:
    """What is known of one container's layer.

    Attributes:
        upper: the overlay's upper directory as the host names it; None while it is not known.
        size: bytes at the end of the last walk, at time `measured`.
        reason: why there is no value, in words.
        due: when the next walk is to begin, if it is not waiting for its turn (`queued`).
    """

    upper: str | None = None
    size: int | None = None
    measured: float = 0.0
    reason: str = "it waits for its turn to be walked through"
    due: float = float("-inf")
    queued: bool = False


@dataclass(slots=True)
class _Walk:
    """The walk under way: whose, and where it goes on."""

    key: str
    upper: str
    steps: Generator[Progress, None, int]
    progress: Progress | None = None


class LayersizeCollector:
    """Collector `layersize`: how much a container has written into its writable layer, for the overlay drivers.

    It walks through the layer's directory on the host: one container after the other, on a thread of idle I/O
    priority, for 50 ms of CPU time a cycle in all (about 10,000 files), and again 15 minutes after it has finished.
    The last size is sent in every cycle, for 45 minutes at most, and never one of a walk that has not finished.
    Symbolic links and other mounts are not followed. A layer of more than five million files has no value.

    The directory is taken from the host's list of mounts, by the device of the container's root: what a
    container mounts itself is not there. It needs CAP_DAC_READ_SEARCH; and for an agent that has the host's
    /proc elsewhere, CAP_SYS_PTRACE. There is no value where the host does not see the overlay, where its directory
    is named relative to another (very many image layers), and under drivers other than overlay.

    Args:
        proc: where the host's /proc is.
        interval: seconds from the end of one walk to the next of the same container.
        clock: monotonic seconds.
    """

    name = "layersize"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = (LAYER_BYTES,)

    def __init__(
        self,
        proc: str = "/proc",
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proc = proc
        self._interval = interval
        self._clock = clock
        self._layers: dict[str, _Layer] = {}
        self._queue: deque[str] = deque()
        self._walk: _Walk | None = None
        self._calls = Calls("layersize", _HANG_SECONDS, _HANG_SECONDS, 1, _be_idle)

    def begin(self, targets: Sequence[Target]) -> None:
        """Go on with the walk under way, or begin that of the container whose turn it is."""
        now = self._clock()
        due = []
        for target in targets:
            layer = self._layers.setdefault(target.container.key, _Layer())
            if not layer.queued and now >= layer.due:
                due.append((target, layer))
        self._find([(target, layer) for target, layer in due if layer.upper is None], now)
        for target, layer in due:
            if layer.upper is not None:
                layer.queued = True
                self._queue.append(target.container.key)
        if self._calls.hung() or (self._walk is None and not self._queue):
            return
        (outcome,) = self._calls.run([Call("layers", is_remote=False, run=self._step)])
        if isinstance(outcome, Exception):
            if self._walk is None:
                raise outcome
            self._end(self._walk, str(outcome))

    def _find(self, missing: Sequence[tuple[Target, _Layer]], now: float) -> None:
        """Look up where layers are that are not known."""
        if not missing:
            return
        for _, layer in missing:
            # A container that has only just begun may not have got its root yet.
            layer.due = now + self._interval / _FIND_AGAIN
        try:
            host = read_to_eof(f"{self._proc}/{_host(self._proc)}/mountinfo", limit=_MOUNTINFO_BYTES)
            uppers = {
                mount.device: mount.super_option("upperdir")
                for mount in parse_mountinfo(host)
                if mount.fstype == "overlay"
            }
        except FalconAgentError as error:
            for _, layer in missing:
                layer.reason = str(error)
            return
        for target, layer in missing:
            found = _upper(target, uppers)
            if found.startswith("/"):
                layer.upper = found
            else:
                layer.reason = found

    def _step(self) -> None:
        """One cycle's share of the work; runs on the thread for it."""
        cpu_end, wall_end = time.thread_time() + _CPU_SECONDS, time.monotonic() + _WALL_SECONDS
        is_over = False
        while not is_over:
            walk = self._walk
            if walk is None:
                walk = self._walk = self._next()
            if walk is None:
                return
            try:
                walk.progress = next(walk.steps)
            except StopIteration as finished:
                self._end(walk, finished.value)
            except DeniedError as error:
                self._end(walk, f"{error}; the agent needs {_NEEDS}")
            except FalconAgentError as error:
                self._end(walk, str(error))
            is_over = time.thread_time() >= cpu_end or time.monotonic() >= wall_end

    def _next(self) -> _Walk | None:
        """The walk of the container whose turn it is, if there is any."""
        while self._queue:
            key = self._queue.popleft()
            layer = self._layers.get(key)
            if layer is not None and layer.upper is not None:
                steps = tree_size(partial(_open_host, self._proc, layer.upper), layer.upper)
                return _Walk(key, layer.upper, steps)
        return None

    def _end(self, walk: _Walk, outcome: int | str) -> None:
        """A walk is over, with a size or the reason why there is none."""
        self._walk = None
        layer = self._layers.get(walk.key)
        if layer is None:
            return
        now = self._clock()
        layer.queued = False
        layer.due = now + self._interval
        if isinstance(outcome, str):
            layer.size, layer.reason = None, outcome
        else:
            layer.size, layer.measured = outcome, now

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The size of one container's layer, as its last walk found it."""
        layer = self._layers.get(target.container.key) if target is not None else None
        if layer is None or layer.size is None:
            return
        age = self._clock() - layer.measured
        if age > _MAX_AGE_INTERVALS * self._interval:
            layer.size, layer.reason = None, f"the last size was {age:.0f} s old: there are too many files"
            return
        if is_recording():
            note(f"layer of {layer.upper}", f"{layer.size} bytes, {age:.0f} s ago\n".encode())
        yield LAYER_BYTES, layer.size, ()

    def forget(self, target: Target) -> None:
        """Drop what was kept of a container, and end its walk."""
        key = target.container.key
        self._layers.pop(key, None)
        if self._walk is not None and self._walk.key == key:
            # Not closed by hand: it may be running on a thread that hangs.
            self._walk = None

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why there was no size of `target` in the last cycle."""
        layer = self._layers.get(target.container.key)
        if layer is None or layer.size is not None:
            return None
        if self._walk is not None and self._walk.key == target.container.key and self._walk.progress:
            return f"it is being walked through: {self._walk.progress.entries} files so far"
        return layer.reason


def _upper(target: Target, uppers: dict[str, str | None]) -> str:
    """The upper directory of a container's root, or in words why it is not known."""
    process = target.process
    try:
        content = read_to_eof("mountinfo", dir_fd=process.fd, base=process.path, limit=_OWN_MOUNTINFO_BYTES)
        root: Mount | None = None
        for mount in parse_mountinfo(content):
            if mount.mount_point == "/":
                root = mount
    except GoneError:
        return "it has ended"
    except FalconAgentError as error:
        return str(error)
    if root is None or root.fstype != "overlay":
        kind = root.fstype if root is not None else "no mount"
        return f"its root is no overlay but {kind}: only an overlay keeps apart what the container wrote"
    upper = uppers.get(root.device)
    if upper is None:
        return "the host does not see its overlay, or it cannot be written"
    return upper if upper.startswith("/") else "its overlay names the directory relative to another"


def _host(proc: str) -> str:
    """The process whose mounts are the host's: this one, or, where the host's /proc is elsewhere, its first."""
    return "self" if proc == _OWN_PROC else "1"


def _open_host(proc: str, path: str) -> int:
    """A directory of the host."""
    base = f"{proc}/{_host(proc)}/root"
    try:
        root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise read_error(base, error) from None
    try:
        return open_in_root(root, path, base, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(root)


def _be_idle() -> None:
    """Let the calling thread's reads wait for everybody else's (ioprio_set(2)); nothing is lost without it."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
