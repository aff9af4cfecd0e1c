"""The event streams of container runtimes, as changes: pure functions, encoded messages in.

Two services tell of starts and ends. containerd's own, `containerd.services.events.v1.Events`, is on the same socket as
its Container Runtime Interface; each subscriber gets every event. The interface's own, GetContainerEvents, is what
CRI-O has. containerd has that too since 1.7, but there the listeners take the events from each other, so that asking
would make kubelet deaf (https://github.com/containerd/containerd/issues/7318): it comes second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from falcon_agent.discovery.criwire import encode_bytes, fields, nested, number, text
from falcon_agent.discovery.runtime import Change

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon_agent.discovery.criwire import Buffer

_START, _EXIT = "/tasks/start", "/tasks/exit"
_STARTED, _STOPPED, _DELETED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class EventStream:
    """A service that tells of starts and ends.

    Attributes:
        method: `SERVICE/METHOD`.
        request: what is sent to begin.
        parse: from one message to the change it tells of, or None if it tells of none; raises ParseError.
        may_refuse: runtimes that have the method but no events end it at once, with a status of any kind, also OK.
    """

    method: str
    request: bytes
    parse: Callable[[Buffer], Change | None]
    may_refuse: bool


def parse_task_event(message: Buffer) -> Change | None:
    """The change that an Envelope of containerd's event service tells of.

    `events.proto` and `task.proto` of https://github.com/containerd/containerd/tree/main/api. The end of another
    process than a container's first one (`kubectl exec`, a probe) is an event too, and tells nothing.

    Raises:
        ParseError: no such message.
    """
    topic, event = "", b""
    for at, value in fields(message):
        if at == 3:  # noqa: PLR2004  Envelope.topic
            topic = text(value)
        elif at == 4:  # noqa: PLR2004  Envelope.event, of the type Any, whose field 2 is the message
            event = next((bytes(nested(part)) for key, part in fields(nested(value)) if key == 2), b"")  # noqa: PLR2004
    container = process = ""
    for at, value in fields(event):
        if at == 1:
            container = text(value)
        elif at == 2 and topic == _EXIT:  # noqa: PLR2004  TaskExit.id; that of TaskStart is the pid
            process = text(value)
    if not container or (topic == _EXIT and process != container) or topic not in {_START, _EXIT}:
        return None
    return Change(container, ended=topic == _EXIT)


def parse_container_event(message: Buffer) -> Change | None:
    """The change that a ContainerEventResponse tells of; that a container was made, not started, is none.

    Raises:
        ParseError: no such message.
    """
    container, kind = "", 0
    for at, value in fields(message):
        if at == 1:
            container = text(value)
        elif at == 2:  # noqa: PLR2004  container_event_type
            kind = number(value)
    if not container or kind not in {_STARTED, _STOPPED, _DELETED}:
        return None
    return Change(container, ended=kind != _STARTED)


def event_streams(service: str) -> tuple[EventStream, ...]:
    """The services to ask, in this order, until one is there.

    Args:
        service: the interface's, e.g. `runtime.v1.RuntimeService`.
    """
    filters = b"".join(
        encode_bytes(1, f'namespace==k8s.io,topic=="{topic}"'.encode()) for topic in (_START, _EXIT)
    )
    return (
        EventStream(
            "containerd.services.events.v1.Events/Subscribe", filters, parse_task_event, may_refuse=False
        ),
        EventStream(f"{service}/GetContainerEvents", b"", parse_container_event, may_refuse=True),
    )
