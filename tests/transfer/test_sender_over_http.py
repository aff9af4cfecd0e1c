from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from falcon_agent.metric import Record
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.batches import make_batches
from falcon_agent.transfer.httpclient import HttpClient
from falcon_agent.transfer.queue import MemoryQueue
from falcon_agent.transfer.sender import Sender
from tests.transfer.double import Double, accept_then, answer, hang, reset
from tests.transfer.pushing import has_thread, until

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST = 1795161720


def records(timestamp: int, count: int = 2, tags: str = "") -> list[Record]:
    return [Record("h", f"m{number}", 1, 60, "GAUGE", tags, timestamp) for number in range(count)]


@contextmanager
def sending(
    double: Double, timeout: float = 10.0, pace: float = 0.0
) -> Iterator[tuple[Sender, MemoryQueue, SelfStat]]:
    stat = SelfStat()
    queue = MemoryQueue(10**7, stat)
    with closing(HttpClient(double.address, timeout)) as client:
        sender = Sender(client, queue, stat, backoff=(0.01, 0.02), pace=pace)
        sender.start()
        try:
            yield sender, queue, stat
        finally:
            sender.stop(0.0)


def test_faults_of_every_kind_delay_and_lose_nothing(double: Double) -> None:
    double.faults += [
        reset(),
        answer("500 Broken"),
        answer("429 Slow", Retry_After="0"),
        answer("200 OK", b"garbage"),
        answer("404 Not Found"),
        answer("302 Found", Location="http://h/"),
    ]
    with sending(double) as (_, queue, stat):
        for step in range(5):
            queue.put(make_batches(records(FIRST + 60 * step, 100), 40, 10**6))
        until(lambda: queue.records == 0)
    assert [item["timestamp"] for item in double.accepted] == [
        FIRST + 60 * step for step in range(5) for _ in range(100)
    ]
    assert stat.total("records.sent") == 500
    assert set(stat.reasons("push.failed")) == {
        "closed", "http_500", "http_429", "garbage", "http_404", "redirect",
    }  # fmt: skip
    assert stat.total("records.lost") == stat.total("records.invalid") == 0


def test_a_transfer_that_hangs_delays_and_loses_nothing(double: Double) -> None:
    double.faults += [None, hang(b"HTTP/1.1 200")]
    with sending(double, timeout=1.0) as (_, queue, stat):
        queue.put(make_batches(records(FIRST, 100), 40, 10**6))
        until(lambda: queue.records == 0)
    assert stat.total("records.sent") == 100
    # An answer that comes too late, for which a busy machine is enough, costs duplicates.
    names = [item["metric"] for item in double.accepted]
    assert list(dict.fromkeys(names)) == [f"m{number}" for number in range(100)]
    assert set(stat.reasons("push.failed")) == {"timeout"}
    assert stat.total("records.lost") == stat.total("records.invalid") == 0


def test_an_answer_lost_after_acceptance_costs_a_duplicate_and_no_record(double: Double) -> None:
    double.faults += [None, accept_then(reset())]
    with sending(double) as (_, queue, stat):
        queue.put(make_batches(records(FIRST), 10, 10**6))
        until(lambda: queue.records == 0)
    assert len(double.accepted) == 4
    assert stat.total("records.sent") == 2


@pytest.mark.parametrize("poison", ["poison=400", "poison=invalid"])
def test_poison_among_a_thousand_is_isolated(
    double: Double, poison: str, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = records(FIRST, 1000)
    for number in (0, 123, 999):
        mixed[number].tags = poison
    with sending(double) as (_, queue, stat):
        queue.put(make_batches(mixed, 1000, 10**6))
        queue.put(make_batches(records(FIRST + 60, 10), 1000, 10**6))
        until(lambda: queue.records == 0)
    assert stat.reasons("records.invalid") == {"transfer": 3}
    assert stat.total("records.sent") == 997 + 10
    assert {item["metric"] for item in double.accepted} == {f"m{number}" for number in range(1000)} - {
        "m123",
        "m999",
    }
    named = [record.message for record in caplog.records if "refuses" in record.message]
    assert len(named) == 3
    assert all(poison in message for message in named)


def test_stopping_delivers_what_waits(double: Double) -> None:
    with sending(double) as (sender, queue, stat):
        for step in range(10):
            queue.put(make_batches(records(FIRST + 60 * step, 10), 10, 10**6))
        assert sender.stop(30.0) == 0
    assert len(double.accepted) == stat.total("records.sent") == 100
    assert stat.total("records.lost") == 0


def test_stopping_while_waiting_for_an_empty_queue(double: Double) -> None:
    with sending(double) as (sender, _, _):
        assert sender.stop(30.0) == 0
    until(lambda: not has_thread("sender"))


def test_stopping_with_a_dead_transfer_loses_and_says_so(double: Double) -> None:
    double.default = reset()
    with sending(double) as (sender, queue, stat):
        queue.put(make_batches(records(FIRST, 10), 10, 10**6))
        assert sender.stop(0.2) == 10
    assert stat.reasons("records.lost") == {"stopped": 10}
    until(lambda: not has_thread("sender"))


def test_stopping_cuts_off_a_push_that_hangs(double: Double) -> None:
    double.default = hang()
    with sending(double, timeout=600.0) as (sender, queue, stat):
        queue.put(make_batches(records(FIRST, 10), 10, 10**6))
        until(lambda: double.requests == 1)
        assert sender.stop(0.1) == 10
    assert stat.reasons("records.lost") == {"stopped": 10}
    until(lambda: not has_thread("sender"))


def test_stopping_ends_a_long_wait_and_tries_once_more(double: Double) -> None:
    double.faults += [None, answer("503 Busy", Retry_After="600")]
    with sending(double) as (sender, queue, stat):
        queue.put(make_batches(records(FIRST, 10), 10, 10**6))
        until(lambda: stat.total("push.failed") == 1)
        assert sender.stop(30.0) == 0
    assert len(double.accepted) == 10


def test_a_paused_sender_leaves_the_queue_to_the_next(double: Double) -> None:
    double.default = answer("500 Broken")
    with sending(double) as (sender, queue, stat):
        queue.put(make_batches(records(FIRST, 10), 10, 10**6))
        until(lambda: stat.total("push.failed") > 0)
        sender.pause()
        until(lambda: not has_thread("sender"))
        assert queue.records == 10
        double.default = None
        with closing(HttpClient(double.address, 10.0)) as client:
            successor = Sender(client, queue, stat, backoff=(0.01, 0.02))
            successor.start()
            until(lambda: queue.records == 0)
            assert successor.stop(30.0) == 0
    assert len(double.accepted) == 10
    assert stat.total("records.lost") == 0


def test_a_full_queue_loses_the_oldest_and_counts_them(double: Double) -> None:
    double.default = answer("500 Broken")
    stat = SelfStat()
    queue = MemoryQueue(3000, stat)
    with closing(HttpClient(double.address, 10.0)) as client:
        sender = Sender(client, queue, stat, backoff=(0.01, 0.02), pace=0.0)
        sender.start()
        for step in range(50):
            queue.put(make_batches(records(FIRST + 60 * step, 5), 10, 10**6))
            until(lambda: queue.size <= 3000)
        double.default = None
        assert sender.stop(30.0) == 0
    lost = stat.reasons("records.lost")["queue_full"]
    assert stat.total("records.sent") + lost == 250
    timestamps = [item["timestamp"] for item in double.accepted]
    assert timestamps == sorted(timestamps)
    assert timestamps[-1] == FIRST + 60 * 49
