"""Where the cgroup hierarchies are mounted, and which one accounts for a controller."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from falcon_agent.cgroupfs.controlfiles import DescriptorBudget
from falcon_agent.cgroupfs.mounts import find_above, parse_mountinfo
from falcon_agent.cgroupfs.paths import parse_cgroup_paths
from falcon_agent.container import CgroupPaths
from falcon_agent.errors import GoneError, KernelFileError
from falcon_agent.kernelfile import note, read_optional, read_to_eof, recordings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

from falcon_agent.cgroupfs.mounts import Mount

_Number = TypeVar("_Number", int, float)
_UNKNOWN = object()

ReadFile: TypeAlias = "Callable[[str], bytes | None]"
"""The content of a file of one cgroup, by its name; None if it is absent."""

_USUAL_PLACE = "/sys/fs/cgroup"
_REMEDY = (
    "mount the host's there (docker run -v /sys:/host/sys:ro, a hostPath volume), and name the place"
    " (--sys /host/sys, or [paths] cgroup)"
)


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

    Attributes:
        budget: how many control files of cgroups in them may stay open.

    Args:
        mounts: in the order of preference.
    """

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self.budget = DescriptorBudget()
        self._v1: dict[str, Mount] = {}
        self._v2: Mount | None = None
        for mount in mounts:
            if mount.version == "v2":
                self._v2 = self._v2 or mount
            else:
                for option in mount.options:
                    self._v1.setdefault(option, mount)
        self._shared: dict[str, bytes | None] = {}
        self._above: dict[tuple[object, tuple[str, ...]], Any] = {}

    @classmethod
    def find(cls, proc: str = "/proc", cgroup: str = _USUAL_PLACE) -> Hierarchies:
        """The hierarchies that this very process can reach at or below `cgroup`.

        Its own mountinfo is asked, because that tells which directories it can open, whether `cgroup` is the
        usual place or a bind mount such as /host/sys/fs/cgroup. If nothing there is a mount, those at the
        usual place are expected below `cgroup` in the same arrangement (a tree that was copied).

        In a cgroup namespace of our own this also finds out where in the host's hierarchies that is.

        Raises:
            GoneError, DeniedError: mountinfo cannot be read.
            ParseError: mountinfo has another form.
            KernelFileError: no hierarchy is mounted there.
        """
        cgroup = os.path.realpath(cgroup)
        path = f"{proc}/self/mountinfo"
        try:
            mounts = parse_mountinfo(read_to_eof(path))
        except GoneError as error:
            raise GoneError(
                path, f"{error.reason}; mount the host's procfs there, or name the place where it is"
            ) from None
        here = [mount for mount in mounts if _below(mount.mountpoint, cgroup) is not None]
        here = here or [
            replace(mount, mountpoint=cgroup + below)
            for mount in mounts
            if (below := _below(mount.mountpoint, _USUAL_PLACE)) is not None and os.path.isdir(cgroup + below)
        ]
        if not here:
            raise KernelFileError(cgroup, f"no cgroup hierarchy is mounted there; {_REMEDY}")
        # A hierarchy may be mounted in several places: the one that shows most of it is best.
        here.sort(key=lambda mount: (*mount.extent, len(mount.mountpoint)))
        return cls(_with_above(here, proc))

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

        Args:
            controller: e.g. `memory`.
            paths: as `absolute` names them.

        Returns:
            None if that hierarchy is not mounted, if the cgroup is outside of what the mount shows, or if it
            is all of that: the root accounts for the whole host, never for one container.
        """
        path = paths.path(controller)
        mount = self._mount_of(controller, paths)
        below = None if path is None or mount is None else mount.below(path)
        if not below or mount is None:
            return None
        directory = mount.mountpoint
        above = []
        for part in below:
            # Containers have most of them in common: one text each is quicker to tell apart, and less to keep.
            above.append(sys.intern(directory))
            directory = f"{directory}/{part}"
        return ControllerDir(mount.version, directory, tuple(reversed(above)))

    def reason(self, controller: str, paths: CgroupPaths) -> str | None:
        """Why a controller accounts for nothing in a cgroup, and what can be done about it; None if it does."""
        path = paths.path(controller)
        mount = self._mount_of(controller, paths)
        if controller in paths.v1 and mount is None:
            return f"the v1 hierarchy of {controller} is not mounted where the others are: mount it there too"
        if controller in self._v1 and controller not in paths.v1:
            return f"it has no cgroup of its own in the v1 hierarchy of {controller}"
        if mount is None or path is None:
            return f"no cgroup hierarchy accounts for {controller} here"
        below = mount.below(path)
        if below is None:
            return f"{mount.mountpoint} does not show its cgroup {path}, or not where that is: {_REMEDY}"
        if not below:
            return f"it is in the root cgroup of {mount.mountpoint}, which is not one container's"
        *above, _ = directory = (mount.mountpoint, *below)
        # In v2 a controller is on only where the cgroup above says so (admin-guide/cgroup-v2.rst).
        enabled = read_optional("/".join((*directory, "cgroup.controllers")))
        if mount.version == "v1" or enabled is None or controller.encode() in enabled.split():
            return None
        return f"{controller} is not enabled in {'/'.join(above)}/cgroup.subtree_control"

    def absolute(self, paths: CgroupPaths) -> CgroupPaths:
        """The paths as they would be without a cgroup namespace of our own: as the host names them.

        Those in hierarchies that are not mounted stay as they are. Where it cannot be told, those outside of
        our own cgroup keep their `..`, which `locate` knows to be nowhere; those within it are left out.
        """
        v1 = {}
        for controller, path in paths.v1.items():
            if (named := _absolute(self._v1.get(controller), path)) is not None:
                v1[controller] = named
        return CgroupPaths(v1, None if paths.v2 is None else _absolute(self._v2, paths.v2))

    def _mount_of(self, controller: str, paths: CgroupPaths) -> Mount | None:
        return self._v1.get(controller) if controller in paths.v1 else self._v2

    def new_cycle(self) -> None:
        """Forget what `read_shared` and `smallest_above` know; called at the start of every cycle."""
        self._shared.clear()
        self._above.clear()

    def smallest_above(
        self, at: ControllerDir, limit_of: Callable[[ReadFile], _Number | None]
    ) -> _Number | None:
        """The smallest limit of the cgroups above one, worked out once per cycle for all that they have below them.

        Args:
            at: the cgroup.
            limit_of: the limit of one cgroup, given what reads a file of it by name; None if it has none.

        Raises:
            DeniedError, KernelFileError: as `read_to_eof`.
            ParseError: from `limit_of`.
        """
        key = (limit_of, at.ancestors)
        known: _Number | None = self._above.get(key, _UNKNOWN)
        # Somebody who is told of every file that is read wants to be told of these again.
        if known is _UNKNOWN or recordings:
            limits = [limit_of(partial(self._read_above, ancestor)) for ancestor in at.ancestors]
            known = min((limit for limit in limits if limit is not None), default=None)
            self._above[key] = known
        return known

    def _read_above(self, directory: str, name: str) -> bytes | None:
        return self.read_shared(f"{directory}/{name}")

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


def _absolute(mount: Mount | None, path: str) -> str | None:
    if mount is None:
        return path
    return mount.absolute(path) or (path if path.startswith("/..") else None)


def _with_above(mounts: list[Mount], proc: str) -> list[Mount]:
    """The mounts, each with the names of what is above our own cgroup namespace, as far as they can be found."""
    if not any(mount.reaches_above for mount in mounts):
        return mounts
    own = parse_cgroup_paths(read_to_eof(f"{proc}/self/cgroup"))
    known = []
    for mount in mounts:
        path = mount.path_of(own)
        above = None if path is None else find_above(mount, path, os.getpid())
        known.append(replace(mount, above=above))
    return known


def _below(path: str, directory: str) -> str | None:
    """What follows `directory` in `path`; None if `path` is elsewhere."""
    if path == directory:
        return ""
    return path[len(directory) :] if path.startswith(f"{directory}/") else None
