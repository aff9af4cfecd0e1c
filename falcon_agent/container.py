"""What the agent knows of a container: plain values, whoever found it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Pod:
    """The Kubernetes pod a container belongs to."""

    name: str
    namespace: str
    uid: str = ""

    @property
    def key(self) -> str:
        """Tells it from other pods: its UID, or, where nobody says that, its name in its namespace."""
        return self.uid or f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class CgroupPaths:
    """The cgroup of a process in every hierarchy, as /proc/PID/cgroup names it (cgroups(7)).

    Attributes:
        v1: controller name (`cpu`, `memory`, `name=systemd`, ...) to path.
        v2: path in the unified hierarchy, or None if there is none.
    """

    v1: Mapping[str, str]
    v2: str | None

    def path(self, controller: str) -> str | None:
        """The path of the cgroup that accounts for `controller`: v1 where it is mounted, else v2."""
        return self.v1.get(controller, self.v2)


@dataclass(frozen=True, slots=True)
class Container:
    """One running container.

    Attributes:
        id: the runtime's id, or the cgroup's last part where there is no runtime.
        name: what people call it, as the runtime says it: not yet safe to put into a tag.
        runtime: who told us, e.g. `docker`, or `cgroups` where nobody did.
        pid: its first process, as the host numbers it.
        starttime: of that process, in clock ticks since boot (proc(5), stat field 22); tells a reused pid.
        cgroup: its cgroup paths.
        netns: inode of its network namespace, or None where the kernel does not let us look
            (needs CAP_SYS_PTRACE).
        network_of: id of the container whose network namespace it uses; its own id normally.
        host_network: it uses the host's network, so no socket or interface is its own.
        pause: it only holds a pod's namespaces: its sockets and interfaces are the pod's, the rest is nobody's.
        paused: all its processes are frozen, as far as the runtime says so.
        image: image as the runtime names it.
        labels: the runtime's labels, and under them those of its pod; under control of whoever made the container.
        env: environment it was made with, as the runtime says it.
        pod: its Kubernetes pod, if any.
        restarts: how often the runtime has started it again by itself; None where nobody says.
        health: what its health check found: `healthy`, `unhealthy`, or `starting` before the first result;
            empty where it has none, or the runtime does not say.
        ooms: how often the runtime told, in this life of the container and while it was listened to, that the
            kernel killed in it for want of memory.
        key: tells one life of a container from the next: a restart keeps the id and changes this.
    """

    id: str
    name: str
    runtime: str
    pid: int
    starttime: int
    cgroup: CgroupPaths
    netns: int | None = None
    network_of: str = ""
    host_network: bool = False
    pause: bool = False
    paused: bool = False
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    pod: Pod | None = None
    restarts: int | None = None
    health: str = ""
    ooms: int = 0
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.id}/{self.pid}/{self.starttime}")

    @property
    def short_id(self) -> str:
        """The first 12 characters of a hexadecimal id, as the docker CLI shows them; another id whole."""
        return self.id[:12] if re.fullmatch(r"[0-9a-f]{64}", self.id) else self.id


@dataclass(frozen=True, slots=True)
class Disk:
    """The room on a file system (statvfs(3)).

    Attributes:
        total_bytes: its size.
        used_bytes: what is taken.
        free_bytes: what a user without privilege may still take; the reserve of root makes it less than the
            rest.
    """

    total_bytes: int
    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Census:
    """What a container engine has, running or not.

    Attributes:
        runtime: the engine, e.g. `docker`.
        containers: how many by state: `running`, `paused`, `exited`, `created`, `restarting`, `removing`,
            `dead`; without those that the engine does not know.
        images: how many.
        volumes: how many have a name.
        disk: the file system that holds all of them, or None where it cannot be looked at from here.
    """

    runtime: str
    containers: Mapping[str, int]
    images: int
    volumes: int
    disk: Disk | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A container that was found but is not measured, and why, in words."""

    name: str
    id: str
    runtime: str
    reason: str


_FIELDS: Mapping[str, Callable[[Container], str]] = {
    "container": lambda c: c.name,
    "id": lambda c: c.short_id,
    "image": lambda c: c.image,
    "pod": lambda c: c.pod.name if c.pod else "",
    "namespace": lambda c: c.pod.namespace if c.pod else "",
}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class Template:
    """Text with placeholders for what is known of a container, for endpoints and tags.

    Placeholders: `{hostname}`, `{container}`, `{id}` (short), `{image}`, `{pod}`, `{namespace}`, `{label:KEY}`
    and `{env:KEY}`.

    Raises:
        ValueError: an unknown placeholder or an unpaired brace.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts: list[tuple[str, str]] = []
        at = 0
        for match in _PLACEHOLDER.finditer(text):
            self._add_literal(text[at : match.start()])
            kind, _, key = match[1].partition(":")
            if kind in {"label", "env"} and key:
                self._parts.append((kind, key))
            elif match[1] == "hostname" or match[1] in _FIELDS:
                self._parts.append((match[1], ""))
            else:
                allowed = ", ".join(f"{{{name}}}" for name in ("hostname", *_FIELDS, "label:KEY", "env:KEY"))
                raise ValueError(f"{{{match[1]}}} is not a placeholder; allowed are {allowed}")
            at = match.end()
        self._add_literal(text[at:])

    def _add_literal(self, text: str) -> None:
        if "{" in text or "}" in text:
            raise ValueError(f"unpaired brace in {self.text!r}")
        if text:
            self._parts.append(("", text))

    @property
    def about_container(self) -> bool:
        """Whether it holds any placeholder that differs from container to container."""
        return any(kind not in {"", "hostname"} for kind, _ in self._parts)

    def expand(self, hostname: str, container: Container | None = None) -> str:
        """The text with every placeholder filled in; what is not known becomes the empty string."""
        return "".join(_expand(kind, key, hostname, container) for kind, key in self._parts)


def _expand(kind: str, key: str, hostname: str, container: Container | None) -> str:
    if kind == "":
        return key
    if kind == "hostname":
        return hostname
    if container is None:
        return ""
    if kind == "label":
        return container.labels.get(key, "")
    if kind == "env":
        return container.env.get(key, "")
    return _FIELDS[kind](container)
