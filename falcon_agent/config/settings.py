"""The validated settings as plain values; what each means and may be is said in `model` and in config/agent.toml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from falcon_agent.config.textfile import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PATH = "/etc/falcon-agent/agent.toml"
ENVIRONMENT_PREFIX = "FALCON_AGENT__"

_MAX_SECRET_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Agent:
    """`[agent]`; `step` in seconds."""

    endpoint: str
    step: int


@dataclass(frozen=True, slots=True)
class Target:
    """One place that gets every record, at its own speed; `timeout` in seconds."""

    name: str
    addresses: Sequence[str]
    timeout: float
    gzip: bool
    username: str
    password_file: str
    ca_file: str
    headers: Mapping[str, str]

    def password(self) -> str:
        """The first line of `password_file`, or nothing where none is set.

        Raises:
            ConfigError: the file cannot be read.
        """
        if not self.password_file:
            return ""
        return (
            read_text(self.password_file, _MAX_SECRET_BYTES, "password_file").split("\n", 1)[0].rstrip("\r")
        )


@dataclass(frozen=True, slots=True)
class Transfer:
    """`[transfer]`.

    Attributes:
        addresses: as given; they are the target called `default`, unless only `[[transfer.targets]]` are given.
        batch_size: records in one POST.
        queue_bytes: kept in memory while the disk takes none.
        targets: every one, that of `addresses` among them.
    """

    addresses: Sequence[str]
    batch_size: int
    queue_bytes: int
    targets: Sequence[Target]


@dataclass(frozen=True, slots=True)
class Spool:
    """`[spool]`; `max_age` and `pace` in seconds."""

    directory: str
    max_bytes: int
    max_age: float
    pace: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`[heartbeat]`; `interval` in seconds."""

    address: str
    interval: float
    hostname: str
    ip: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """`[discovery]`; `timeout` and `resync` in seconds; `include` and `exclude` hold patterns by kind."""

    runtimes: Sequence[str]
    docker: str
    podman: str
    cri: Sequence[str]
    timeout: float
    resync: float
    include: Mapping[str, Sequence[str]]
    exclude: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Containers:
    """`[containers]`."""

    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Collectors:
    """`[collectors]`."""

    enabled: Sequence[str]


@dataclass(frozen=True, slots=True)
class Network:
    """`[network]`."""

    veth_tag: bool


@dataclass(frozen=True, slots=True)
class Filesystem:
    """`[filesystem]`; `timeout` in seconds."""

    timeout: float
    fuse: bool


@dataclass(frozen=True, slots=True)
class Layersize:
    """`[layersize]`; `interval` in seconds."""

    interval: float


@dataclass(frozen=True, slots=True)
class Paths:
    """`[paths]`."""

    proc: str
    cgroup: str


@dataclass(frozen=True, slots=True)
class Log:
    """`[log]`."""

    level: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration."""

    agent: Agent
    tags: Mapping[str, str]
    transfer: Transfer
    spool: Spool
    heartbeat: Heartbeat
    discovery: Discovery
    containers: Containers
    collectors: Collectors
    network: Network
    filesystem: Filesystem
    layersize: Layersize
    paths: Paths
    log: Log


_SECTIONS = {
    "agent": Agent,
    "spool": Spool,
    "heartbeat": Heartbeat,
    "discovery": Discovery,
    "containers": Containers,
    "collectors": Collectors,
    "network": Network,
    "filesystem": Filesystem,
    "layersize": Layersize,
    "paths": Paths,
    "log": Log,
}


def settings_of(tree: Mapping[str, Any]) -> Settings:
    """The settings in the form of `SettingsModel.tree`, every key of which must be there.

    Raises:
        TypeError, KeyError: a key is missing, or there is one that has no place here.
    """
    made: dict[str, Any] = {name: kind(**tree[name]) for name, kind in _SECTIONS.items()}
    targets = [Target(**target) for target in tree["transfer"]["targets"]]
    made["transfer"] = Transfer(**{**tree["transfer"], "targets": targets})
    return Settings(**{**tree, **made})
