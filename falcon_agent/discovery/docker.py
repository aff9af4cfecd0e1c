"""Containers of a Docker engine, or of podman, which speaks Docker's API too."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, replace
from threading import Event as Flag
from typing import TYPE_CHECKING

from falcon_agent.container import Census, CgroupPaths, Container, Disk, LeftOut
from falcon_agent.discovery.describe import as_written, describe, host_netns, is_alive
from falcon_agent.discovery.engineanswers import (
    count_states,
    count_volumes,
    parse_details,
    parse_event,
    parse_info,
    parse_listing,
)
from falcon_agent.discovery.engineapi import EngineApi, NotFoundError, unix_path
from falcon_agent.discovery.podlabels import is_sandbox, name_in_pod, pod_labels, pod_of, sandbox_of
from falcon_agent.discovery.runtime import PATIENCE, Change, Found, keep_hearing
from falcon_agent.errors import FalconAgentError, GoneError, ParseError, RuntimeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from falcon_agent.discovery.describe import Absolute
    from falcon_agent.discovery.engineanswers import Event, Listed

MAX_DETAILS = 4 * 1024 * 1024
"""Bytes of the description of one container."""

_ID = re.compile(r"[0-9a-f]{64}")
_LIST_QUERY = {"filters": '{"status": ["running", "paused"]}'}
"""Unasked, podman leaves paused containers out."""
_ACTIONS = ("start", "die", "died", "rename", "update", "pause", "unpause", "connect", "disconnect")
"""podman calls a container's end `died` when it is asked for and `die` when it tells."""
_ACTIONS_OF_DOCKER = ("oom", "health_status")
"""podman does not tell the first, and the second after every check, without the result."""
_ENDED = frozenset({"die", "died"})
_STOPPED = {"docker": ("created", "restarting", "removing", "dead"), "podman": ("created", "removing")}
"""States, beside `exited`, that /info counts as stopped; podman refuses to hear of one that it does not
know."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A container as its description has it, before the others say what they add to it.

    Attributes:
        container: nothing in it comes from another one.
        network_mode: as in `Details`.
    """

    container: Container
    network_mode: str


