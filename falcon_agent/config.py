"""The configuration: one TOML file, overridden by environment variables, checked before anything starts."""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from falcon_agent.collectors import DEFAULTS, NAMES
from falcon_agent.container import Template
from falcon_agent.errors import ConfigError
from falcon_agent.naming import clean_tag_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_PATH = "/etc/falcon-agent/agent.toml"
DEFAULT_TARGET = "default"
ENVIRONMENT_PREFIX = "FALCON_AGENT__"
_MAX_BYTES = 1024 * 1024
_MAX_SECRET_BYTES = 4096
_KEY_PART = r"\"[^\"]*\"|'[^']*'|[\w-]+"
_KEY = re.compile(rf"\s*((?:{_KEY_PART})(?:\s*\.\s*(?:{_KEY_PART}))*)\s*=")
_CREDENTIALS = re.compile(r"//[^/@\s]*@")


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

    def password(self) -> str:
        """The first line of `password_file`, or nothing where none is set.

        Raises:
            ConfigError: the file cannot be read.
        """
        if not self.password_file:
            return ""
        return _read(self.password_file, _MAX_SECRET_BYTES, "password_file").split("\n", 1)[0].rstrip("\r")


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


class Settings(_Section):
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


def load(path: str | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a file and the environment.

    Args:
        path: the file; None means the default one if it exists, else defaults only.
        environment: `FALCON_AGENT__SECTION__KEY=value` overrides what the file says; lists are written
            as TOML arrays or separated by commas.

    Raises:
        ConfigError: listing everything that is wrong: file, line, key, what was found, what is allowed.
    """
    if path is None and os.path.exists(DEFAULT_PATH):
        path = DEFAULT_PATH
    text = _read(path, _MAX_BYTES, "the configuration") if path is not None else ""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot use {path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"cannot use {path}: nested too deeply") from None
    variables = _override(found, environment)
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        lines = [_explain(problem, path, text, variables) for problem in error.errors()]
        source = path or "the environment"
        raise ConfigError(f"cannot use {source}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _read(path: str, limit: int, what: str) -> str:
    try:
        # A FIFO would block for ever without O_NONBLOCK.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"cannot read {what} {path}: not a regular file")
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"cannot read {what} {path!r}: no file can have this name") from None
    if len(content) > limit:
        raise ConfigError(f"cannot read {what} {path}: larger than {limit} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {what} {path}: not UTF-8 text (byte {error.start})") from None


def _override(found: dict[str, Any], environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Put the environment's values into what the file said; returns which variable set which key."""
    variables: dict[tuple[str, ...], str] = {}
    for name, value in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = tuple(name[len(ENVIRONMENT_PREFIX) :].lower().split("__"))
        place = found
        for key in keys[:-1]:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"cannot use {name}: {key} is not a section")
            place = inner
        place[keys[-1]] = _typed(value, _annotation(keys))
        variables[keys] = name
    return variables


def _annotation(keys: tuple[str, ...]) -> Any:
    """The declared type of a setting, or None where there is no such setting."""
    model: Any = Settings
    for key in keys:
        if get_origin(model) is dict:
            return str
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or key not in model.model_fields:
            return None
        model = model.model_fields[key].annotation
    return model


def _typed(value: str, annotation: Any) -> Any:
    """The value of an environment variable in the type the setting has, as far as that can be told."""
    if annotation is str or get_origin(annotation) is Annotated or get_origin(annotation) is Literal:
        return value
    is_list = get_origin(annotation) is list
    if is_list and not value.lstrip().startswith("["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _explain(problem: Any, path: str | None, text: str, variables: Mapping[tuple[str, ...], str]) -> str:
    """One line for a person: where, which key, what was found and what is allowed."""
    location = tuple(part for part in problem["loc"] if part != "[key]")
    key = ".".join(str(part) for part in location)
    variable = next((name for keys, name in variables.items() if _overlap(keys, location)), None)
    line = _line_of(text, location)
    where = variable or (f"{path}:{line}" if line else path or "the environment")
    if problem["type"] == "extra_forbidden":
        allowed = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), allowed, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where}: {key}: unknown key; {hint}allowed here: {', '.join(allowed)}"
    wanted = re.sub(r"^(Input should (be|have|match)|Value error,) ?", "", problem["msg"])
    if "headers" in location:
        return f"{where}: {key}: found something else (not shown: it may be secret), allowed: {wanted}"
    found = json.dumps(problem["input"], ensure_ascii=False, default=str)
    found = _CREDENTIALS.sub("//***@", found)
    return f"{where}: {key}: found {found[:200]}, allowed: {wanted}"


def _overlap(keys: tuple[str, ...], location: tuple[str | int, ...]) -> bool:
    """Whether a variable set the value at `location`, a part of it, or something around it."""
    shorter = min(len(keys), len(location))
    return keys[:shorter] == location[:shorter]


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    model: Any = Settings
    for key in location:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def _line_of(text: str, location: tuple[str | int, ...]) -> int | None:
    """The line of the file that sets a key, or None where it is written in a way this does not follow."""
    keys = [str(part) for part in location if isinstance(part, str)]
    best = None
    for number, section, key in _assignments(text):
        full = [*section, *key]
        if full == keys:
            return number
        if full and full == keys[: len(full)]:
            best = number
    return best


def _assignments(text: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """`(line, section, key)` of every section header and `key = ...` line."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?([^\]]+)\]", line)
        if header:
            section = [part.strip().strip("\"'") for part in header[1].split(".")]
            yield number, section, []
            continue
        key = _KEY.match(line)
        if key:
            yield number, section, [part.strip("\"'") for part in re.findall(_KEY_PART, key[1])]
