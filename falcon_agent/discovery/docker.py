"""Containers of a Docker engine, or of whatever speaks its API (podman)."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from threading import Event as Flag
from typing import TYPE_CHECKING

from falcon_agent.container import Container, LeftOut, Pod
from falcon_agent.discovery.describe import describe, host_netns, is_alive
from falcon_agent.discovery.engineanswers import parse_details, parse_event, parse_listing
from falcon_agent.discovery.engineapi import EngineApi, NotFoundError
from falcon_agent.discovery.runtime import Change, Found
from falcon_agent.errors import FalconAgentError, GoneError, ParseError, RuntimeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from falcon_agent.discovery.engineanswers import Details, Listed

log = logging.getLogger(__name__)

MAX_DETAILS = 4 * 1024 * 1024
"""Bytes of the description of one container."""

_ID = re.compile(r"[0-9a-f]{64}")
_EVENT_QUERY = {"filters": '{"type": ["container"], "event": ["start", "die", "rename"]}'}
_PATIENCE = 2
"""Containers whose description may fail to come in one look. One stuck container must not hide the others,
but when the daemon itself got stuck, waiting for each would take very long."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


class DockerRuntime:
    """A Docker engine.

    Args:
        base_url: `unix:///path` or `tcp://host:port`.
        timeout: seconds that one answer may take.
        proc: where the procfs of the engine's PID namespace is mounted.
    """

    name = "docker"

    def __init__(self, base_url: str, timeout: float, proc: str) -> None:
        self._api = EngineApi(base_url, timeout)
        self._proc = proc
        self._closed = Flag()
        self._known: dict[str, Container] = {}

    def find(self) -> Found:
        """All running containers: one list, and a description of each one that was not known before."""
        listed = self._list()
        found = Found()
        modes = {item.id: item.network_mode for item in listed}
        host = host_netns(self._proc)
        failed = 0
        for item in listed:
            known = self._known.get(item.id)
            if known is not None and self.alive(known):
                found.containers.append(replace(known, name=_name(item, known.labels)))
            elif failed >= _PATIENCE:
                found.left_out.append(self._left_out(item, "not described: the engine hangs on others"))
            else:
                try:
                    container = self._describe(item, modes, host)
                except NotFoundError:
                    continue  # it ended and was removed after the list was made
                except GoneError as error:
                    found.left_out.append(self._left_out(item, f"gone: {error.reason}"))
                except FalconAgentError as error:
                    failed += isinstance(error, RuntimeUnavailableError)
                    found.left_out.append(self._left_out(item, str(error)))
                else:
                    found.containers.append(container)
        self._known = {container.id: container for container in found.containers}
        return found

    def _list(self) -> list[Listed]:
        answer = self._api.get("/containers/json")
        try:
            listed = parse_listing(answer)
        except ParseError as error:
            raise RuntimeUnavailableError(f"cannot use {self._api.url}: {error}") from None
        # The id becomes part of a request's path.
        return [item for item in listed if _ID.fullmatch(item.id)]

    def _describe(self, item: Listed, modes: Mapping[str, str], host: int | None) -> Container:
        details = parse_details(self._api.get(f"/containers/{item.id}/json", limit=MAX_DETAILS))
        if details.pid == 0:
            raise GoneError(f"container {item.id[:12]}", "it does not run (any more)")
        described = describe(self._proc, details.pid, lambda path: item.id in path.rpartition("/")[2])
        network_of = _network_of(item.id, {**modes, item.id: details.network_mode})
        told_host = details.network_mode == "host" or modes.get(network_of) == "host"
        return Container(
            id=item.id,
            name=_name(item, details.labels),
            runtime=self.name,
            pid=details.pid,
            starttime=described.starttime,
            cgroup=described.cgroup,
            netns=described.netns,
            network_of=network_of,
            host_network=told_host or (host is not None and described.netns == host),
            pause=_is_pause(details.labels),
            image=details.image,
            labels=details.labels,
            env=details.env,
            pod=_pod(details),
        )

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
            notify(Change(event.id, ended=event.action == "die"))

    def alive(self, container: Container) -> bool:
        """Whether its first process still runs."""
        return is_alive(self._proc, container)

    def close(self) -> None:
        """End `watch` and every request."""
        self._closed.set()
        self._api.close()


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


def _is_pause(labels: Mapping[str, str]) -> bool:
    kind, container = labels.get("io.kubernetes.docker.type"), labels.get("io.kubernetes.container.name")
    return kind == "podsandbox" or container == "POD"


def _name(item: Listed, labels: Mapping[str, str]) -> str:
    """What people call it: under Kubernetes the name in the pod, not `k8s_NAME_POD_NAMESPACE_UID_ATTEMPT`."""
    in_pod = labels.get("io.kubernetes.container.name") if labels.get("io.kubernetes.pod.name") else None
    return in_pod or item.name


def _pod(details: Details) -> Pod | None:
    labels = details.labels
    name = labels.get("io.kubernetes.pod.name")
    if not name:
        return None
    return Pod(name, labels.get("io.kubernetes.pod.namespace", ""), labels.get("io.kubernetes.pod.uid", ""))
