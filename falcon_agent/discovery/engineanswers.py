"""What the Docker Engine API answers, as values: pure parsers, JSON bytes in.

The API (v1.24 and up, also podman's compatible one) is described at
https://docs.docker.com/reference/api/engine/.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from falcon_agent.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LISTING = "the engine's list of containers"
_DETAILS = "the engine's description of a container"
_EVENT = "an event of the engine"
_INFO = "the engine's description of itself"
_VOLUMES = "the engine's list of volumes"

_HEALTH = re.compile(r"\((?:health: )?(starting|healthy|unhealthy)\)$")
"""The end of the text in which the engine says for how long a container has been up."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One container of `GET /containers/json`.

    Attributes:
        id: 64 hexadecimal digits.
        name: without the leading slash; the id if the engine gives none.
        network_mode: e.g. `bridge`, `host`, `none`, `container:ID`; empty if the engine does not say
        (podman).
        paused: all its processes are frozen.
        health: `healthy`, `unhealthy` or `starting`; empty without a health check, and always from podman.
    """

    id: str
    name: str
    network_mode: str
    paused: bool = False
    health: str = ""


@dataclass(frozen=True, slots=True)
class Details:
    """One container of `GET /containers/ID/json`.

    Attributes:
        pid: its first process in the engine's PID namespace; 0 while it does not run.
        image: as it was asked for when the container was made.
        network_mode: as in `Listed`.
        labels: as given by whoever made it.
        env: its environment, likewise; a variable without `=` is left out.
        restarts: how often its restart policy has started it again.
    """

    pid: int
    image: str
    network_mode: str
    labels: Mapping[str, str]
    env: Mapping[str, str]
    restarts: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of `GET /events`: what happened to which container.

    Attributes:
        action: e.g. `start`, `die`, `rename`; of networks `connect`, `disconnect`.
        id: of the container, also where the event is one of a network.
        attributes: the container's labels and, stronger than these, its `name` and `image`; of networks none.
    """

    action: str
    id: str
    attributes: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Info:
    """What is used of `GET /info`.

    Attributes:
        running: containers, without those that are paused.
        paused: containers.
        stopped: containers in any other state.
        images: how many.
        root: directory of the engine's data, as the engine's mount namespace names it; empty if it does not
            say.
    """

    running: int
    paused: int
    stopped: int
    images: int
    root: str


def parse_info(content: bytes) -> Info:
    """The engine as `GET /info` describes it.

    Raises:
        ParseError: not a JSON object of that form.
    """
    item = _object(_decode(content, _INFO), _INFO)
    return Info(
        _number(item, "ContainersRunning", _INFO),
        _number(item, "ContainersPaused", _INFO),
        _number(item, "ContainersStopped", _INFO),
        _number(item, "Images", _INFO),
        _text(item, "DockerRootDir", _INFO, ""),
    )


def count_states(content: bytes) -> Counter[str]:
    """How many containers `GET /containers/json` lists in each state.

    Raises:
        ParseError: not a JSON array of objects with a state.
    """
    return Counter(_text(item, "State", _LISTING) for item in _items(content))


def count_volumes(content: bytes) -> int:
    """How many volumes `GET /volumes` lists.

    Raises:
        ParseError: not a JSON object with a list of them.
    """
    item = _object(_decode(content, _VOLUMES), _VOLUMES)
    if "Volumes" not in item:
        raise ParseError(_VOLUMES, "no Volumes")
    return len(_array(item["Volumes"], _VOLUMES))


def parse_listing(content: bytes) -> list[Listed]:
    """The containers that `GET /containers/json` names, in its order.

    Raises:
        ParseError: not a JSON array of objects with an id.
    """
    return [_listed(item) for item in _items(content)]


def _items(content: bytes) -> list[dict[str, Any]]:
    items = _decode(content, _LISTING)
    if items is None:
        raise ParseError(_LISTING, "null where an array belongs")
    return [_object(item, _LISTING) for item in _array(items, _LISTING)]


def _listed(item: dict[str, Any]) -> Listed:
    container = _text(item, "Id", _LISTING)
    names = _array(item.get("Names"), _LISTING)
    # A link of another container to this one is a name too: /other/alias.
    own = [name for name in names if isinstance(name, str) and name.count("/") <= 1]
    mode = _text(_object(item.get("HostConfig") or {}, _LISTING), "NetworkMode", _LISTING, "")
    return Listed(
        container,
        own[0].lstrip("/") if own else container,
        mode,
        item.get("State") == "paused",
        _health(item),
    )


def _health(item: dict[str, Any]) -> str:
    """From API 1.52 on the list has a field for it, before that only the words meant for people."""
    told = item.get("Health")
    if isinstance(told, dict):
        status = told.get("Status")
        return status if status in {"starting", "healthy", "unhealthy"} else ""
    found = _HEALTH.search(_text(item, "Status", _LISTING, ""))
    return found[1] if found else ""


def parse_details(content: bytes) -> Details:
    """The container that `GET /containers/ID/json` describes.

    Raises:
        ParseError: not a JSON object of that form.
    """
    item = _object(_decode(content, _DETAILS), _DETAILS)
    state = _object(item.get("State"), _DETAILS)
    config = _object(item.get("Config"), _DETAILS)
    host_config = _object(item.get("HostConfig") or {}, _DETAILS)
    labels = _object(config.get("Labels") or {}, _DETAILS)
    env = _array(config.get("Env"), _DETAILS)
    return Details(
        _number(state, "Pid", _DETAILS),
        _text(config, "Image", _DETAILS, ""),
        _text(host_config, "NetworkMode", _DETAILS, ""),
        {key: text for key, text in labels.items() if isinstance(text, str)},
        dict(line.split("=", 1) for line in env if isinstance(line, str) and "=" in line),
        _number(item, "RestartCount", _DETAILS) if "RestartCount" in item else None,
    )


def parse_event(line: bytes) -> Event:
    """The event that one line of `GET /events` holds.

    Raises:
        ParseError: not a JSON object of that form.
    """
    item = _object(_decode(line, _EVENT), _EVENT)
    actor = _object(item.get("Actor"), _EVENT)
    subject = _text(actor, "ID", _EVENT)
    attributes = _object(actor.get("Attributes") or {}, _EVENT)
    if item.get("Type") == "network":
        # Docker's actor is the network, podman's the container itself. Never read this of a container's event:
        # there the attributes hold its labels, whatever they are called.
        return Event(_text(item, "Action", _EVENT), _text(attributes, "container", _EVENT, subject))
    told = {key: text for key, text in attributes.items() if isinstance(text, str)}
    return Event(_text(item, "Action", _EVENT), subject, told)


def _decode(content: bytes, source: str) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ParseError(source, f"no JSON: {error}") from None


def _object(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ParseError(source, f"{str(value)[:40]!r} where an object belongs")
    return value


def _array(value: Any, source: str) -> list[Any]:
    """The array; the engine, written in Go, says null for an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ParseError(source, f"{str(value)[:40]!r} where an array belongs")
    return value


def _text(item: dict[str, Any], key: str, source: str, default: str | None = None) -> str:
    value = item.get(key, default)
    if not isinstance(value, str):
        raise ParseError(source, f"{key} is {str(value)[:40]!r}, not a text")
    return value


def _number(item: dict[str, Any], key: str, source: str) -> int:
    value = item.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ParseError(source, f"{key} is {str(value)[:40]!r}, not a number")
    return value
