"""What the path of a cgroup tells of the container in it: the forms in which runtimes name cgroups."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ID = r"(?P<id>[0-9a-f]{64})"

_SCOPE = re.compile(rf"(?P<prefix>docker|cri-containerd|crio|libpod)-{_ID}\.scope")
"""The systemd driver. `crio-conmon-ID.scope` and `libpod-conmon-ID.scope` are the runtimes' own."""
_DIRECTORY = re.compile(rf"(?:(?P<prefix>crio|libpod)-)?{_ID}")
"""The cgroupfs driver."""
_LXC = re.compile(r"lxc\.payload\.(?P<name>.+)")
_LXC_PARENTS = frozenset({"lxc", "lxc.payload"})
_POD_DIRECTORY = re.compile(r"pod(?P<uid>[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12})")
"""A UID is a UUID, or for static pods a hash of the same length without dashes."""
_POD_SLICE = re.compile(r".*kubepods.*-pod(?P<uid>[0-9a-f]{8}(?:_?[0-9a-f]{4}){3}_?[0-9a-f]{12})\.slice")
_RUNTIMES = {"docker": "docker", "cri-containerd": "containerd", "crio": "cri-o", "libpod": "podman"}
_UNIT_NAMES = (
    re.compile(r"systemd-nspawn@(?P<name>.+)\.service"),
    re.compile(r"machine-(?P<name>.+)\.scope"),
    re.compile(r"(?P<name>.+)\.(?:scope|service)"),
)
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")

UNKNOWN = "cgroups"
"""The runtime of a container of which only the cgroup is known."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a cgroup's path says.

    Attributes:
        id: the runtime's id, or the last part of the path.
        name: for people; the short id where the path has none.
        runtime: who made it, as far as the path tells, else `cgroups`.
        pod_uid: UID of the Kubernetes pod, or None outside of Kubernetes.
    """

    id: str
    name: str
    runtime: str
    pod_uid: str | None = None


def parse_shape(path: str) -> Shape | None:
    """The container that a runtime's way of naming tells of, or None if `path` names no container."""
    *above, last = [part for part in path.split("/") if part] or [""]
    parent = above[-1] if above else ""
    if match := _LXC.fullmatch(last):
        return Shape(match["name"], match["name"], "lxc")
    if parent in _LXC_PARENTS:
        return Shape(last, last, "lxc")
    match = _SCOPE.fullmatch(last) or _DIRECTORY.fullmatch(last)
    if match is None:
        return None
    container = match["id"]
    uid = _pod_uid(above)
    prefix = match["prefix"] or ("docker" if parent == "docker" else "")
    return Shape(container, container[:12], _RUNTIMES.get(prefix, UNKNOWN), uid)


def name_unknown(path: str) -> Shape:
    """What to call a cgroup of no known form: its last part, as people would say it.

    A systemd unit goes without its suffix and escapes (systemd.unit(5)); `payload` is a part of what is above
    it.
    """
    parts = [part for part in path.split("/") if part] or ["/"]
    last = parts[-2] if parts[-1] == "payload" and len(parts) > 1 else parts[-1]
    for pattern in _UNIT_NAMES:
        if match := pattern.fullmatch(last):
            return Shape(last, _ESCAPED.sub(lambda code: chr(int(code[1], 16)), match["name"]), UNKNOWN)
    return Shape(last, last, UNKNOWN)


def _pod_uid(above: list[str]) -> str | None:
    """The UID in the nearest pod's cgroup of the `kubepods` tree, with the dashes that slices cannot have."""
    for index in range(len(above) - 1, -1, -1):
        if match := _POD_SLICE.fullmatch(above[index]):
            return match["uid"].replace("_", "-")
        match = _POD_DIRECTORY.fullmatch(above[index])
        if match and any("kubepods" in part for part in above[:index]):
            return match["uid"]
    return None
