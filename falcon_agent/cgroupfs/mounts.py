"""Mounts of cgroup hierarchies, and how the paths that the kernel tells lie in them.

Inside a cgroup namespace of our own the kernel writes every path relative to our own cgroup: `/../ID` is beside
it, `/inner` below it (cgroup_namespaces(7)). Where the host's hierarchy is mounted the root reads `/../..` then,
and the names between it and our own cgroup are nowhere told: `find_above` looks for them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from falcon_agent.errors import KernelFileError, ParseError
from falcon_agent.kernelfile import read_to_eof

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falcon_agent.container import CgroupPaths

MAX_DIRECTORIES = 10_000
"""Cgroups that are visited in search of our own. Whoever may make cgroups may make very many."""
_PIDS_BYTES = 1024 * 1024
_UP = ".."
_ESCAPE = re.compile(r"\\([0-7]{3})")
_FIELDS_BEFORE_OPTIONAL = 6
_FIELDS_AFTER_OPTIONAL = 3


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a cgroup hierarchy.

    Attributes:
        mountpoint: the directory.
        root: the cgroup that is seen there, as /proc/PID/cgroup would name it; `/` unless it is a bind
            mount or the mount of a container.
        version: of the hierarchy.
        options: of the file system; in v1 they name its controllers.
        above: where the root begins with `..`, the names from there down to the root of our own cgroup
            namespace; None while they are not known.
    """

    mountpoint: str
    root: str
    version: Literal["v1", "v2"]
    options: tuple[str, ...] = ()
    above: tuple[str, ...] | None = None

    @property
    def top(self) -> str:
        """The root as `absolute` names it: what lies above our own cgroup namespace has no `..` there."""
        return "/" + "/".join(_split(self.root).names)

    @property
    def reaches_above(self) -> bool:
        """Whether it shows more than our own cgroup namespace."""
        return _split(self.root).up > 0

    @property
    def extent(self) -> tuple[int, int]:
        """Sorts first what shows most of a hierarchy."""
        up, names = _split(self.root)
        return len(names), -up

    def below(self, path: str) -> tuple[str, ...] | None:
        """The directories that lead from the mount point to a cgroup.

        Args:
            path: as `absolute` names it, or as the kernel writes it, if that begins with `..`.

        Returns:
            None if the mount does not show the cgroup, or if the kernel does not tell where in it that is.
        """
        named = self.absolute(path) if _split(path).up else path
        if named is None:
            return None
        root, names = _split(self.root).names, _split(named).names
        return names[len(root) :] if names[: len(root)] == root and _UP not in names else None

    def absolute(self, path: str) -> str | None:
        """A path of /proc/PID/cgroup as it would be without a cgroup namespace of our own.

        That is as the host names it, if the mount shows the host's whole hierarchy. None if it cannot be told.
        """
        up, names = _split(path)
        root_up, root = _split(self.root)
        if up != root_up:
            # The kernel writes the shortest way: fewer steps up lead to what shares its first names with us.
            if up > root_up or root or self.above is None:
                return None
            names = self.above[: root_up - up] + names
        return "/" + "/".join(names)

    def path_of(self, paths: CgroupPaths) -> str | None:
        """Where in this hierarchy a process is, as /proc/PID/cgroup names it."""
        if self.version == "v2":
            return paths.v2
        return next((paths.v1[option] for option in self.options if option in paths.v1), None)


def find_above(mount: Mount, own: str, pid: int) -> tuple[str, ...] | None:
    """The names of the cgroups from a mount's root down to the root of our own cgroup namespace.

    They are those of the directory, as many levels below as there are steps up in the mount's root, in which
    this very process is. No privilege is needed: whose processes they are every cgroup tells everybody.

    Args:
        mount: of the host's hierarchy; its root begins with `..`.
        own: where this process is, as its own /proc/self/cgroup says.
        pid: of this process, as it is numbered in its own PID namespace.

    Returns:
        None if the mount does not lead to our own cgroup, if this process has left it since, or if there are more
        than `MAX_DIRECTORIES` cgroups on the way.
    """
    up, root = _split(mount.root)
    if not up or root:
        return None
    tail = "".join(f"/{name}" for name in _split(own).names)
    for names in _directories(mount.mountpoint, up):
        if _holds(f"{mount.mountpoint}/{'/'.join(names)}{tail}", pid):
            return names
    return None


