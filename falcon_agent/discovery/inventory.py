"""The list of containers: from all runtimes, filtered, always at hand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from falcon_agent.container import LeftOut
from falcon_agent.discovery.auto import AutoRuntime
from falcon_agent.discovery.cgroups import CgroupRuntime
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.discovery.feed import Feed, RuntimeState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from falcon_agent.container import Container
    from falcon_agent.discovery.filters import Filter
    from falcon_agent.discovery.runtime import Runtime
    from falcon_agent.selfstat import SelfStat

__all__ = ["Inventory", "RuntimeState", "make_runtimes"]

FIRST_LOOK_SECONDS = 10.0
"""How long `start` waits for runtimes that take their time to answer."""
HOST_NETWORK = "host network: its sockets and interfaces are the host's"


class Inventory:
    """Which containers run. Threads of its own keep it current; asking it never waits for a runtime.

    Args:
        runtimes: sources; where two know the same container, the first one's word counts.
        chosen: which containers are measured.
        stat: gets the values `runtime.up` (1 if every runtime answers, else 0) and `containers` (measured).
        resync: seconds between two full listings; events come in between.
    """

    def __init__(self, runtimes: Sequence[Runtime], chosen: Filter, stat: SelfStat, resync: float) -> None:
        self._feeds = [Feed(runtime, resync) for runtime in runtimes]
        self._filter = chosen
        self._stat = stat

    def start(self) -> None:
        """Begin; returns when every runtime was listed once, or failed to be, or takes too long."""
        deadline = time.monotonic() + FIRST_LOOK_SECONDS
        for feed in self._feeds:
            feed.start()
        for feed in self._feeds:
            feed.wait(max(0.0, deadline - time.monotonic()))

    def refresh(self) -> None:
        """List all runtimes again now; returns at once."""
        for feed in self._feeds:
            feed.refresh()

    def stop(self) -> None:
        """End all threads, also when a runtime hangs."""
        for feed in self._feeds:
            feed.stop()

    def snapshot(self) -> list[Container]:
        """The containers to measure now, sorted by name: those that run, less those that are left out."""
        measured = [one for one in self._known() if self._reason(one) is None]
        self._stat.set("containers", len(measured))
        if self._feeds:
            self._stat.set("runtime.up", int(all(feed.state().ok for feed in self._feeds)))
        return measured

    def left_out(self) -> list[LeftOut]:
        """Containers that are not measured, and why.

        Those in the host's network are named too: they are measured, but have no sockets and interfaces of
        their own.
        """
        known = self._known()
        ids = {container.id for container in known}
        left_out = [
            LeftOut(container.name, container.id, container.runtime, reason)
            for container in known
            if (reason := self._reason(container) or (HOST_NETWORK if container.host_network else None))
        ]
        for feed in self._feeds:
            for one in feed.left_out():
                if one.id not in ids:
                    ids.add(one.id)
                    left_out.append(one)
        return left_out

    def states(self) -> list[RuntimeState]:
        """How every runtime answers."""
        return [feed.state() for feed in self._feeds]

    def _known(self) -> list[Container]:
        merged: dict[str, Container] = {}
        for feed in self._feeds:
            for container in feed.containers():
                merged.setdefault(container.id, container)
        return sorted(merged.values(), key=lambda one: (one.name, one.id))

    def _reason(self, container: Container) -> str | None:
        """Why a container is not measured, or None if it is."""
        if container.pause:
            pod = container.pod
            return f"pause: it only holds the namespaces of pod {pod.name or pod.uid}" if pod else "pause"
        return self._filter.reason(container)


def make_runtimes(
    names: Sequence[str], docker_url: str, timeout: float, proc: str, cgroup: str
) -> list[Runtime]:
    """The sources that the configuration names.

    Args:
        names: any of `auto` (Docker where its socket is, else cgroups), `docker`, `cgroups`, `none`.
        docker_url: `unix:///path` or `tcp://host:port`.
        timeout: seconds that one answer of a runtime may take.
        proc: where the host's procfs is mounted.
        cgroup: where the host's cgroup hierarchies are mounted.

    Raises:
        ValueError: a name that is none of these.
    """
    made: list[Runtime] = []
    for name in dict.fromkeys(names):
        match name:
            case "docker":
                made.append(DockerRuntime(docker_url, timeout, proc))
            case "cgroups":
                made.append(CgroupRuntime(proc, cgroup))
            case "auto":
                docker, cgroups = DockerRuntime(docker_url, timeout, proc), CgroupRuntime(proc, cgroup)
                made.append(AutoRuntime(docker_url, docker, cgroups))
            case "none":
                pass
            case _:
                raise ValueError(f"{name} is no runtime; there are auto, docker, cgroups, none")
    return made
