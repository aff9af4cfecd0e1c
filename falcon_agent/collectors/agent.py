"""The agent about itself: that it lives, what a cycle cost, and what became of the records."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from falcon_agent.metric import Metric, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample
    from falcon_agent.selfstat import SelfStat

ALIVE = Metric(
    "agent.alive",
    "GAUGE",
    "1",
    "The agent runs. Its tag keeps the series apart from that of the standard agent on the same host.",
    "always 1",
    tags=("agent",),
)
_VALUES = (
    ("collect.duration", Metric(
        "falcon_agent.collect.duration", "GAUGE", "milliseconds",
        "Wall time that this cycle took to measure everything and to pack it.", "end - start of the cycle",
    )),
    ("containers", Metric(
        "falcon_agent.containers", "GAUGE", "containers",
        "Containers that are measured.", "what discovery knows, less what is left out",
    )),
    ("runtime.up", Metric(
        "falcon_agent.runtime.up", "GAUGE", "1",
        "1 while every container runtime in use answers, else 0; what is known is measured all the same.",
        "1 if the last request to each runtime succeeded",
    )),
    ("push.latency", Metric(
        "falcon_agent.push.latency", "GAUGE", "milliseconds",
        "How long the last accepted push took.", "reply - request",
    )),
    ("queue.records", Metric(
        "falcon_agent.queue.records", "GAUGE", "records",
        "Records of earlier cycles that no transfer has accepted yet.", "records in the queue",
    )),
    ("spool.memory", Metric(
        "falcon_agent.spool.memory", "GAUGE", "records",
        "Records that wait in memory only, because the spool's disk does not take them.", "records not written",
    )),
    ("queue.bytes", Metric(
        "falcon_agent.queue.bytes", "GAUGE", "bytes",
        "Size of those records.", "bytes in the queue",
    )),
)  # fmt: skip
_COUNTS = (
    ("push.ok", "", Metric(
        "falcon_agent.push.ok", "COUNTER", "pushes",
        "Pushes that a transfer accepted.", "counted since the start",
    )),
    ("push.failed", "reason", Metric(
        "falcon_agent.push.failed", "COUNTER", "pushes",
        "Pushes that failed and were, or will be, tried again.", "counted since the start", tags=("reason",),
    )),
    ("records.sent", "", Metric(
        "falcon_agent.records.sent", "COUNTER", "records",
        "Records that a transfer accepted.", "counted since the start",
    )),
    ("records.invalid", "reason", Metric(
        "falcon_agent.records.invalid", "COUNTER", "records",
        "Records refused because Open-Falcon could not store them.", "counted since the start",
        tags=("reason",),
    )),
    ("records.lost", "reason", Metric(
        "falcon_agent.records.lost", "COUNTER", "records",
        "Good records that were given up before a transfer accepted them.", "counted since the start",
        tags=("reason",),
    )),
    ("spool.damaged", "", Metric(
        "falcon_agent.spool.damaged", "COUNTER", "databases",
        "Spools that were damaged and moved aside.", "counted since the start",
    )),
    ("heartbeat.failed", "reason", Metric(
        "falcon_agent.heartbeat.failed", "COUNTER", "heartbeats",
        "Reports to hbs that failed.", "counted since the start", tags=("reason",),
    )),
    ("collect.failed", "collector", Metric(
        "falcon_agent.collect.failed", "COUNTER", "failures",
        "Measurements that failed; the others of the cycle went on.", "counted since the start",
        tags=("collector",),
    )),
    ("collect.skipped", "", Metric(
        "falcon_agent.collect.skipped", "COUNTER", "cycles",
        "Cycles that did not happen because the one before was still running or the host slept.",
        "counted since the start",
    )),
)  # fmt: skip
_LABELLED = (
    ("target.records", "target", Metric(
        "falcon_agent.target.records", "GAUGE", "records",
        "Records that wait for one target.", "records in the spool behind the target's cursor", tags=("target",),
    )),
    ("clock.ahead", "target", Metric(
        "falcon_agent.clock.ahead", "GAUGE", "seconds",
        "By how much records that are held back lie in the future of the target's clock; 0 if none is held back.",
        "timestamp - time of the target, as its replies tell it", tags=("target",),
    )),
)  # fmt: skip
COLLECTOR_CPU = Metric(
    "falcon_agent.collect.cpu",
    "GAUGE",
    "milliseconds",
    "CPU time that one collector used in this cycle.",
    "CPU time of the collecting thread",
    tags=("collector",),
)
RSS = Metric(
    "falcon_agent.mem.rss",
    "GAUGE",
    "bytes",
    "Memory that the agent holds.",
    "resident pages x page size",
    (Source("self/statm"),),
)
CPU = Metric(
    "falcon_agent.cpu.time",
    "COUNTER",
    "milliseconds",
    "CPU time that the agent used; the rate is milliseconds per second.",
    "user + system time of the process",
)

_PAGE = os.sysconf("SC_PAGESIZE")


class AgentCollector:
    """Reports `SelfStat` and the agent's own cost; one without any sample yet is absent."""

    name = "agent"
    scope: Scope = "host"
    metrics: tuple[Metric, ...] = (
        ALIVE,
        *(metric for _, metric in _VALUES),
        *(metric for _, _, metric in _COUNTS),
        *(metric for _, _, metric in _LABELLED),
        COLLECTOR_CPU,
        RSS,
        CPU,
    )

    def __init__(self, stat: SelfStat) -> None:
        self._stat = stat

    def begin(self, targets: Sequence[Target]) -> None:
        """Nothing is shared."""

    def collect(self, target: Target | None) -> Iterator[Sample]:
        """What is known now; a counter is there from the start, by reason from its first count."""
        yield ALIVE, 1, (("agent", "falcon-agent"),)
        for name, metric in _VALUES:
            value = self._stat.value(name)
            if value is not None:
                yield metric, round(value, 3), ()
        for name, tag, metric in _COUNTS:
            yield metric, self._stat.total(name), ()
            if tag:
                for reason, count in sorted(self._stat.reasons(name).items()):
                    yield metric, count, ((tag, reason),)
        for collector, milliseconds in sorted(self._stat.labelled("collect.cpu").items()):
            if collector != self.name:
                yield COLLECTOR_CPU, round(milliseconds, 3), (("collector", collector),)
        for name, tag, metric in _LABELLED:
            for label, value in sorted(self._stat.labelled(name).items()):
                yield metric, round(value, 3), ((tag, label),)
        yield RSS, _resident_bytes(), ()
        yield CPU, int(time.process_time() * 1000), ()

    def forget(self, target: Target) -> None:
        """Nothing is kept."""

    def absent(self, metric: Metric, target: Target) -> str | None:
        """The only reason there is."""
        return "it did not happen yet"


def _resident_bytes() -> int:
    """Field 2 of /proc/self/statm (proc(5)): always this process, wherever the host's /proc is."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE
