"""Which runtimes are asked: those that the configuration names, and with `auto` those that are there."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from falcon_agent.discovery.cgroups import CgroupRuntime
from falcon_agent.discovery.describe import as_written
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.discovery.engineapi import unix_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from falcon_agent.container import Container
    from falcon_agent.discovery.describe import Absolute
    from falcon_agent.discovery.runtime import Runtime

CRI_SOCKETS = (
    "unix:///run/containerd/containerd.sock",
    "unix:///run/k3s/containerd/containerd.sock",
    "unix:///run/crio/crio.sock",
)
"""Where the runtimes of Kubernetes listen by default. cri-dockerd is left out: Docker lists its containers."""

_CRI_RUNTIMES = frozenset({"containerd", "cri-o"})


@dataclass(frozen=True, slots=True)
class Source:
    """A runtime that is on this host, or may come to be.

    Attributes:
        name: what the configuration calls it.
        make: makes it, not connected yet.
        is_there: whether it can be asked, given what the cgroup tree shows; None to try in any case.
        absence: what is to be said while it is not there; empty if nobody asked for it by name.
        is_tree: it reads the cgroup tree, which shows every runtime's containers but not their names.
    """

    name: str
    make: Callable[[], Runtime]
    is_there: Callable[[Iterable[Container]], bool] | None = None
    absence: str = ""
    is_tree: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """Where runtimes and the kernel's file systems are.

    Attributes:
        docker: `unix:///path` or `tcp://host:port`.
        podman: the same.
        cri: `unix:///path` of each runtime of Kubernetes; none means those of `CRI_SOCKETS` that exist.
        proc: where the host's procfs is mounted.
        cgroup: where its cgroup hierarchies are mounted.
        absolute: as for `describe`.
    """

    docker: str
    podman: str
    cri: Sequence[str]
    proc: str
    cgroup: str
    absolute: Absolute = as_written


def make_sources(names: Iterable[str], places: Places, timeout: float) -> list[Source]:
    """The runtimes that the configuration names, in the order in which they are believed; the cgroup tree last.

    Args:
        names: any of `auto`, `docker`, `podman`, `cri`, `lxc`, `cgroups`, `none`.
        places: where they are.
        timeout: seconds that one answer of a runtime may take.

    Raises:
        ValueError: a name that is none of these.
    """
    sources: list[Source] = []
    for name in dict.fromkeys(names):
        match name:
            case "docker":
                sources.append(_engine(name, places.docker, places, timeout))
            case "podman":
                sources.append(_engine(name, places.podman, places, timeout))
            case "cri":
                sources += _cri(places, timeout, named=True)
            case "lxc":
                tree = partial(CgroupRuntime, places.proc, places.cgroup, only=frozenset({"lxc"}))
                sources.append(Source(name, tree, is_tree=True))
            case "cgroups":
                sources.append(_tree(places))
            case "auto":
                sources += _auto(places, timeout)
            case "none":
                pass
            case _:
                raise ValueError(
                    f"{name} is no runtime; there are auto, docker, podman, cri, lxc, cgroups, none"
                )
    return sorted(sources, key=lambda source: source.is_tree)


def _auto(places: Places, timeout: float) -> list[Source]:
    engines = []
    for name, url in (("docker", places.docker), ("podman", places.podman)):
        is_there = partial(_answers_at, url)
        engines.append(_engine(name, url, places, timeout, is_there))
    return [*engines, *_cri(places, timeout, named=False), _tree(places)]


def _engine(
    name: str,
    url: str,
    places: Places,
    timeout: float,
    is_there: Callable[[Iterable[Container]], bool] | None = None,
) -> Source:
    return Source(name, partial(DockerRuntime, url, timeout, places.proc, name, places.absolute), is_there)


def _cri(places: Places, timeout: float, *, named: bool) -> list[Source]:
    def make(url: str) -> Runtime:
        # Imported late: a host without Kubernetes does without what it needs.
        from falcon_agent.discovery.cri import CriRuntime  # noqa: PLC0415

        return CriRuntime(url, timeout, places.proc, places.absolute)

    def is_there(url: str, seen: Iterable[Container]) -> bool:
        # containerd is on every host with Docker too: it is asked only where the tree shows containers of its own.
        return _answers_at(url, seen) and (named or any(_is_of_cri(container) for container in seen))

    if named and places.cri:
        return [Source("cri", partial(make, url)) for url in places.cri]
    urls = places.cri or CRI_SOCKETS
    absence = (
        f"cannot use cri: there is no socket at {', '.join(urls)}; [discovery] cri names others"
        if named
        else ""
    )
    return [Source("cri", partial(make, url), partial(is_there, url), absence) for url in urls]


def _tree(places: Places) -> Source:
    return Source("cgroups", partial(CgroupRuntime, places.proc, places.cgroup), is_tree=True)


def _is_of_cri(container: Container) -> bool:
    return container.pod is not None or container.runtime in _CRI_RUNTIMES


def _answers_at(url: str, _seen: Iterable[Container]) -> bool:
    """Whether there is a socket; what is no path (`tcp://`) was set on purpose."""
    path = unix_path(url)
    if path is None:
        return True
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
