"""Space and inodes of the file systems that containers see."""

from __future__ import annotations

import logging
import os
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from falcon_agent.collectors.mountchoice import behind_fuse, choose, identities, is_remote, without_hosts
from falcon_agent.errors import DeniedError, FalconAgentError, GoneError, KernelFileError, as_value
from falcon_agent.kernelfile import is_recording, note, read_to_eof
from falcon_agent.metric import Metric, Source
from falcon_agent.namespaces.calls import Call, CallHangsError, Calls, NotCalledError
from falcon_agent.namespaces.rootfs import open_in_root, open_root, place_of
from falcon_agent.naming import clean_tag_value
from falcon_agent.procfs.mountinfo import parse_mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.collectors.mountchoice import Identity
    from falcon_agent.metric import Sample
    from falcon_agent.procfs.mountinfo import Mount

    _Answer: TypeAlias = "os.statvfs_result | str"
    """What statvfs says of a mount, or in words why it was not asked."""

log = logging.getLogger(__name__)

MAX_NAMES = 256
"""Mount points that one container may bring up in all its life: each makes series that Open-Falcon keeps."""
_MOUNTINFO_BYTES = 1024 * 1024
_REREAD_CYCLES = 10
_BYTES_PER_CYCLE = 32 * 1024
"""A longer mountinfo is read less often: the kernel takes 16 us for each KB."""
_MAX_HUNG = 4
_TOTAL_LIMITS = 2
_LARGEST = 2**63
_SAID_REASONS = 3

_NEEDS = "CAP_SYS_PTRACE"
_NEEDS_BELOW = "CAP_DAC_READ_SEARCH for what lies below a directory closed to others"
_TAGS = ("mount", "fstype")
_NO_MOUNTS = "no mount of it is a file system that holds files of its own"
_FUSE = "FUSE is left out: a program answers for it, and could keep the agent from ending"
_A_FILE = "a file is mounted there, not a directory"


def _metric(name: str, unit: str, meaning: str, formula: str, *keys: str) -> Metric:
    source = Source("statvfs", keys)
    return Metric(
        f"container.df.{name}", "GAUGE", unit, meaning, formula, (source,), _TAGS, f"{_NEEDS}; {_NEEDS_BELOW}"
    )


_PERCENT = "used / (used + free) x 100; df shows the same, rounded up to a whole number"
_BLOCKS, _BFREE, _BAVAIL = "f_blocks", "f_bfree", "f_bavail"
_SIZE, _FILES, _FFREE = "f_frsize", "f_files", "f_ffree"

BYTES_TOTAL = _metric(
    "bytes.total",
    "bytes",
    "Size of a file system that the container sees.",
    "f_blocks x f_frsize",
    _BLOCKS,
    _SIZE,
)
BYTES_USED = _metric(
    "bytes.used",
    "bytes",
    "The part in use, by whomever.",
    "(f_blocks - f_bfree) x f_frsize",
    _BLOCKS,
    _BFREE,
    _SIZE,
)
BYTES_FREE = _metric(
    "bytes.free",
    "bytes",
    "What is left for programs without privileges: less than total - used by what is kept for root.",
    "f_bavail x f_frsize",
    _BAVAIL,
    _SIZE,
)
BYTES_PERCENT = _metric(
    "bytes.used.percent",
    "percent",
    "Share in use of what programs without privileges can have; 100 means that they get no space any more.",
    _PERCENT,
    _BLOCKS,
    _BFREE,
    _BAVAIL,
)
INODES_TOTAL = _metric(
    "inodes.total", "inodes", "Files and directories that the file system can hold.", "f_files", _FILES
)
INODES_USED = _metric(
    "inodes.used", "inodes", "Files and directories it holds.", "f_files - f_ffree", _FILES, _FFREE
)
INODES_FREE = _metric(
    "inodes.free", "inodes", "Files and directories that can still be made.", "f_ffree", _FFREE
)
INODES_PERCENT = _metric(
    "inodes.used.percent",
    "percent",
    "Share of the inodes in use; at 100 no file can be made, however much space is left.",
    "used / total x 100; df -i shows the same, rounded up to a whole number",
    _FILES,
    _FFREE,
)


