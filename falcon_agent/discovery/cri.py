"""Containers of a runtime of Kubernetes, which speaks the Container Runtime Interface (CRI): containerd, CRI-O."""

from __future__ import annotations

import contextlib
import logging
import re
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from falcon_agent.container import Container, LeftOut, Pod
from falcon_agent.discovery.crianswers import (
    RUNNING_CONTAINERS,
    UNKNOWN_RUNTIME,
    Sandbox,
    is_image_name,
    parse_container_status,
    parse_containers,
    parse_sandbox_status,
    parse_sandboxes,
    parse_version,
    request_status,
)
from falcon_agent.discovery.crievents import event_streams
from falcon_agent.discovery.crirpc import DEADLINE_EXCEEDED, NOT_FOUND, UNIMPLEMENTED, Rpc, StatusError
from falcon_agent.discovery.describe import as_written, describe, host_netns, is_alive
from falcon_agent.discovery.runtime import PATIENCE, Change, Found, keep_hearing
from falcon_agent.errors import (
    FalconAgentError,
    GoneError,
    ParseError,
    RuntimeAbsentError,
    RuntimeUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from falcon_agent.discovery.crianswers import Listed
    from falcon_agent.discovery.crievents import EventStream
    from falcon_agent.discovery.describe import Absolute, Described

log = logging.getLogger(__name__)

MAX_DETAILS = 4 * 1024 * 1024
"""Bytes of the description of one container."""

_SERVICES = ("runtime.v1.RuntimeService", "runtime.v1alpha2.RuntimeService")
"""The second is all that containerd before 1.6 has; the same messages."""
_ID = re.compile(r"[0-9a-f]{64}")
_SETTLE_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""containerd tells of a start before it lists the container as running: so long a look waits for that, in parts."""
_POLL_SECONDS = 5.0
"""Between two listings of a runtime that tells no events."""


class _Listing(NamedTuple):
    """What the runtime has now: its sandboxes in every state by id, and its running containers."""

    sandboxes: dict[str, Sandbox]
    containers: list[Listed]

    @property
    def ids(self) -> frozenset[str]:
        """Of all that runs."""
        ready = (one.id for one in self.sandboxes.values() if one.ready)
        return frozenset([*ready, *(one.id for one in self.containers)])


class CriRuntime:
    """A runtime of Kubernetes.

    Each ready sandbox whose namespaces are held by a process is a `Container` too, with `pause` set. CRI-O does
    without that process for most pods; then the sandbox is none, and yet `network_of` of its containers.

    Args:
        url: `unix:///path`.
        timeout: seconds that one answer may take.
        proc: where the procfs of the runtime's PID namespace is mounted.
        absolute: as for `describe`.
    """

    def __init__(self, url: str, timeout: float, proc: str, absolute: Absolute = as_written) -> None:
        # One for each of the two threads that use a runtime.
        self._asking = Rpc(url, timeout)
        self._hearing = Rpc(url, timeout)
        self._proc = proc
        self._absolute = absolute
        self._closed = Flag()
        self._name = UNKNOWN_RUNTIME
        self._service = _SERVICES[0]
        self._known: dict[str, Container] = {}
        # Sandboxes without a process, and those in the host's network.
        self._hollow: set[str] = set()
        self._on_host: set[str] = set()
        # What events told of and no look has found yet.
        self._started: set[str] = set()
        self._lock = Lock()

    @property
    def name(self) -> str:
        """As the runtime calls itself, e.g. `containerd` or `cri-o`; `cri` until it has."""
        return self._name

    def find(self) -> Found:
        """All sandboxes and running containers: two lists, and a description of each that was not known before."""
        try:
            self._introduce()
            listing = self._list_settled()
            found = self._describe_all(listing)
        except ParseError as error:
            raise RuntimeUnavailableError(f"cannot use {self._asking.url}: {error}") from None
        finally:
            # Kept until the next look, the connection might be one to a daemon that was started anew meanwhile.
            self._asking.hang_up()
        self._known = {container.id: container for container in found.containers}
        self._hollow &= listing.sandboxes.keys()
        self._on_host &= listing.sandboxes.keys()
        return found

    def _introduce(self) -> None:
        """Learn the runtime's name, and which version of the interface it speaks."""
        for service in sorted(_SERVICES, key=lambda one: one != self._service):
            try:
                self._name = parse_version(self._asking.call(f"{service}/Version", b""))
            except StatusError as error:
                if error.status != UNIMPLEMENTED:
                    raise
            else:
                self._service = service
                return
        raise RuntimeAbsentError(
            f"cannot use {self._asking.url}: this containerd has no CRI plugin; if it should, see disabled_plugins in "
            "/etc/containerd/config.toml"
        )

    # What runs

    def _list_settled(self) -> _Listing:
        """What runs, including whatever an event told of, if that appears soon."""
        listing = self._list(self._asking)
        for pause in _SETTLE_PAUSES:
            with self._lock:
                expected = self._started - listing.ids
            if not expected or self._closed.wait(pause):
                break
            listing = self._list(self._asking)
        with self._lock:
            self._started -= listing.ids | expected
        return listing

    def _list(self, rpc: Rpc) -> _Listing:
        # Also those that are not ready: their containers may still run, and have the pod's labels.
        sandboxes = parse_sandboxes(rpc.call(f"{self._service}/ListPodSandbox", b""))
        containers = parse_containers(rpc.call(f"{self._service}/ListContainers", RUNNING_CONTAINERS))
        # The id is what a process's cgroup is believed by.
        return _Listing(
            {one.id: one for one in sandboxes if _ID.fullmatch(one.id)},
            [one for one in containers if _ID.fullmatch(one.id)],
        )

    # What each of it is

    def _describe_all(self, listing: _Listing) -> Found:
        found = Found()
        host = host_netns(self._proc)
        failed = 0
        ready = [one for one in listing.sandboxes.values() if one.ready and one.id not in self._hollow]
        items: list[Sandbox | Listed] = [*ready, *listing.containers]
        for item in items:
            known = self._known.get(item.id)
            if known is not None and self.alive(known):
                found.containers.append(known)
                continue
            if failed >= PATIENCE:
                found.left_out.append(self._left_out(item, "not described: the runtime hangs on others"))
                continue
            try:
                container = self._describe(item, listing.sandboxes, host)
            except GoneError as error:
                found.left_out.append(self._left_out(item, f"gone: {error.reason}"))
            except StatusError as error:
                failed += error.status == DEADLINE_EXCEEDED
                if error.status != NOT_FOUND:  # else it ended and was removed after the list was made
                    found.left_out.append(self._left_out(item, str(error)))
            except FalconAgentError as error:
                failed += isinstance(error, RuntimeUnavailableError)
                found.left_out.append(self._left_out(item, str(error)))
            else:
                if container is not None:
                    found.containers.append(container)
        return found

    def _describe(
        self, item: Sandbox | Listed, sandboxes: Mapping[str, Sandbox], host: int | None
    ) -> Container | None:
        if isinstance(item, Sandbox):
            return self._describe_sandbox(item, host)
        return self._describe_container(item, sandboxes.get(item.sandbox), host)

    def _describe_sandbox(self, item: Sandbox, host: int | None) -> Container | None:
        """What holds a pod's namespaces, or None if no process does."""
        answer = self._asking.call(f"{self._service}/PodSandboxStatus", request_status(item.id), MAX_DETAILS)
        details = parse_sandbox_status(answer)
        if details.host_network:
            self._on_host.add(item.id)
        if not details.pid:
            if details.up:
                self._hollow.add(item.id)
            return None
        described = self._look_at(item.id, details.pid)
        return Container(
            id=item.id,
            name=item.name or item.id[:12],
            runtime=self._name,
            pid=details.pid,
            starttime=described.starttime,
            cgroup=described.cgroup,
            netns=described.netns,
            network_of=item.id,
            host_network=self._is_on_host(item.id, described, host),
            pause=True,
            image=details.image,
            labels=item.labels,
            pod=_pod(item.labels, item),
        )

    def _describe_container(self, item: Listed, sandbox: Sandbox | None, host: int | None) -> Container:
        answer = self._asking.call(f"{self._service}/ContainerStatus", request_status(item.id), MAX_DETAILS)
        details = parse_container_status(answer)
        if not details.up or details.pid == 0:
            raise GoneError(f"container {item.id[:12]}", "it does not run (any more)")
        if details.pid is None:
            raise RuntimeUnavailableError(
                f"cannot find the first process: {self._name} does not tell its pid"
            )
        described = self._look_at(item.id, details.pid)
        return Container(
            id=item.id,
            name=item.labels.get("io.kubernetes.container.name") or item.name or item.id[:12],
            runtime=self._name,
            pid=details.pid,
            starttime=described.starttime,
            cgroup=described.cgroup,
            netns=described.netns,
            network_of=item.sandbox,
            host_network=self._is_on_host(item.sandbox, described, host),
            image=item.image if is_image_name(item.image) else details.image or item.image,
            labels={**sandbox.labels, **item.labels} if sandbox else item.labels,
            env=details.env,
            pod=_pod(item.labels, sandbox),
            restarts=item.attempt,
        )

    def _look_at(self, container: str, pid: int) -> Described:
        return describe(self._proc, pid, lambda path: container in path.rpartition("/")[2], self._absolute)

    def _is_on_host(self, sandbox: str, described: Described, host: int | None) -> bool:
        return sandbox in self._on_host or (host is not None and described.netns == host)

    def _left_out(self, item: Sandbox | Listed, reason: str) -> LeftOut:
        return LeftOut(item.name or item.id[:12], item.id, self._name, reason)

    # What changes

    def watch(self, notify: Callable[[Change], None]) -> None:
        """Hear the runtime's events, or list again and again where there are none; connects again by itself."""
        keep_hearing(lambda: self._hear(notify), self._closed)

    def _hear(self, notify: Callable[[Change], None]) -> None:
        try:
            if not any(self._follow(stream, notify) for stream in event_streams(self._service)):
                self._poll(notify)
        finally:
            self._hearing.hang_up()

    def _follow(self, stream: EventStream, notify: Callable[[Change], None]) -> bool:
        """Pass on what a stream tells until it ends; whether there is such a stream."""
        heard = False
        try:
            with contextlib.closing(self._hearing.stream(stream.method, stream.request)) as messages:
                for message in messages:
                    if message is None:
                        notify(Change())
                        continue
                    heard = True
                    if change := stream.parse(message):
                        self._expect(change)
                        notify(change)
        except StatusError as error:
            if error.status != UNIMPLEMENTED and (heard or not stream.may_refuse):
                raise
            log.debug("%s", error)
            return False
        return heard or not stream.may_refuse

    def _expect(self, change: Change) -> None:
        """Note that the next look is to find what was started."""
        with self._lock:
            if change.ended:
                self._started.discard(change.id)
            elif _ID.fullmatch(change.id):
                self._started.add(change.id)

    def _poll(self, notify: Callable[[Change], None]) -> None:
        before: frozenset[str] | None = None
        while not self._closed.is_set():
            now = self._list(self._hearing).ids
            if before is None:
                notify(Change())
                before = now
            for container in now - before:
                notify(Change(container))
            for container in before - now:
                notify(Change(container, ended=True))
            before = now
            self._closed.wait(_POLL_SECONDS)

    def alive(self, container: Container) -> bool:
        """Whether its first process still runs."""
        return is_alive(self._proc, container)

    def close(self) -> None:
        """End `watch` and every call."""
        self._closed.set()
        self._asking.close()
        self._hearing.close()


def _pod(labels: Mapping[str, str], sandbox: Sandbox | None) -> Pod | None:
    """The pod as kubelet labels it, else as the sandbox was made (`crictl runp`)."""
    name = labels.get("io.kubernetes.pod.name") or (sandbox.name if sandbox else "")
    if not name:
        return None
    namespace = labels.get("io.kubernetes.pod.namespace") or (sandbox.namespace if sandbox else "")
    uid = labels.get("io.kubernetes.pod.uid") or (sandbox.uid if sandbox else "")
    return Pod(name, namespace, uid)
