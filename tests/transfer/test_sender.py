from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.metric import Record
from falcon_agent.transfer.batches import make_batches
from falcon_agent.transfer.delivery import Delivery
from falcon_agent.transfer.failure import Rejected, Unreachable
from falcon_agent.transfer.queue import MemoryQueue
from falcon_agent.transfer.sender import Sender
from tests.transfer.bed import Bed, records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.batches import Batch

DOWN = Unreachable("cannot push to http://h/: connection refused; is a transfer running there?", "refused")


def test_the_oldest_goes_first_and_timestamps_keep_their_distance() -> None:
    bed = Bed()
    bed.put(60, 120, 180)
    bed.turn(3)
    assert [timestamp for _, timestamp in bed.pushed] == [60, 120, 180]
    # From the end of one push to the beginning of the next.
    assert bed.slept == [1.0, 1.0]
    assert bed.queue.records == 0


def test_batches_of_one_timestamp_follow_without_pause() -> None:
    bed = Bed()
    bed.queue.put(make_batches(records(60, 10), 2, 10**6))
    bed.turn(5)
    assert len(bed.pushed) == 5
    assert bed.slept == []


def test_no_pause_where_time_has_passed_anyway() -> None:
    bed = Bed()
    bed.put(60)
    bed.turn()
    bed.now += 59
    bed.put(120)
    bed.turn()
    assert bed.slept == []


def test_what_fails_stays_the_oldest_and_is_tried_again() -> None:
    bed = Bed()
    bed.put(60, 120)
    bed.outcomes = [DOWN, DOWN, None]
    bed.turn(3)
    assert [timestamp for _, timestamp in bed.pushed] == [60, 60, 60]
    assert bed.queue.records == 2
    assert bed.stat.reasons("push.failed") == {"refused": 2}
    assert bed.stat.total("push.ok") == 1
    assert bed.stat.total("records.sent") == 2
    assert bed.stat.total("records.lost") == 0


def test_what_failed_may_be_dropped_for_something_newer() -> None:
    bed = Bed()
    bed.queue = MemoryQueue(350, bed.stat)
    bed.sender = Sender(bed, bed.queue, bed.stat, clock=lambda: bed.now, sleep=bed.sleep)
    bed.put(60)
    bed.outcomes = [DOWN]
    bed.turn()
    bed.put(120, 180)
    bed.turn()
    assert [timestamp for _, timestamp in bed.pushed] == [60, 180]
    assert bed.stat.reasons("records.lost") == {"queue_full": 4}


def test_the_wait_grows_to_its_bound_with_full_jitter() -> None:
    bed = Bed()
    bed.put(60)
    bed.outcomes = [DOWN] * 40
    bed.turn(40)
    bounds = [min(60.0, 2.0**attempt) for attempt in range(40)]
    assert all(0 <= slept <= bound for slept, bound in zip(bed.slept, bounds, strict=True))
    assert any(slept > 30 for slept in bed.slept[6:])
    assert any(slept < 30 for slept in bed.slept[6:])


def test_the_wait_begins_anew_after_success() -> None:
    bed = Bed()
    bed.put(60, 120)
    bed.outcomes = [*[DOWN] * 10, None, DOWN]
    bed.turn(12)
    assert bed.slept[-1] <= 1.0


def test_retry_after_is_honoured() -> None:
    bed = Bed()
    bed.put(60)
    bed.outcomes = [Unreachable("cannot", "http_429", retry_after=120.0)]
    bed.turn()
    assert 120.0 <= bed.slept[0] <= 121.0


@pytest.mark.parametrize("status", [401, 403, 404, 405, 407])
def test_a_wrong_address_loses_nothing(status: int) -> None:
    bed = Bed()
    bed.put(60)
    bed.outcomes = [Rejected("http://h/", status, "")] * 3
    bed.turn(4)
    assert bed.stat.reasons("push.failed") == {f"http_{status}": 3}
    assert bed.stat.total("records.invalid") == 0
    assert (bed.stat.total("records.sent"), bed.queue.records) == (2, 0)


