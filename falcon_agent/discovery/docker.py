"""Containers of a Docker engine, or of podman, which speaks Docker's API too."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, replace
from threading import Event as Flag
from typing import TYPE_CHECKING

from falcon_agent.container import Container, LeftOut
from falcon_agent.discovery.describe import describe, host_netns, is_alive
from falcon_agent.discovery.engineanswers import parse_details, parse_event, parse_listing
from falcon_agent.discovery.engineapi import EngineApi, NotFoundError
from falcon_agent.discovery.podlabels import is_sandbox, name_in_pod, pod_labels, pod_of, sandbox_of
from falcon_agent.discovery.runtime import Change, Found
from falcon_agent.errors import FalconAgentError, GoneError, ParseError, RuntimeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from falcon_agent.discovery.engineanswers import Listed

log = logging.getLogger(__name__)

MAX_DETAILS = 4 * 1024 * 1024
"""Bytes of the description of one container."""

_ID = re.compile(r"[0-9a-f]{64}")
_LIST_QUERY = {"filters": '{"status": ["running", "paused"]}'}
"""Unasked, podman leaves paused containers out."""
_EVENT_QUERY = {
    "filters": '{"type": ["container", "network"], "event": ["start", "die", "died", "rename", "update", "pause",'
    ' "unpause", "connect", "disconnect"]}'
}
"""podman calls a container's end `died` when it is asked for and `die` when it tells."""
_ENDED = frozenset({"die", "died"})
_PATIENCE = 2
"""Containers whose description may fail to come in one look. One stuck container must not hide the others,
but when the daemon itself got stuck, waiting for each would take very long."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


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
    """

    def __init__(self, base_url: str, timeout: float, proc: str, name: str = "docker") -> None:
        self.name = name
        self._api = EngineApi(base_url, timeout, name)
        self._proc = proc
        self._closed = Flag()
        self._known: dict[str, _Known] = {}

    def find(self) -> Found:
        """All running containers: one list, and a description of each one that was not known before."""
        listed = self._list()
        found = Found()
        known: dict[str, _Known] = {}
        failed = 0
        for item in listed:
            before = self._known.get(item.id)
            if before is not None and self.alive(before.container):
                known[item.id] = before
            elif failed >= _PATIENCE:
                found.left_out.append(self._left_out(item, "not described: the engine hangs on others"))
            else:
                try:
                    known[item.id] = self._describe(item)
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

    def _describe(self, item: Listed) -> _Known:
        details = parse_details(self._api.get(f"/containers/{item.id}/json", limit=MAX_DETAILS))
        if details.pid == 0:
            raise GoneError(f"container {item.id[:12]}", "it does not run (any more)")
        described = describe(self._proc, details.pid, lambda path: item.id in path.rpartition("/")[2])
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
        )
        return _Known(container, details.network_mode)

    def _left_out(self, item: Listed, reason: str) -> LeftOut:
        return LeftOut(item.name, item.id, self.name, reason)

    def watch(self, notify: Callable[[Change], None]) -> None:
        """Hear the engine's events; connects again with growing pauses while there is no sound stream."""
        pause = _FIRST_PAUSE
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                self._hear(notify)
            except (RuntimeUnavailableError, ParseError) as error:
                log.debug("no events: %s", error)
            if time.monotonic() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            self._closed.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _hear(self, notify: Callable[[Change], None]) -> None:
        for line in self._api.lines("/events", _EVENT_QUERY):
            if not line:  # the stream has begun
                notify(Change())
                continue
            event = parse_event(line)
            notify(Change(event.id, ended=event.action in _ENDED))

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
        network_of=network_of,
        host_network=told_host or (host is not None and container.netns == host),
        labels=labels,
        pod=pod_of(labels),
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
