from __future__ import annotations

import json

from falcon_agent.metric import Record
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.outbox import Outbox
from falcon_agent.transfer.queue import MemoryQueue


def record(value: float, number: int = 0) -> Record:
    return Record("h", "m", value, 60, "GAUGE", f"n={number}", 1795161720)


def test_good_records_are_queued_in_batches_and_bad_ones_counted() -> None:
    stat = SelfStat()
    queue = MemoryQueue(10**6, stat)
    Outbox(queue, 2, stat).put([record(1), record(float("nan")), record(2), record(3)])
    assert queue.records == 3
    batch = queue.peek()
    assert batch is not None
    assert [item["value"] for item in json.loads(batch.body)] == [1, 2]
    assert stat.reasons("records.invalid") == {"value": 1}


def test_bodies_stay_below_a_megabyte() -> None:
    stat = SelfStat()
    queue = MemoryQueue(10**8, stat)
    Outbox(queue, 50_000, stat).put(record(1, number) for number in range(20_000))
    total = 0
    while (batch := queue.peek()) is not None:
        assert len(batch.body) < 1_000_000
        total += batch.count
        queue.ack(batch)
    assert total == 20_000
