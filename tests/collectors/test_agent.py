"""What the agent reports about itself."""

from __future__ import annotations

import os

import pytest

from falcon_agent.collectors.agent import AgentCollector
from falcon_agent.selfstat import SelfStat
from tests.real.oracle import at_rest


def collected(stat: SelfStat) -> dict[tuple[str, str], float]:
    collector = AgentCollector(stat)
    collector.begin([])
    return {
        (metric.name, ",".join("=".join(tag) for tag in tags)): value
        for metric, value, tags in collector.collect(None)
    }


def test_counters_are_there_from_the_start_and_readings_only_once_known() -> None:
    found = collected(SelfStat())
    assert found["agent.alive", "agent=falcon-agent"] == 1
    assert found["falcon_agent.records.lost", ""] == 0
    assert ("falcon_agent.push.latency", "") not in found
    assert ("falcon_agent.containers", "") not in found


def test_counts_come_in_total_and_by_reason() -> None:
    stat = SelfStat()
    stat.count("records.lost", "queue_full", 3)
    stat.count("records.lost", "stopped", 2)
    stat.set("push.latency", 1.23456)
    stat.set("collect.cpu", 4.5, "sockets")
    found = collected(stat)
    assert found["falcon_agent.records.lost", ""] == 5
    assert found["falcon_agent.records.lost", "reason=queue_full"] == 3
    assert found["falcon_agent.push.latency", ""] == 1.235
    assert found["falcon_agent.collect.cpu", "collector=sockets"] == 4.5


def test_its_own_memory_is_what_the_kernel_says() -> None:
    def kilobytes() -> int:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

    told, found = at_rest(kilobytes, lambda: collected(SelfStat()))
    assert found["falcon_agent.mem.rss", ""] == pytest.approx(told * 1024, rel=0.05)
    assert os.sysconf("SC_PAGESIZE") > 0