def test_invalid_records_are_counted_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bed = Bed()
    for timestamp in (60, 120, 180):
        bad = Record("h", "bad", 5, 60, "GAUGE", "poison=1", timestamp)
        bed.queue.put(make_batches([*records(timestamp, 20), bad], 1000, 10**6))
    with caplog.at_level(logging.WARNING):
        bed.turn(3)
    assert bed.stat.reasons("records.invalid") == {"transfer": 3}
    assert bed.stat.total("records.sent") == 60
    assert len(caplog.records) == 1
    assert '"metric":"bad","value":5' in caplog.text


def test_the_memory_of_what_was_named_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    bed = Bed()
    bed.queue.put(make_batches(records(60, 1500, "poison=1"), 2000, 10**6))
    with caplog.at_level(logging.WARNING):
        bed.turn()
    assert len(caplog.records) == len(bed.sender._logged) == 1000
    assert bed.stat.total("records.invalid") == 1500


def test_the_log_is_not_flooded(caplog: pytest.LogCaptureFixture) -> None:
    bed = Bed()
    bed.put(60)
    bed.outcomes = [DOWN] * 41
    with caplog.at_level(logging.INFO):
        bed.turn(42)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3 + ["INFO"]
    assert "takes records again, after 41 failed attempts" in caplog.text


def test_self_statistics() -> None:
    bed = Bed()
    bed.put(60)
    assert bed.stat.value("queue.records") == 2
    bed.turn()
    assert bed.stat.value("push.latency") == 250.0
    assert bed.stat.value("queue.records") == bed.stat.value("queue.bytes") == 0


def test_a_mistake_of_its_own_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    bed = Bed()
    bed.put(60)
    bed.outcomes = [KeyError("oops")]
    bed.turn(2)
    assert "cannot deliver a batch" in caplog.text
    assert bed.stat.reasons("push.failed") == {"internal": 1}
    assert bed.stat.total("records.sent") == 2


def test_pushing_once_says_what_became_of_it() -> None:
    bed = Bed()
    bed.put(60, 120)
    summary = bed.sender.send_once()
    assert summary
    assert (summary.sent, summary.invalid, summary.left, len(summary.replies)) == (4, 0, 0, 2)
    assert str(summary) == "4 records accepted by http://h/ in 500 ms; it said 'ok'"


def test_pushing_once_names_the_bad_and_the_undelivered() -> None:
    bed = Bed()
    bed.queue.put(make_batches([*records(60, 3), *records(60, 1, "poison=1")], 1000, 10**6))
    assert not (bad := bed.sender.send_once())
    assert "3 records accepted" in str(bad)
    assert "1 refused as invalid" in str(bad)
    bed.put(120, 180)
    bed.outcomes = [None, DOWN]
    assert not (failed := bed.sender.send_once())
    assert (failed.sent, failed.left, failed.error) == (2, 2, DOWN)
    assert "2 not delivered; cannot push to http://h/: connection refused" in str(failed)


class Grave(MemoryQueue):
    """Remembers what was buried, and what waited at that moment."""

    def __init__(self, stat: SelfStat) -> None:
        super().__init__(10**7, stat)
        self.buried: list[tuple[list[str], str]] = []
        self.waiting: list[int] = []

    def bury(self, items: Sequence[Any], reason: str) -> None:
        self.buried.append(([item["metric"] for item in items], reason))
        self.waiting.append(self.records)


def test_refused_records_are_buried_before_the_batch_is_forgotten() -> None:
    bed = Bed()
    grave = bed.queue = Grave(bed.stat)
    bed.successor()
    mixed = records(60, 8)
    mixed[2].tags = mixed[5].tags = "poison=400"
    mixed[7].tags = "poison=1"
    grave.put(make_batches(mixed, 1000, 10**6))
    bed.turn()
    assert sorted(grave.buried) == [
        (["m2", "m5"], "it answered 400 'decode error'"),
        (["m7"], "it counted it as invalid"),
    ]
    assert grave.waiting == [8, 8]
    assert grave.records == 0
    assert bed.stat.reasons("records.invalid") == {"transfer": 3}


