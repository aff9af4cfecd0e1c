"""What may be configured: every key with its type, default and limits, checked by pydantic.

Only what validates imports this: the daemon has it done by another process (`falcon_agent.config.validation`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from falcon_agent.collectors import DEFAULTS, NAMES
from falcon_agent.container import Template
from falcon_agent.naming import clean_tag_key

DEFAULT_TARGET = "default"


def _check_template(text: str) -> str:
    Template(text)
    return text


def _check_push_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https", "rpc"} or not parts.hostname:
        raise ValueError("a URL such as http://127.0.0.1:6060/api/push or rpc://127.0.0.1:8433")
    if parts.username or parts.password:
        raise ValueError("a URL without credentials; use username and password_file")
    port = parts.port  # raises ValueError itself when it is no number below 65536
    if parts.scheme == "rpc" and (not port or parts.path.strip("/")):
        raise ValueError("rpc://host:port, with transfer's JSON-RPC port, usually 8433")
    return url


def _check_host_port(text: str) -> str:
    if text and not re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[\w.-]+):\d{1,5}", text, re.ASCII):
        raise ValueError("host:port, such as hbs.example.com:6030, or nothing")
    return text


def _check_docker_url(url: str) -> str:
    if not re.fullmatch(r"unix:///.+|tcp://[^/]+:\d+", url):
        raise ValueError("unix:///path/to/docker.sock or tcp://host:port")
    return url


def _check_cri_url(url: str) -> str:
    if not re.fullmatch(r"unix:///.+", url):
        raise ValueError("unix:///path/to/containerd.sock")
    return url


def _check_tag_key(key: str) -> str:
    if not key or clean_tag_key(key) != key:
        raise ValueError("a tag key without spaces, commas, quotes and '='")
    return key


def _check_collector(name: str) -> str:
    if name not in NAMES:
        raise ValueError(" or ".join(NAMES))
    return name


TemplateText = Annotated[str, Field(min_length=1), AfterValidator(_check_template)]
PushUrl = Annotated[str, AfterValidator(_check_push_url)]
HostPort = Annotated[str, AfterValidator(_check_host_port)]
DockerUrl = Annotated[str, AfterValidator(_check_docker_url)]
TagKey = Annotated[str, AfterValidator(_check_tag_key)]
CollectorName = Annotated[str, AfterValidator(_check_collector)]
CriUrl = Annotated[str, AfterValidator(_check_cri_url)]
RuntimeName = Literal["auto", "docker", "podman", "cri", "lxc", "cgroups"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Agent(_Section):
    """`[agent]`: who the records are about, and how often."""

    endpoint: TemplateText = "{hostname}"
    step: int = Field(default=60, ge=1, le=86400)


class _Delivery(_Section):
    """What can be said of every place that takes records."""

    timeout: float = Field(default=5.0, gt=0, le=300)
    gzip: bool = False
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    headers: dict[str, str] = {}


class Target(_Delivery):
    """`[[transfer.targets]]`: one of several places that get every record, each at its own speed."""

    name: str = Field(pattern="^[A-Za-z0-9_.-]{1,64}$")
    addresses: list[PushUrl] = Field(min_length=1)


class Transfer(_Delivery):
    """`[transfer]`: where the records go."""

    addresses: list[PushUrl] = Field(default=["http://127.0.0.1:6060/api/push"], min_length=1)
    batch_size: int = Field(default=1000, ge=1, le=50000)
    queue_bytes: int = Field(default=8 * 1024 * 1024, ge=65536)
    targets: list[Target] = []

    @field_validator("targets")
    @classmethod
    def _check_names(cls, targets: list[Target]) -> list[Target]:
        names = [target.name for target in targets]
        if len(set(names)) < len(names) or DEFAULT_TARGET in names:
            raise ValueError(f"names that differ from each other and from {DEFAULT_TARGET!r}")
        return targets

    def all_targets(self) -> list[Target]:
        """Every target by name: `addresses` is the one called `default`, unless only `targets` are given."""
        if self.targets and "addresses" not in self.model_fields_set:
            return self.targets
        own = {name: getattr(self, name) for name in _Delivery.model_fields}
        return [Target(name=DEFAULT_TARGET, addresses=self.addresses, **own), *self.targets]


class Spool(_Section):
    """`[spool]`: where records wait on disk until every target has them."""

    directory: str = Field(default="/var/lib/falcon-agent", pattern="^/")
    max_bytes: int = Field(default=512 * 1024 * 1024, ge=1024 * 1024)
    max_age: float = Field(default=86400.0, ge=60)
    pace: float = Field(default=1.0, ge=0.2, le=60)


class Heartbeat(_Section):
    """`[heartbeat]`: tells hbs that this host is there, so that strategies of host groups apply to it."""

    address: HostPort = ""
    interval: float = Field(default=60.0, ge=5, le=600)
    hostname: str = ""
    ip: str = ""


class Globs(_Section):
    """Shell patterns by what they are matched with."""

    name: list[str] = []
    image: list[str] = []
    label: list[str] = []
    namespace: list[str] = []
    pod: list[str] = []


class Discovery(_Section):
    """`[discovery]`: which containers are found, and by whom."""

    runtimes: list[RuntimeName] = Field(default=["auto"], min_length=1)
    docker: DockerUrl = "unix:///var/run/docker.sock"
    podman: DockerUrl = "unix:///run/podman/podman.sock"
    cri: list[CriUrl] = []
    timeout: float = Field(default=5.0, gt=0, le=60)
    resync: float = Field(default=60.0, ge=1, le=3600)
    include: Globs = Globs()
    exclude: Globs = Globs()


class Containers(_Section):
    """`[containers]`: what their records carry beside the name."""

    tags: dict[TagKey, TemplateText] = {}


class Collectors(_Section):
    """`[collectors]`: what is measured."""

    enabled: list[CollectorName] = list(DEFAULTS)


class Network(_Section):
    """`[network]`: options of the network collector."""

    veth_tag: bool = False


class Filesystem(_Section):
    """`[filesystem]`: options of the filesystem collector."""

    timeout: float = Field(default=1.0, ge=0.1, le=10)
    fuse: bool = False


class Layersize(_Section):
    """`[layersize]`: options of the layersize collector."""

    interval: float = Field(default=900.0, ge=60, le=86400)


class Paths(_Section):
    """`[paths]`: where the host's kernel file systems are, for an agent that runs in a container itself."""

    proc: str = Field(default="/proc", pattern="^/")
    cgroup: str = Field(default="/sys/fs/cgroup", pattern="^/")


class Log(_Section):
    """`[log]`: how much is said on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class SettingsModel(_Section):
    """The whole configuration, with every default."""

    agent: Agent = Agent()
    tags: dict[TagKey, str] = {}
    transfer: Transfer = Transfer()
    spool: Spool = Spool()
    heartbeat: Heartbeat = Heartbeat()
    discovery: Discovery = Discovery()
    containers: Containers = Containers()
    collectors: Collectors = Collectors()
    network: Network = Network()
    filesystem: Filesystem = Filesystem()
    layersize: Layersize = Layersize()
    paths: Paths = Paths()
    log: Log = Log()

    def tree(self) -> dict[str, Any]:
        """Everything that `settings_of` needs, in a form that JSON has too."""
        delivery = set(_Delivery.model_fields)
        tree = self.model_dump(exclude={"transfer": delivery})
        tree["transfer"]["targets"] = [target.model_dump() for target in self.transfer.all_targets()]
        return tree