def parse_mountinfo(content: bytes) -> tuple[Mount, ...]:
    """The cgroup mounts in /proc/PID/mountinfo that can be reached, in its order (proc(5)).

    A line is `id parent major:minor root mountpoint options [optional ...] - type source superoptions`.

    Raises:
        ParseError: a line has another form.
    """
    lines = [_parse_line(line) for line in os.fsdecode(content).split("\n") if line]
    by_id = {line.id: line for line in lines}
    on_top: dict[str, list[_Line]] = {}
    for line in lines:
        on_top.setdefault(line.parent, []).append(line)
    return tuple(
        line.mount for line in lines if line.mount is not None and not _is_covered(line, by_id, on_top)
    )


class _Line(NamedTuple):
    """One line of mountinfo; `mount` is None if it is about no cgroup hierarchy."""

    id: str
    parent: str
    mountpoint: str
    mount: Mount | None


class _Path(NamedTuple):
    """A path's steps up, which come first, and the names after them."""

    up: int
    names: tuple[str, ...]


def _parse_line(line: str) -> _Line:
    head, dash, tail = line.partition(" - ")
    before = head.split(" ")
    after = tail.split(" ", _FIELDS_AFTER_OPTIONAL - 1)
    if not dash or len(before) < _FIELDS_BEFORE_OPTIONAL or len(after) < _FIELDS_AFTER_OPTIONAL:
        raise ParseError("/proc/self/mountinfo", f"{line[:80]!r} lacks fields")
    root, mountpoint = _unescape(before[3]), _unescape(before[4])
    kind, _, options = after
    mount = None
    if kind == "cgroup":
        mount = Mount(mountpoint, root, "v1", tuple(options.split(",")))
    elif kind == "cgroup2":
        mount = Mount(mountpoint, root, "v2")
    return _Line(before[0], before[1], mountpoint, mount)


def _is_covered(line: _Line, by_id: dict[str, _Line], on_top: dict[str, list[_Line]]) -> bool:
    """Whether another mount lies over this one, or over a directory that leads to it.

    `docker run -v /sys:/sys` shows both: the host's hierarchies, and over them those of the container.
    """
    way: _Line | None = None  # the mount that the path goes through next, on the way from `at`
    at: _Line | None = line
    for _ in range(len(by_id)):  # a line may name itself as its parent
        if at is None:
            return False
        end = way.mountpoint if way is not None else line.mountpoint
        for other in on_top.get(at.id, ()):
            if other is not way and other is not at and _leads_to(other.mountpoint, end):
                return True
        way, at = at, by_id.get(at.parent) if at.parent != at.id else None
    return False


def _leads_to(directory: str, path: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def _unescape(text: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _split(path: str) -> _Path:
    names = tuple(part for part in path.split("/") if part)
    up = next((number for number, name in enumerate(names) if name != _UP), len(names))
    return _Path(up, names[up:])


def _directories(top: str, depth: int) -> Iterator[tuple[str, ...]]:
    """The names that lead to each directory exactly so deep; none if more than `MAX_DIRECTORIES` are on the way."""
    level: list[tuple[str, ...]] = [()]
    visited = 0
    for _ in range(depth):
        deeper: list[tuple[str, ...]] = []
        for names in level:
            for name in _subdirectories("/".join((top, *names))):
                visited += 1
                if visited > MAX_DIRECTORIES:
                    return
                deeper.append((*names, name))
        level = deeper
    yield from level


def _subdirectories(directory: str) -> Iterator[str]:
    """The names of the directories in one; none if it was removed."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name
    except OSError:
        return


def _holds(directory: str, pid: int) -> bool:
    """Whether a process is directly in a cgroup."""
    try:
        return b"%d" % pid in read_to_eof(f"{directory}/cgroup.procs", limit=_PIDS_BYTES).split()
    except KernelFileError:
        return False
