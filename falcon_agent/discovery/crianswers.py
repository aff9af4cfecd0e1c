"""What the Container Runtime Interface asks and answers, as values: pure functions, encoded messages in and out.

Messages and field numbers: `runtime/v1/api.proto` of https://github.com/kubernetes/cri-api; `v1alpha2` has the same
numbers. The interface itself says of a container neither its process nor its environment; with `verbose`, runtimes add
JSON of their own: containerd https://github.com/containerd/containerd/blob/main/docs/cri/crictl.md, CRI-O the same keys
`pid` and `runtimeSpec`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from falcon_agent.discovery.criwire import encode_bytes, encode_number, entry, fields, nested, number, text
from falcon_agent.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon_agent.discovery.criwire import Buffer

RUNNING_CONTAINERS = encode_bytes(1, encode_bytes(2, encode_number(1, 1)))
"""ListContainersRequest with filter.state CONTAINER_RUNNING."""
UNKNOWN_RUNTIME = "cri"
"""What a runtime is called that has not said its name, or none that can be used as one."""
MAX_VARIABLES = 100
"""Variables of one environment that are kept. The image's and the container's own come first; after them Kubernetes
adds seven for every service of the namespace, which may be thousands."""
MAX_VARIABLE = 1024
"""Characters that a variable may have; a longer one is left out."""

_INFO = "the runtime's verbose information"
_RUNNING, _READY, _NODE = 1, 0, 2
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One item of ListPodSandbox: a pod, as far as the runtime is concerned.

    Attributes:
        id: the runtime's; also that of the container that holds the pod's namespaces.
        name: of the pod.
        namespace: of Kubernetes.
        uid: of the pod.
        ready: whether what holds its namespaces runs.
        labels: of the pod.
    """

    id: str
    name: str
    namespace: str
    uid: str
    ready: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Listed:
    """One item of ListContainers.

    Attributes:
        id: the runtime's.
        sandbox: id of its pod's sandbox.
        name: its name in the pod.
        image: as whoever made it asked for it; kubelet asks by digest, but recent ones add what the user wrote.
        labels: its own.
        attempt: how many containers of this name the pod had before it.
    """

    id: str
    sandbox: str
    name: str
    image: str
    labels: Mapping[str, str]
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Details:
    """The answer of ContainerStatus or PodSandboxStatus.

    Attributes:
        up: container running, sandbox ready.
        pid: its first process, 0 while it has none, or None if the runtime does not say.
        host_network: a sandbox that was asked to use the host's network.
        image: a name of the image, empty if the runtime says none.
        env: environment it was made with, at most the first `MAX_VARIABLES`.
    """

    up: bool
    pid: int | None
    host_network: bool = False
    image: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def request_status(container: str) -> bytes:
    """ContainerStatusRequest or PodSandboxStatusRequest, verbose."""
    return encode_bytes(1, container.encode()) + encode_number(2, 1)


def parse_version(message: Buffer) -> str:
    """The runtime's name in VersionResponse: `containerd`, `cri-o`, `docker`; `cri` if it says nothing usable.

    Raises:
        ParseError: no such message.
    """
    told = _last(message, 2).lower()
    return told if _NAME.fullmatch(told) else UNKNOWN_RUNTIME


def parse_sandboxes(message: Buffer) -> list[Sandbox]:
    """The items of ListPodSandboxResponse.

    Raises:
        ParseError: no such message.
    """
    return [_sandbox(nested(value)) for at, value in fields(message) if at == 1]


def _sandbox(message: Buffer) -> Sandbox:
    container = name = namespace = uid = ""
    state = _READY
    labels: dict[str, str] = {}
    for at, value in fields(message):
        match at:
            case 1:
                container = text(value)
            case 2:
                metadata = nested(value)
                name, uid, namespace = (_last(metadata, part) for part in (1, 2, 3))
            case 3:
                state = number(value)
            case 5:
                labels.update([entry(value)])
    return Sandbox(container, name, namespace, uid, state == _READY, labels)


def parse_containers(message: Buffer) -> list[Listed]:
    """The items of ListContainersResponse.

    Raises:
        ParseError: no such message.
    """
    return [_listed(nested(value)) for at, value in fields(message) if at == 1]


