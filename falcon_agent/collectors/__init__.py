"""What is measured: one module per subject, listed in `COLLECTORS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from falcon_agent.collectors.agent import AgentCollector
from falcon_agent.collectors.cpu import CpuCollector
from falcon_agent.collectors.memory import MemoryCollector
from falcon_agent.collectors.network import NetworkCollector
from falcon_agent.collectors.sockets import SocketsCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from falcon_agent.collectors.base import Collector
    from falcon_agent.metric import Metric
    from falcon_agent.selfstat import SelfStat


@dataclass(frozen=True, slots=True)
class Options:
    """What the collectors can be told.

    Attributes:
        stat: the agent's own counters.
        proc: where the host's /proc is.
        veth_tag: whether network records carry the host side's interface name.
    """

    stat: SelfStat
    proc: str = "/proc"
    veth_tag: bool = False


COLLECTORS: tuple[tuple[type[Collector], Callable[[Options], Collector]], ...] = (
    (SocketsCollector, lambda options: SocketsCollector(options.proc)),
    (CpuCollector, lambda options: CpuCollector(options.proc)),
    (MemoryCollector, lambda options: MemoryCollector(options.proc)),
    (NetworkCollector, lambda options: NetworkCollector(options.proc, veth_tag=options.veth_tag)),
    (AgentCollector, lambda options: AgentCollector(options.stat)),
)
"""In the order they run; `agent` is last, so that it sees what the cycle cost, and is always on."""

NAMES = tuple(kind.name for kind, _ in COLLECTORS if kind is not AgentCollector)
"""What `[collectors] enabled` may list."""


def make_collectors(enabled: Collection[str], options: Options) -> list[Collector]:
    """The enabled collectors, and `agent`."""
    return [make(options) for kind, make in COLLECTORS if kind.name in enabled or kind is AgentCollector]


def catalogue() -> Iterator[tuple[str, Metric]]:
    """Every metric with the name of its collector."""
    for collector, _ in COLLECTORS:
        for metric in collector.metrics:
            yield collector.name, metric