class DockerRuntime:
    """A Docker engine, or podman behind its Docker-compatible socket.

    Args:
        base_url: `unix:///path` or `tcp://host:port`.
        timeout: seconds that one answer may take.
        proc: where the procfs of the engine's PID namespace is mounted.
        name: which of them, `docker` or `podman`.
        absolute: as for `describe`.
    """

    def __init__(
        self,
        base_url: str,
        timeout: float,
        proc: str,
        name: str = "docker",
        absolute: Absolute = as_written,
    ) -> None:
        self.name = name
        self._api = EngineApi(base_url, timeout, name)
        self._proc = proc
        self._absolute = absolute
        self._local = unix_path(base_url) is not None
        self._closed = Flag()
        self._known: dict[str, _Known] = {}

    def find(self) -> Found:
        """All running containers: one list, and a description of each one that was not known before."""
        listed = self._list()
        found = Found()
        known = {
            item.id: before
            for item in listed
            if (before := self._known.get(item.id)) is not None and self.alive(before.container)
        }
        unknown = [item for item in listed if item.id not in known]
        failed = 0
        answers = self._api.get_each((f"/containers/{item.id}/json" for item in unknown), MAX_DETAILS)
        with contextlib.closing(answers):
            for item in unknown:
                if failed >= PATIENCE:
                    found.left_out.append(self._left_out(item, "not described: the engine hangs on others"))
                    continue
                try:
                    known[item.id] = self._describe(item, next(answers))
                except NotFoundError:
                    continue  # it ended and was removed after the list was made
                except GoneError as error:
                    found.left_out.append(self._left_out(item, f"gone: {error.reason}"))
                except FalconAgentError as error:
                    failed += isinstance(error, RuntimeUnavailableError)
                    found.left_out.append(self._left_out(item, str(error)))
        self._known = known
        # podman's list says nothing of networks, so what is described counts first.
        modes = {item.id: item.network_mode for item in listed}
        modes |= {container: one.network_mode for container, one in known.items()}
        host = host_netns(self._proc)
        found.containers.extend(_complete(item, known, modes, host) for item in listed if item.id in known)
        return found

    def _list(self) -> list[Listed]:
        answer = self._api.get("/containers/json", _LIST_QUERY)
        try:
            listed = parse_listing(answer)
        except ParseError as error:
            raise RuntimeUnavailableError(f"cannot use {self._api.url}: {error}") from None
        # The id becomes part of a request's path.
        return [item for item in listed if _ID.fullmatch(item.id)]

    def _describe(self, item: Listed, answer: bytes | RuntimeUnavailableError) -> _Known:
        if isinstance(answer, RuntimeUnavailableError):
            try:
                raise answer
            finally:
                del answer
        details = parse_details(answer)
        if details.pid == 0:
            raise GoneError(f"container {item.id[:12]}", "it does not run (any more)")
        described = describe(
            self._proc, details.pid, lambda path: item.id in path.rpartition("/")[2], self._absolute
        )
        container = Container(
            id=item.id,
            name=item.name,
            runtime=self.name,
            pid=details.pid,
            starttime=described.starttime,
            cgroup=described.cgroup,
            netns=described.netns,
            pause=is_sandbox(details.labels),
            image=details.image,
            labels=details.labels,
            env=details.env,
            restarts=details.restarts,
        )
        return _Known(container, details.network_mode)

    def _left_out(self, item: Listed, reason: str) -> LeftOut:
        return LeftOut(item.name, item.id, self.name, reason)

    def watch(self, notify: Callable[[Change], None]) -> None:
        """Hear the engine's events; connects again with growing pauses while there is no sound stream."""
        keep_hearing(lambda: self._hear(notify), self._closed)

    def _hear(self, notify: Callable[[Change], None]) -> None:
        actions = _ACTIONS + (_ACTIONS_OF_DOCKER if self.name == "docker" else ())
        query = {"filters": json.dumps({"type": ["container", "network"], "event": actions})}
        for line in self._api.lines("/events", query):
            if not line:  # the stream has begun
                notify(Change())
                continue
            event = parse_event(line)
            oom = self._told_by(event) if event.action == "oom" else None
            started = event.action == "start"
            notify(Change(event.id, ended=event.action in _ENDED, started=started, oom=oom))

    def _told_by(self, event: Event) -> Container:
        """A container that may have been too short-lived to be described, as an event of it has it."""
        labels = {key: text for key, text in event.attributes.items() if key not in {"name", "image"}}
        pause = is_sandbox(labels)
        return Container(
            id=event.id,
            name=name_in_pod(labels, pause=pause) or event.attributes.get("name", event.id),
            runtime=self.name,
            pid=0,
            starttime=0,
            cgroup=CgroupPaths({}, None),
            pause=pause,
            image=event.attributes.get("image", ""),
            labels=labels,
            pod=pod_of(labels),
        )

    def census(self) -> Census:
        """What the engine has: three requests, none of which walks over layers or volumes.

        A file system that hangs holds up the looks, as it does the engine; no cycle waits for it.
        """
        states = _STOPPED[self.name]
        query = {"all": "1", "filters": json.dumps({"status": states})}
        try:
            info = parse_info(self._api.get("/info"))
            found = count_states(self._api.get("/containers/json", query))
            volumes = count_volumes(self._api.get("/volumes"))
        except ParseError as error:
            raise RuntimeUnavailableError(f"cannot use {self._api.url}: {error}") from None
        counted = {state: found[state] for state in states}
        # Asked one after the other, so the difference can come out below 0.
        exited = max(info.stopped - sum(counted.values()), 0)
        containers = {"running": info.running, "paused": info.paused, "exited": exited, **counted}
        disk = _disk(self._proc, info.root) if self._local and info.root.startswith("/") else None
        return Census(self.name, containers, info.images, volumes, disk)

    def alive(self, container: Container) -> bool:
        """Whether its first process still runs."""
        return is_alive(self._proc, container)

    def close(self) -> None:
        """End `watch` and every request."""
        self._closed.set()
        self._api.close()


def _complete(
    item: Listed, known: Mapping[str, _Known], modes: Mapping[str, str], host: int | None
) -> Container:
    """A known container as it is now: with what the list says, and with what it has from its sandbox."""
    container = known[item.id].container
    sandbox = known.get(sandbox_of(container.labels))
    labels = container.labels
    if sandbox is not None and sandbox.container.pause and not container.pause:
        labels = {**pod_labels(sandbox.container.labels), **labels}
    network_of = _network_of(item.id, modes)
    told_host = modes.get(item.id) == "host" or modes.get(network_of) == "host"
    return replace(
        container,
        name=name_in_pod(labels, pause=container.pause) or item.name,
        paused=item.paused,
        health=item.health,
        network_of=network_of,
        host_network=told_host or (host is not None and container.netns == host),
        labels=labels,
        pod=pod_of(labels),
    )


def _disk(proc: str, root: str) -> Disk | None:
    """The file system of the engine's directory, or None where that is not to be seen from here.

    Where the host's procfs is mounted elsewhere, its directories are not ours: pid 1 shows them, with
    CAP_SYS_PTRACE.
    """
    try:
        found = os.statvfs(root if proc == "/proc" else f"{proc}/1/root{root}")
    except OSError:
        return None
    size = found.f_frsize
    return Disk(
        total_bytes=found.f_blocks * size,
        used_bytes=(found.f_blocks - found.f_bfree) * size,
        free_bytes=found.f_bavail * size,
    )


def _network_of(container: str, modes: Mapping[str, str]) -> str:
    """The container whose network namespace this one uses, through any number of `container:ID` in a row.

    Args:
        container: its id.
        modes: network mode by id, of all running containers.
    """
    at = container
    for _ in modes:
        kind, _, target = modes.get(at, "").partition(":")
        if kind != "container" or not target:
            break
        at = target
    return at
