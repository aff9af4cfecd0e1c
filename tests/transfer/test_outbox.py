from __future__ import annotations

import json

from falcon_agent.metric import Metric, Subject
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.outbox import Outbox
from falcon_agent.transfer.queue import MemoryQueue

NOW = 1795161720
M = Metric("m", "GAUGE", "1", "", "")


def subject(number: int = 0) -> Subject:
    return Subject("h", f"n={number}")


def test_good_samples_are_queued_in_batches_and_bad_ones_counted() -> None:
    stat = SelfStat()
    queue = MemoryQueue(10**6, stat)
    samples = [(M, value, ()) for value in (1, float("nan"), 2, 3)]
    Outbox(queue, 2, stat).put([(subject(), samples)], 60, NOW)
    assert queue.records == 3
    batch = queue.peek()
    assert batch is not None
    assert [item["value"] for item in json.loads(batch.body)] == [1, 2]
    assert batch.timestamp == NOW
    assert stat.reasons("records.invalid") == {"value": 1}


def test_bodies_stay_below_a_megabyte() -> None:
    stat = SelfStat()
    queue = MemoryQueue(10**8, stat)
    Outbox(queue, 50_000, stat).put([(subject(number), [(M, 1, ())]) for number in range(20_000)], 60, NOW)
    total = 0
    while (batch := queue.peek()) is not None:
        assert len(batch.body) < 1_000_000
        total += batch.count
        queue.ack(batch)
    assert total == 20_000