@dataclass(slots=True)
class _Watched:
    """What is known of one container.

    Attributes:
        mounts: those to ask; learned anew in cycle `due`, in cycle `earliest` if one is not there any more.
        answers: of this cycle, one for each of `mounts`.
        fuse: mount IDs that are left out because of FUSE.
        files: mount IDs at which there is no directory.
        good: mount IDs that have answered.
        names: mount points as tags, all there ever were.
        reasons: by mount point, why there is no value in this cycle.
        sent: names of the metrics that had a value in this cycle.
        error: why nothing can be said.
    """

    mounts: list[Mount] = field(default_factory=list)
    due: int = 0
    earliest: int = 0
    digest: int = 0
    answers: list[_Answer] = field(default_factory=list)
    fuse: frozenset[int] = frozenset()
    files: set[int] = field(default_factory=set)
    good: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    error: Exception | None = None


class FilesystemCollector:
    """Collector `filesystem`: what df shows inside a container, of its root and of each volume.

    statvfs is asked inside the container's mount namespace, by a path that neither links nor renames of the container
    can lead elsewhere (openat2; the mount ID has to be the expected one). Nothing is walked through. It needs
    CAP_SYS_PTRACE, and Linux 5.8. It costs about 0.03 ms of CPU for each mount, and 0.1 ms for each container every
    tenth cycle, when the list of mounts is read again: so late can a volume be seen that is mounted later.

    A file system that does not answer (NFS) is given up after one second, for all containers, and left
    alone until its answer has come. While four hang no remote one is asked, and a cycle waits for two seconds at
    most.
    As long as the question lasts, normally some microseconds, the container cannot unmount what is asked.

    FUSE file systems, and what is mounted below one, are left out unless that is asked for: while a FUSE server
    has taken a question and does not answer, not even SIGKILL ends the agent. A question to NFS ends with it.

    Left out are also pseudo file systems, images that are always full (squashfs, iso9660, erofs), single files
    that are mounted (/etc/hosts), the runtime's own mounts below /dev, /proc, /sys and /run/secrets, /dev/shm of
    the default size (64 MB), overlays elsewhere than at `/` (roots of containers inside the container), and the
    host's own mounts where a container has no root directory of its own (a unit, a sandbox). Of
    several mounts of one device with one capacity the shortest mount point is reported. `/` and a volume on the same
    disk are two for the kernel, and both are reported: one says whether the container can write, the other
    whether its data can. At most 64 mounts of a container are looked at.

    Args:
        proc: where the host's /proc is mounted.
        limit: seconds after which a file system is given up.
        fuse: whether FUSE file systems are asked too.
    """

    name = "filesystem"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = (
        BYTES_TOTAL,
        BYTES_USED,
        BYTES_FREE,
        BYTES_PERCENT,
        INODES_TOTAL,
        INODES_USED,
        INODES_FREE,
        INODES_PERCENT,
    )

    def __init__(self, proc: str = "/proc", limit: float = 1.0, *, fuse: bool = False) -> None:
        self._proc = proc
        self._fuse = fuse
        self._hosts: frozenset[Identity] = frozenset()
        self._calls = Calls("filesystems", limit, _TOTAL_LIMITS * limit, _MAX_HUNG)
        self._watched: dict[str, _Watched] = {}
        self._cycle = 0

    def begin(self, targets: Sequence[Target]) -> None:
        """Ask all file systems of all containers; what goes wrong with one is said in its `collect`."""
        if self._cycle % _REREAD_CYCLES == 0:
            self._hosts = _hosts_mounts(self._proc)
        self._cycle += 1
        asked: list[tuple[Target, _Watched, int]] = []
        for target in targets:
            watched = self._watched.setdefault(target.container.key, _Watched())
            if self._cycle >= watched.due:
                self._learn(target, watched)
            elif watched.mounts:
                watched.error = None
            watched.answers = [_FUSE if each.mount_id in watched.fuse else _A_FILE for each in watched.mounts]
            asked += [
                (target, watched, index)
                for index, mount in enumerate(watched.mounts)
                if mount.mount_id not in watched.files | watched.fuse
            ]
        # A slow server must not take the time of those that need none.
        asked.sort(key=lambda one: is_remote(one[1].mounts[one[2]]))
        outcomes = self._calls.run([_call(target, watched.mounts[index]) for target, watched, index in asked])
        for (target, watched, index), outcome in zip(asked, outcomes, strict=True):
            self._take(target, watched, index, outcome)

    def _learn(self, target: Target, watched: _Watched) -> None:
        """Read which mounts there are."""
        process = target.process
        watched.error = None
        try:
            content = read_to_eof("mountinfo", dir_fd=process.fd, base=process.path, limit=_MOUNTINFO_BYTES)
            size, digest = len(content), zlib.crc32(content)
            if digest != watched.digest or not watched.mounts:
                found = parse_mountinfo(content)
                watched.mounts = choose(without_hosts(found, self._hosts))
                watched.fuse = frozenset() if self._fuse else behind_fuse(found)
                watched.files.clear()
                watched.good.clear()
            watched.digest = digest
        except FalconAgentError as error:
            watched.error = as_value(error)
            watched.mounts = []
            size = _MOUNTINFO_BYTES
        watched.earliest = self._cycle + max(1, size // _BYTES_PER_CYCLE)
        # Containers that were started together must not all have their turn in the same cycle for ever.
        first = not watched.due
        pause = 1 + zlib.crc32(target.container.key.encode()) % _REREAD_CYCLES if first else _REREAD_CYCLES
        watched.due = max(self._cycle + pause, watched.earliest)

    def _take(self, target: Target, watched: _Watched, index: int, outcome: _Answer | Exception) -> None:
        mount = watched.mounts[index]
        if isinstance(outcome, os.statvfs_result):
            watched.good.add(mount.mount_id)
        elif outcome is _A_FILE:
            watched.files.add(mount.mount_id)
        elif isinstance(outcome, CallHangsError):
            where = f"{mount.fstype} at {mount.mount_point!r} of {target.container.name!r}"
            log.warning("file system %s: %s; it is left alone until it answers", where, outcome)
        elif isinstance(outcome, Exception) and not isinstance(outcome, NotCalledError):
            watched.error = outcome
        elif isinstance(outcome, str) and mount.mount_id in watched.good:
            watched.due = watched.earliest
        watched.answers[index] = str(outcome) if isinstance(outcome, Exception) else outcome

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The samples of one container.

        Raises:
            GoneError: it ended meanwhile.
            ParseError: its mountinfo has an unknown form.
        """
        watched = self._watched.get(target.container.key) if target is not None else None
        if target is None or watched is None:
            return
        watched.reasons = {}
        watched.sent = set()
        error = watched.error
        if isinstance(error, KernelFileError) and not isinstance(error, GoneError):
            # A matter of how the agent is run, or of how many mounts there are: not of this cycle.
            needs = f"; the agent needs {_NEEDS}" if isinstance(error, DeniedError) else ""
            watched.reasons[""] = f"{error}{needs}"
            return
        if error is not None:
            try:
                raise error
            finally:
                del error, watched
        for mount, answer, tag in _reported(watched):
            if is_recording():
                _note(target, mount, answer)
            tags = (("mount", tag), ("fstype", mount.fstype))
            for metric, outcome in (*_space(answer), *_inodes(answer)):
                if isinstance(outcome, str):
                    watched.reasons[mount.mount_point] = outcome
                else:
                    watched.sent.add(metric.name)
                    yield metric, outcome, tags

    def forget(self, target: Target) -> None:
        """Drop what was kept of a container."""
        self._watched.pop(target.container.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why no file system of `target` had a value for `metric` in the last cycle."""
        watched = self._watched.get(target.container.key)
        if watched is None or metric.name in watched.sent:
            return None
        said = [f"{where}: {why}" if where else why for where, why in watched.reasons.items()]
        more = [f"and {len(said) - _SAID_REASONS} more"] if len(said) > _SAID_REASONS else []
        return "; ".join((*said[:_SAID_REASONS], *more)) or _NO_MOUNTS


def _hosts_mounts(proc: str) -> frozenset[Identity]:
    """What is mounted where the host's first process lives; nothing if that cannot be read."""
    try:
        return identities(parse_mountinfo(read_to_eof(f"{proc}/1/mountinfo", limit=_MOUNTINFO_BYTES)))
    except FalconAgentError as error:
        log.debug("the host's mounts are not known: %s", error)
        return frozenset()


def _reported(watched: _Watched) -> Iterator[tuple[Mount, os.statvfs_result, str]]:
    """The mounts that answered, each file system once, with their mount points as tags."""
    capacities: set[tuple[object, ...]] = set()
    tags: set[str] = set()
    for mount, answer in zip(watched.mounts, watched.answers, strict=True):
        if isinstance(answer, str):
            if answer is not _A_FILE:
                watched.reasons[mount.mount_point] = answer
            continue
        # A directory with a quota of its own is a smaller file system on the same device.
        capacity = (mount.device, answer.f_blocks, answer.f_frsize, answer.f_files)
        if capacity in capacities:
            continue
        tag = clean_tag_value(mount.mount_point)
        if tag in tags:
            watched.reasons[mount.mount_point] = "another mount point has the same name once it is cleaned"
        elif tag not in watched.names and len(watched.names) >= MAX_NAMES:
            watched.reasons[mount.mount_point] = f"the container has had {MAX_NAMES} mount points already"
        else:
            capacities.add(capacity)
            tags.add(tag)
            watched.names.add(tag)
            yield mount, answer, tag


def _call(target: Target, mount: Mount) -> Call[_Answer]:
    ask = partial(_ask, target.process.fd, target.process.path, mount)
    return Call(mount.device, is_remote(mount), ask)


def _ask(process_fd: int, base: str, mount: Mount) -> _Answer:
    """What a mount says of its space; errors as `open_root`."""
    root = open_root(process_fd, base)
    try:
        where = f"{base}/root{mount.mount_point}"
        try:
            fd = open_in_root(root, mount.mount_point, f"{base}/root", symlinks=False)
        except GoneError:
            return "its mount point is gone"
        except DeniedError as error:
            return f"{error}; the agent needs {_NEEDS_BELOW}"
        except KernelFileError as error:
            return str(error)
        try:
            place = place_of(fd, where)
            if place.mount_id != mount.mount_id:
                return "its mount point leads to another mount: it is covered, or was unmounted just now"
            return os.fstatvfs(fd) if place.is_directory else _A_FILE
        except OSError as error:
            return f"statvfs failed: {error.strerror}"
        finally:
            os.close(fd)
    finally:
        os.close(root)


def _space(answer: os.statvfs_result) -> Iterator[tuple[Metric, int | float | str]]:
    # A FUSE server may say whatever it likes.
    size, blocks = answer.f_frsize, answer.f_blocks
    reason = ""
    if not blocks:
        reason = "the file system has no size"
    elif max(answer.f_bfree, answer.f_bavail) > blocks or blocks * size >= _LARGEST:
        reason = f"the file system claims {answer.f_bavail} free blocks of {blocks}, of {size} bytes each"
    if reason:
        for metric in (BYTES_TOTAL, BYTES_USED, BYTES_FREE, BYTES_PERCENT):
            yield metric, reason
        return
    used, free = blocks - answer.f_bfree, answer.f_bavail
    yield BYTES_TOTAL, blocks * size
    yield BYTES_USED, used * size
    yield BYTES_FREE, free * size
    yield BYTES_PERCENT, _percent(used, free)


def _inodes(answer: os.statvfs_result) -> Iterator[tuple[Metric, int | float | str]]:
    total, free = answer.f_files, answer.f_ffree
    if not total or free > total or total >= _LARGEST:
        reason = (
            f"the file system claims {free} free inodes of {total}" if total else "it does not count inodes"
        )
        for metric in (INODES_TOTAL, INODES_USED, INODES_FREE, INODES_PERCENT):
            yield metric, reason
        return
    yield INODES_TOTAL, total
    yield INODES_USED, total - free
    yield INODES_FREE, free
    yield INODES_PERCENT, _percent(total - free, free)


def _percent(used: int, free: int) -> float:
    """As df; with nothing to be had at all the file system is full."""
    return round(used / (used + free) * 100, 3) if used + free else 100.0


def _note(target: Target, mount: Mount, answer: os.statvfs_result) -> None:
    """Tell `explain` what the kernel answered."""
    lines = [f"{key} {getattr(answer, key)}" for key in (_BLOCKS, _BFREE, _BAVAIL, _SIZE, _FILES, _FFREE)]
    note(f"statvfs of {target.process.path}/root{mount.mount_point}", "\n".join((*lines, "")).encode())