def test_a_record_that_was_named_before_is_buried_all_the_same() -> None:
    bed = Bed()
    grave = bed.queue = Grave(bed.stat)
    bed.successor()
    for timestamp in (60, 120):
        grave.put(make_batches(records(timestamp, 1, "poison=1"), 1000, 10**6))
    bed.turn(2)
    assert len(grave.buried) == 2


def test_what_an_ended_search_leaves_is_buried() -> None:
    bed = Bed()
    grave = bed.queue = Grave(bed.stat)
    bed.successor()
    grave.put(make_batches(records(60, 300, "poison=400"), 1000, 10**6))
    bed.turn()
    assert sum(len(metrics) for metrics, _ in grave.buried) == 300
    assert {reason for _, reason in grave.buried} == {
        "it answered 400 'decode error'",
        "not delivered: too many records of its batch are refused",
    }


def test_a_split_that_was_interrupted_goes_on_in_the_successor() -> None:
    bed = Bed()
    mixed = records(60, 8)
    mixed[6].tags = "poison=400"
    bed.queue.put(make_batches(mixed, 1000, 10**6))
    bed.outcomes = [None, None, DOWN]
    bed.turn()
    assert bed.accepted == ["m0", "m1", "m2", "m3"]
    unfinished = bed.sender.pause()
    assert bed.closed
    bed.successor(resume=unfinished)
    bed.turn()
    assert bed.accepted == ["m0", "m1", "m2", "m3", "m4", "m5", "m7"]
    assert bed.stat.total("records.sent") == 7
    assert bed.stat.reasons("records.invalid") == {"transfer": 1}
    assert bed.queue.records == 0


def test_a_store_that_lends_copies_does_not_begin_a_split_again() -> None:
    class Copying(MemoryQueue):
        def peek(self) -> Batch | None:
            batch = super().peek()
            if batch is not None:
                self._lent = self._batches[0] = replace(batch)
            return self._lent

    bed = Bed()
    bed.queue = Copying(10**7, bed.stat)
    bed.successor()
    mixed = records(60, 8)
    mixed[6].tags = "poison=400"
    bed.queue.put(make_batches(mixed, 1000, 10**6))
    bed.outcomes = [None, None, DOWN]
    bed.turn(2)
    assert bed.accepted == ["m0", "m1", "m2", "m3", "m4", "m5", "m7"]
    assert bed.stat.total("records.sent") == 7
    assert bed.queue.records == 0


def test_what_is_left_of_another_batch_is_not_resumed() -> None:
    bed = Bed()
    bed.put(120)
    bed.successor(resume=Delivery(make_batches(records(60), 1000, 10**6)[0]))
    bed.turn()
    assert [timestamp for _, timestamp in bed.pushed] == [120]
    assert bed.stat.total("records.sent") == 2


def test_a_target_is_named(caplog: pytest.LogCaptureFixture) -> None:
    bed = Bed()
    bed.successor(target="n9e")
    bed.put(60)
    bed.outcomes = [DOWN]
    bed.turn()
    assert caplog.messages[0].startswith("n9e: cannot push to http://h/")
    assert bed.stat.labelled("target.records") == {"n9e": 2}
    bed.turn()
    assert bed.stat.labelled("target.records") == {"n9e": 0}


def delivered(bed: Bed) -> list[float]:
    """Deliver by the sender's own thread; how long it slept for that."""
    bed.put(60)
    bed.sender.start()
    while bed.queue.records:
        pass
    bed.sender.pause()
    return bed.slept


def test_after_a_restart_the_pace_is_kept_too() -> None:
    assert delivered(Bed()) == [1.0]


def test_the_pace_after_a_restart_counts_from_when_the_predecessor_was_over() -> None:
    bed = Bed()
    bed.now += 0.75
    assert delivered(bed) == [0.25]


def test_the_first_agent_of_a_spool_has_no_pace_to_keep() -> None:
    bed = Bed()
    bed.successor(succeeds=False)
    assert delivered(bed) == []
