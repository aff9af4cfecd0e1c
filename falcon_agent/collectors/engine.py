"""What a container engine keeps on the host: containers by state, images, volumes, and the disk below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.metric import Metric, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.container import Census
    from falcon_agent.metric import Sample

_STATVFS = (Source("statvfs(DockerRootDir)"),)
_INFO = (Source("GET /info"),)

CONTAINERS = Metric(
    "engine.containers",
    "GAUGE",
    "containers",
    "Containers of the engine by state, measured or not.",
    "ContainersRunning, ContainersPaused, those listed as created, restarting, removing, dead; exited is the rest of"
    " ContainersStopped",
    (*_INFO, Source("GET /containers/json")),
    tags=("runtime", "state"),
)
IMAGES = Metric(
    "engine.images", "GAUGE", "images", "Images that the engine keeps.", "Images", _INFO, tags=("runtime",)
)
VOLUMES = Metric(
    "engine.volumes",
    "GAUGE",
    "volumes",
    "Volumes that the engine keeps, in use or not.",
    "number of Volumes",
    (Source("GET /volumes"),),
    tags=("runtime",),
)
DF_TOTAL = Metric(
    "engine.df.bytes.total",
    "GAUGE",
    "bytes",
    "Size of the file system that holds the engine's images, containers and volumes.",
    "f_blocks x f_frsize",
    _STATVFS,
    tags=("runtime",),
)
DF_USED = Metric(
    "engine.df.bytes.used",
    "GAUGE",
    "bytes",
    "What is taken on that file system, by whomever.",
    "(f_blocks - f_bfree) x f_frsize",
    _STATVFS,
    tags=("runtime",),
)
DF_FREE = Metric(
    "engine.df.bytes.free",
    "GAUGE",
    "bytes",
    "What is free there for anybody but root.",
    "f_bavail x f_frsize",
    _STATVFS,
    tags=("runtime",),
)
DF_USED_PERCENT = Metric(
    "engine.df.bytes.used.percent",
    "GAUGE",
    "percent",
    "Share of that file system that is taken, as df shows it.",
    "engine.df.bytes.used / (engine.df.bytes.used + engine.df.bytes.free) x 100",
    _STATVFS,
    tags=("runtime",),
)


class EngineCollector:
    """What Docker, or podman, keeps on the host.

    No cycle waits for an engine: the thread that finds its containers asks for these figures too, at most
    every 10 s, and they are as old as its last look ([discovery] resync). It costs three requests (`/info`,
    the containers that are created, restarting, removing or dead, `/volumes`), together about 3 ms of the
    engine's CPU time and 2 ms of the agent's, never `/system/df`, which walks over every layer and volume.
    While an engine does not answer, its figures are absent.

    The file system is that of the engine's data (`DockerRootDir`), absent for an engine that is reached over
    TCP. An agent that sees the host's /proc elsewhere than at /proc needs CAP_SYS_PTRACE for it.

    Args:
        censuses: the figures of every engine that answers, without waiting.
    """

    name = "engine"
    scope: Scope = "host"
    metrics: tuple[Metric, ...] = (CONTAINERS, IMAGES, VOLUMES, DF_TOTAL, DF_USED, DF_FREE, DF_USED_PERCENT)

    def __init__(self, censuses: Callable[[], Iterable[Census]]) -> None:
        self._censuses = censuses

    def begin(self, targets: Sequence[Target]) -> None:
        """Nothing is shared."""

    def collect(self, target: Target | None) -> Iterator[Sample]:
        """What the engines had when they were asked last."""
        for census in self._censuses():
            tags = (("runtime", census.runtime),)
            for state, count in census.containers.items():
                yield CONTAINERS, count, (*tags, ("state", state))
            yield IMAGES, census.images, tags
            yield VOLUMES, census.volumes, tags
            disk = census.disk
            if disk is None:
                continue
            yield DF_TOTAL, disk.total_bytes, tags
            yield DF_USED, disk.used_bytes, tags
            yield DF_FREE, disk.free_bytes, tags
            if room := disk.used_bytes + disk.free_bytes:
                yield DF_USED_PERCENT, round(disk.used_bytes / room * 100, 3), tags

    def forget(self, target: Target) -> None:
        """Nothing is kept."""

    def absent(self, metric: Metric, target: Target) -> str | None:
        """It is about no container."""
        return None
