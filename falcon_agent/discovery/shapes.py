"""What the path of a cgroup tells of the container in it: the forms in which runtimes name cgroups.

docker          /docker/ID, docker-ID.scope
containerd      /k8s.io/ID, /default/ID, cri-containerd-ID.scope, nerdctl-ID.scope
CRI-O           crio-ID, crio-ID.scope
podman          libpod-ID, libpod-ID.scope, libpod-payload-ID (`--cgroups=split`, and so every Quadlet)
runc            SLICE:PREFIX:ID, a systemd path taken literally by the cgroupfs driver
Kubernetes      the above below kubepods[/QOS]/podUID or kubepods[-QOS]-podUID.slice
LXC, LXD, Incus lxc.payload.NAME (PROJECT_NAME outside of LXD's default project), lxc.payload/NAME, /lxc/NAME
systemd-nspawn  machine-NAME.scope/payload, systemd-nspawn@NAME.service/payload
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ID = r"(?P<id>[0-9a-f]{64})"
_PREFIX = r"(?P<prefix>docker|cri-containerd|nerdctl|crio|libpod)"

_SCOPE = re.compile(rf"{_PREFIX}-{_ID}\.scope")
"""The systemd driver."""
_DIRECTORY = re.compile(rf"(?:(?P<prefix>crio|libpod-payload|libpod)-)?{_ID}")
"""The cgroupfs driver."""
_LITERAL = re.compile(rf"(?P<slice>[^:]*):{_PREFIX}:{_ID}")
_RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",
}
_RUNTIMES_BY_PARENT = {"docker": "docker", "k8s.io": "containerd", "default": "containerd"}
"""Who names the directory above by its own name, or by that of its namespace of containers."""

_LXC = re.compile(r"lxc\.payload\.(?P<name>.+)")
_LXC_PARENTS = frozenset({"lxc", "lxc.payload"})
_LXC_OWN = re.compile(r"lxc\.(?:monitor|pivot)(?:\..*)?")
_CONMON = re.compile(r"(?:crio|libpod)-conmon-.*")
_NSPAWN_UNIT = re.compile(r"(?:systemd-nspawn@(?P<instance>.+)\.service|machine-(?P<machine>.+)\.scope)")
_NSPAWN_PART = "payload"
"""systemd-nspawn itself is beside it, in `supervisor`."""

_POD_DIRECTORY = re.compile(r"pod(?P<uid>[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12})")
"""A UID is a UUID, or for static pods a hash of the same length without dashes."""
_POD_SLICE = re.compile(r".*kubepods.*-pod(?P<uid>[0-9a-f]{8}(?:_?[0-9a-f]{4}){3}_?[0-9a-f]{12})\.slice")
_UNIT = re.compile(r"(?P<name>.+)\.(?:scope|service)")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")

UNKNOWN = "cgroups"
"""The runtime of a container of which only the cgroup is known."""
CRI_O = _RUNTIMES["crio"]


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

    @property
    def has_name(self) -> bool:
        """Whether the path tells a name, not only an id."""
        return re.fullmatch(_ID, self.id) is None


def parse_shape(path: str) -> Shape | None:
    """The container that a runtime's way of naming tells of, or None if `path` names no container."""
    *above, last = [part for part in path.split("/") if part] or [""]
    parent = above[-1] if above else ""
    if match := _LXC.fullmatch(last):
        return Shape(match["name"], match["name"], "lxc")
    if parent in _LXC_PARENTS:
        return Shape(last, last, "lxc")
    if last == _NSPAWN_PART and (match := _NSPAWN_UNIT.fullmatch(parent)):
        name = _unescape(match["instance"] or match["machine"])
        return Shape(name, name, "nspawn")
    if match := _LITERAL.fullmatch(last):
        return _by_id(match["id"], _RUNTIMES[match["prefix"]], _pod_uid([*above, match["slice"]]))
    match = _SCOPE.fullmatch(last) or _DIRECTORY.fullmatch(last)
    if match is None:
        return None
    runtime = _RUNTIMES.get(match["prefix"] or "") or _RUNTIMES_BY_PARENT.get(parent, UNKNOWN)
    return _by_id(match["id"], runtime, _pod_uid(above))


def is_runtimes_own(path: str) -> bool:
    """Whether a cgroup is that of a runtime's helper, which starts containers but never is in one."""
    *above, last = [part for part in path.split("/") if part] or [""]
    parent = above[-1] if above else ""
    return bool(_LXC_OWN.fullmatch(last) or _LXC_OWN.fullmatch(parent) or _CONMON.fullmatch(last))


def name_unknown(path: str) -> Shape:
    """What to call a cgroup of no known form: its last part, as people would say it.

    A systemd unit goes without its suffix and escapes (systemd.unit(5)); `payload` is a part of what is above
    it.
    """
    parts = [part for part in path.split("/") if part] or ["/"]
    last = parts[-2] if parts[-1] == _NSPAWN_PART and len(parts) > 1 else parts[-1]
    if match := _NSPAWN_UNIT.fullmatch(last):
        return Shape(last, _unescape(match["instance"] or match["machine"]), UNKNOWN)
    if match := _UNIT.fullmatch(last):
        return Shape(last, _unescape(match["name"]), UNKNOWN)
    return Shape(last, last, UNKNOWN)


def _by_id(container: str, runtime: str, pod_uid: str | None) -> Shape:
    return Shape(container, container[:12], runtime, pod_uid)


def _pod_uid(above: list[str]) -> str | None:
    """The UID in the nearest pod's cgroup of the `kubepods` tree, with the dashes that slices cannot have.

    Only up to the next container: one made inside of a pod's container (Docker in a pod) is not of that pod.
    """
    for index in range(len(above) - 1, -1, -1):
        part = above[index]
        if match := _POD_SLICE.fullmatch(part):
            return match["uid"].replace("_", "-")
        match = _POD_DIRECTORY.fullmatch(part)
        if match and any("kubepods" in higher for higher in above[:index]):
            return match["uid"]
        if _SCOPE.fullmatch(part) or _DIRECTORY.fullmatch(part) or _LITERAL.fullmatch(part):
            return None
    return None


def _unescape(name: str) -> str:
    return _ESCAPED.sub(lambda code: chr(int(code[1], 16)), name)
