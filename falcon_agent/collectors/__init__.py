"""What is measured: one module per subject, listed in `COLLECTORS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from falcon_agent.collectors.agent import AgentCollector
from falcon_agent.collectors.cpu import CpuCollector
from falcon_agent.collectors.diskio import DiskioCollector
from falcon_agent.collectors.engine import EngineCollector
from falcon_agent.collectors.filesystem import FilesystemCollector
from falcon_agent.collectors.host import HostCollector
from falcon_agent.collectors.layersize import LayersizeCollector
from falcon_agent.collectors.life import LifeCollector
from falcon_agent.collectors.memory import MemoryCollector
from falcon_agent.collectors.network import NetworkCollector
from falcon_agent.collectors.pids import PidsCollector
from falcon_agent.collectors.pressure import PressureCollector
from falcon_agent.collectors.processes import ProcessesCollector
from falcon_agent.collectors.sockets import SocketsCollector
from falcon_agent.collectors.tcpext import TcpextCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from falcon_agent.collectors.base import Collector
    from falcon_agent.container import Census, Container
    from falcon_agent.metric import Metric
    from falcon_agent.selfstat import SelfStat


@dataclass(frozen=True, slots=True)
class Options:
    """What the collectors can be told.

    Attributes:
        stat: the agent's own counters.
        proc: where the host's /proc is.
        ended: lives of containers that ended since it was last called, with kills in them.
        censuses: what the container engines have, as they were asked last.
        veth_tag: whether network records carry the host side's interface name.
        filesystem_timeout: seconds that a file system may take to answer.
        filesystem_fuse: whether those of FUSE are asked too.
        layersize_interval: seconds between two measurements of a writable layer.
    """

    stat: SelfStat
    proc: str = "/proc"
    ended: Callable[[], Iterable[Container]] = tuple
    censuses: Callable[[], Iterable[Census]] = tuple
    veth_tag: bool = False
    filesystem_timeout: float = 1.0
    filesystem_fuse: bool = False
    layersize_interval: float = 900.0


class Entry(NamedTuple):
    """A collector: its class, how to make it, and whether it is on unless the configuration says otherwise."""

    kind: type[Collector]
    make: Callable[[Options], Collector]
    default: bool = True


COLLECTORS: tuple[Entry, ...] = (
    Entry(SocketsCollector, lambda options: SocketsCollector(options.proc)),
    Entry(CpuCollector, lambda options: CpuCollector(options.proc)),
    Entry(MemoryCollector, lambda options: MemoryCollector(options.proc)),
    Entry(NetworkCollector, lambda options: NetworkCollector(options.proc, veth_tag=options.veth_tag)),
    Entry(
        FilesystemCollector,
        lambda options: FilesystemCollector(
            options.proc, options.filesystem_timeout, fuse=options.filesystem_fuse
        ),
    ),
    Entry(DiskioCollector, lambda options: DiskioCollector(options.proc)),
    Entry(PressureCollector, lambda options: PressureCollector(options.proc)),
    Entry(PidsCollector, lambda _: PidsCollector()),
    Entry(ProcessesCollector, lambda options: ProcessesCollector(options.proc), default=False),
    Entry(
        LayersizeCollector,
        lambda options: LayersizeCollector(options.proc, options.layersize_interval),
        default=False,
    ),
    Entry(TcpextCollector, lambda _: TcpextCollector(), default=False),
    Entry(LifeCollector, lambda options: LifeCollector(options.ended, proc=options.proc)),
    Entry(EngineCollector, lambda options: EngineCollector(options.censuses), default=False),
    Entry(HostCollector, lambda options: HostCollector(options.proc), default=False),
    Entry(AgentCollector, lambda options: AgentCollector(options.stat)),
)
"""In the order they run; `agent` is last, so that it sees what the cycle cost, and is always on."""

NAMES = tuple(entry.kind.name for entry in COLLECTORS if entry.kind is not AgentCollector)
"""What `[collectors] enabled` may list."""
DEFAULTS = tuple(
    entry.kind.name for entry in COLLECTORS if entry.default and entry.kind is not AgentCollector
)
"""What it lists by itself."""


def make_collectors(enabled: Collection[str], options: Options) -> list[Collector]:
    """The enabled collectors, and `agent`."""
    return [
        entry.make(options)
        for entry in COLLECTORS
        if entry.kind.name in enabled or entry.kind is AgentCollector
    ]


def catalogue() -> Iterator[tuple[str, Metric]]:
    """Every metric with the name of its collector."""
    for entry in COLLECTORS:
        for metric in entry.kind.metrics:
            yield entry.kind.name, metric


def about(name: str) -> str:
    """What the collector of that name says of itself: what it measures, what that costs and needs."""
    import inspect  # noqa: PLC0415  for people only

    kind = next(entry.kind for entry in COLLECTORS if entry.kind.name == name)
    return (inspect.getdoc(kind) or "").partition("\n\nArgs:")[0]
