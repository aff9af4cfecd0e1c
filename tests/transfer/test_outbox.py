from __future__ import annotations

import json
from typing import TYPE_CHECKING

from falcon_agent.metric import Metric, Subject
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.outbox import Outbox
from tests.transfer.spooling import NOW, spool

if TYPE_CHECKING:
    from pathlib import Path

AT = NOW // 60 * 60
M = Metric("m", "GAUGE", "1", "", "")


def subject(number: int = 0) -> Subject:
    return Subject("h", f"n={number}")


def test_good_samples_are_queued_in_batches_and_bad_ones_counted(tmp_path: Path) -> None:
    stat = SelfStat()
    with spool(tmp_path) as made:
        Outbox(made, 2, stat).put([(subject(), (M,) * 4, (1, float("nan"), 2, 3))], 60, AT)
        queue = made.queue("default")
        assert queue.records == 3
        batch = queue.peek()
        assert batch is not None
        assert [item["value"] for item in json.loads(batch.body)] == [1, 2]
        assert batch.timestamp == AT
    assert stat.reasons("records.invalid") == {"value": 1}


def test_bodies_stay_below_a_megabyte(tmp_path: Path) -> None:
    with spool(tmp_path) as made:
        reports = [(subject(number), (M,), (1,)) for number in range(20_000)]
        Outbox(made, 50_000, SelfStat()).put(reports, 60, AT)
        queue = made.queue("default")
        total = 0
        while (batch := queue.peek()) is not None:
            assert len(batch.body) < 1_000_000
            total += batch.count
            queue.ack(batch)
    assert total == 20_000