def _listed(message: Buffer) -> Listed:
    container = sandbox = name = image = ""
    attempt = 0
    labels: dict[str, str] = {}
    for at, value in fields(message):
        match at:
            case 1:
                container = text(value)
            case 2:
                sandbox = text(value)
            case 3:
                metadata = nested(value)
                name = _last(metadata, 1)
                attempt = next((number(part) for key, part in fields(metadata) if key == 2), 0)  # noqa: PLR2004
            case 4:
                image = _image(nested(value))
            case 8:
                labels.update([entry(value)])
    return Listed(container, sandbox, name, image, labels, attempt)


def parse_container_status(message: Buffer) -> Details:
    """ContainerStatusResponse.

    Raises:
        ParseError: no such message, or the runtime's own JSON in it has not the known form.
    """
    state, image = 0, ""
    for at, value in fields(_message(message, 1)):
        if at == 3:  # noqa: PLR2004  field numbers of ContainerStatus
            state = number(value)
        elif at == 8:  # noqa: PLR2004
            image = _image(nested(value))
    info = _info(message)
    return Details(state == _RUNNING, _pid(info), image=image, env=_env(info))


def parse_sandbox_status(message: Buffer) -> Details:
    """PodSandboxStatusResponse.

    Raises:
        ParseError: no such message, or the runtime's own JSON in it has not the known form.
    """
    state, network = _READY, 0
    for at, value in fields(_message(message, 1)):
        if at == 3:  # noqa: PLR2004  field numbers of PodSandboxStatus
            state = number(value)
        elif at == 6:  # noqa: PLR2004
            options = _message(_message(nested(value), 1), 2)
            network = next((number(part) for key, part in fields(options) if key == 1), 0)
    info = _info(message)
    image = info.get("image")
    return Details(
        state == _READY,
        _pid(info),
        host_network=network == _NODE,
        image=image if isinstance(image, str) else "",
    )


def is_image_name(image: str) -> bool:
    """Whether it is what people call an image, and not its digest."""
    return image != "" and _DIGEST.fullmatch(image) is None


def _image(spec: Buffer) -> str:
    """Of an ImageSpec what the user wrote, if kubelet handed that on, else what it asked for."""
    return _last(spec, 18) or _last(spec, 1)


def _last(message: Buffer, wanted: int) -> str:
    """A field that is a text; empty if it is left out."""
    found = ""
    for at, value in fields(message):
        if at == wanted:
            found = text(value)
    return found


def _message(message: Buffer, wanted: int) -> Buffer:
    """A field that is a message; an empty one if it is left out."""
    found: Buffer = b""
    for at, value in fields(message):
        if at == wanted:
            found = nested(value)
    return found


def _info(message: Buffer) -> dict[str, Any]:
    """The JSON that the runtime added for `verbose`; empty if it added none."""
    added = dict(entry(value) for at, value in fields(message) if at == 2)  # noqa: PLR2004  the map `info`
    content = added.get("info", "{}")
    try:
        info = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ParseError(_INFO, f"no JSON: {error}") from None
    return _object(info)


def _pid(info: Mapping[str, Any]) -> int | None:
    pid = info.get("pid")
    if pid is not None and (not isinstance(pid, int) or isinstance(pid, bool) or pid < 0):
        raise ParseError(_INFO, f"pid is {str(pid)[:40]!r}")
    return pid


def _env(info: Mapping[str, Any]) -> dict[str, str]:
    process = _object(_object(info.get("runtimeSpec") or {}).get("process") or {})
    lines = _array(process.get("env"))[:MAX_VARIABLES]
    short = (line for line in lines if isinstance(line, str) and len(line) <= MAX_VARIABLE)
    return dict(line.split("=", 1) for line in short if "=" in line)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ParseError(_INFO, f"{str(value)[:40]!r} where an object belongs")
    return value


def _array(value: Any) -> list[Any]:
    """The array; a runtime, written in Go, says null for an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ParseError(_INFO, f"{str(value)[:40]!r} where an array belongs")
    return value
