"""Where the cgroup hierarchies are mounted, and which one accounts for a controller."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from falcon_agent.errors import KernelFileError, ParseError
from falcon_agent.kernelfile import note, read_optional, read_to_eof

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from falcon_agent.container import CgroupPaths

_USUAL_PLACE = "/sys/fs/cgroup"
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
    """

    mountpoint: str
    root: str
    version: Literal["v1", "v2"]
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ControllerDir:
    """The directory of one cgroup in the hierarchy that accounts for a controller.

    Attributes:
        version: which files to expect there.
        path: the directory.
        ancestors: the directories above it, nearest first, up to where the hierarchy is mounted.
    """

    version: Literal["v1", "v2"]
    path: str
    ancestors: tuple[str, ...]


class Hierarchies:
    """The host's mounted cgroup hierarchies; immutable but for a cache that lives one cycle.

    Args:
        mounts: in the order of preference.
    """

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._v1: dict[str, Mount] = {}
        self._v2: Mount | None = None
        for mount in mounts:
            if mount.version == "v2":
                self._v2 = self._v2 or mount
            else:
                for option in mount.options:
                    self._v1.setdefault(option, mount)
        self._shared: dict[str, bytes | None] = {}

    @classmethod
    def find(cls, proc: str = "/proc", cgroup: str = _USUAL_PLACE) -> Hierarchies:
        """The hierarchies that this very process can reach at or below `cgroup`.

        Its own mountinfo is asked, because that tells which directories it can open, whether `cgroup` is the
        usual place or a bind mount such as /host/sys/fs/cgroup. If nothing there is a mount, those at the
        usual place are expected below `cgroup` in the same arrangement (a tree that was copied).

        Raises:
            GoneError, DeniedError: mountinfo cannot be read.
            ParseError: mountinfo has another form.
            KernelFileError: no hierarchy is mounted there.
        """
        cgroup = cgroup.rstrip("/")
        mounts = parse_mountinfo(read_to_eof(f"{proc}/self/mountinfo"))
        here = [mount for mount in mounts if _below(mount.mountpoint, cgroup) is not None]
        here = here or [
            Mount(cgroup + below, mount.root, mount.version, mount.options)
            for mount in mounts
            if (below := _below(mount.mountpoint, _USUAL_PLACE)) is not None
        ]
        if not here:
            raise KernelFileError(
                cgroup, "no cgroup hierarchy is mounted there; name the place where they are"
            )
        # A hierarchy may be mounted in several places: the one that shows most of it is best.
        here.sort(key=lambda mount: (len(_parts(mount.root)), len(mount.mountpoint)))
        return cls(here)

    @property
    def layout(self) -> Literal["v1", "v2", "hybrid"]:
        """`hybrid`: v1 hierarchies with a v2 tree beside them."""
        if self._v2 is None:
            return "v1"
        return "hybrid" if self._v1 else "v2"

    @property
    def v1(self) -> Mapping[str, Mount]:
        """The mounts of v1 by controller; also by their other options, e.g. `name=systemd`."""
        return self._v1

    @property
    def v2(self) -> Mount | None:
        """The mount of the unified hierarchy."""
        return self._v2

    def locate(self, controller: str, paths: CgroupPaths) -> ControllerDir | None:
        """Where `controller` accounts for the cgroup at `paths`; it need not exist.

        A controller belongs to one hierarchy: v1 if /proc/PID/cgroup lists it there, v2 otherwise.

        Returns:
            None if that hierarchy is not mounted, if the cgroup is outside of what the mount shows, or if it
            is all of that: the root accounts for the whole host, never for one container.
        """
        path = paths.path(controller)
        mount = self._v1.get(controller) if controller in paths.v1 else self._v2
        if path is None or mount is None:
            return None
        parts = _parts(path)
        root = _parts(mount.root)
        inner = parts[len(root) :]
        # ".." stands for cgroups above our own cgroup namespace, whose names the kernel does not tell us.
        if parts[: len(root)] != root or not inner or ".." in inner:
            return None
        directory = mount.mountpoint
        above = []
        for part in inner:
            above.append(directory)
            directory = f"{directory}/{part}"
        return ControllerDir(mount.version, directory, tuple(reversed(above)))

    def new_cycle(self) -> None:
        """Forget what `read_shared` knows; called at the start of every cycle."""
        self._shared.clear()

    def read_shared(self, path: str) -> bytes | None:
        """A file of a cgroup that many containers have above them, read once per cycle; None if it is absent.

        Raises:
            DeniedError, KernelFileError: as `read_to_eof`.
        """
        if path not in self._shared:
            self._shared[path] = read_optional(path)
        elif (known := self._shared[path]) is not None:
            # It was not read for this container, but its number does come from it.
            note(path, known)
        return self._shared[path]


def parse_mountinfo(content: bytes) -> tuple[Mount, ...]:
    """The cgroup mounts in /proc/PID/mountinfo, in its order (proc(5)).

    A line is `id parent major:minor root mountpoint options [optional ...] - type source superoptions`.

    Raises:
        ParseError: a line has another form.
    """
    mounts = []
    for line in os.fsdecode(content).split("\n"):
        if not line:
            continue
        head, dash, tail = line.partition(" - ")
        before = head.split(" ")
        after = tail.split(" ", _FIELDS_AFTER_OPTIONAL - 1)
        if not dash or len(before) < _FIELDS_BEFORE_OPTIONAL or len(after) < _FIELDS_AFTER_OPTIONAL:
            raise ParseError("/proc/self/mountinfo", f"{line[:80]!r} lacks fields")
        root, mountpoint = before[3], before[4]
        kind, _, options = after
        if kind == "cgroup":
            mounts.append(Mount(_unescape(mountpoint), _unescape(root), "v1", tuple(options.split(","))))
        elif kind == "cgroup2":
            mounts.append(Mount(_unescape(mountpoint), _unescape(root), "v2"))
    return tuple(mounts)


def _unescape(text: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _below(path: str, directory: str) -> str | None:
    """What follows `directory` in `path`; None if `path` is elsewhere."""
    if path == directory:
        return ""
    return path[len(directory) :] if path.startswith(f"{directory}/") else None
