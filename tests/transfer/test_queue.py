from __future__ import annotations

import threading

from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.batches import Batch
from falcon_agent.transfer.queue import MemoryQueue, Spool


def batch(timestamp: int, size: int = 10, count: int = 1) -> Batch:
    return Batch(b"x" * size, count, timestamp)


def test_it_is_a_spool() -> None:
    spool: Spool = MemoryQueue(100, SelfStat())
    assert spool.peek() is None


def test_batches_leave_in_order_and_only_when_acknowledged() -> None:
    queue = MemoryQueue(100, SelfStat())
    one, two = batch(1), batch(2)
    queue.put([one, two])
    assert queue.peek() is one
    assert queue.peek() is one
    queue.ack(one)
    assert queue.peek() is two
    assert (queue.records, queue.size) == (1, 10)


def test_only_the_lent_batch_can_be_acknowledged() -> None:
    queue = MemoryQueue(100, SelfStat())
    one, two = batch(1), batch(2)
    queue.put([one, two])
    queue.ack(one)
    queue.peek()
    queue.ack(two)
    assert queue.records == 2


def test_the_oldest_go_first_when_it_is_full_and_are_counted() -> None:
    stat = SelfStat()
    queue = MemoryQueue(30, stat)
    batches = [batch(number, count=number) for number in (1, 2, 3, 4, 5)]
    queue.put(batches)
    assert queue.peek() is batches[2]
    assert stat.reasons("records.lost") == {"queue_full": 1 + 2}
    assert stat.value("queue.records") == queue.records == 3 + 4 + 5
    assert stat.value("queue.bytes") == queue.size == 30


def test_the_lent_batch_is_not_dropped_until_it_is_released() -> None:
    stat = SelfStat()
    queue = MemoryQueue(20, stat)
    first = batch(1)
    queue.put([first, batch(2)])
    assert queue.peek() is first
    queue.put([batch(3)])
    assert queue.peek() is first
    queue.release(first)
    queue.put([batch(4)])
    lent = queue.peek()
    assert lent is not None
    assert lent.timestamp == 3
    assert stat.total("records.lost") == 2


def test_it_never_holds_more_than_its_bytes() -> None:
    stat = SelfStat()
    queue = MemoryQueue(20, stat)
    queue.put([batch(1, size=50, count=7)])
    assert (queue.records, queue.size) == (0, 0)
    assert stat.total("records.lost") == 7


def test_what_waits_when_it_is_closed_is_lost_and_counted() -> None:
    stat = SelfStat()
    queue = MemoryQueue(100, stat)
    queue.put([batch(1, count=3), batch(2, count=4)])
    assert queue.close() == 7
    assert stat.reasons("records.lost") == {"stopped": 7}
    assert queue.close() == 0
    assert stat.value("queue.records") == 0


def test_nothing_is_counted_lost_when_nothing_waits() -> None:
    stat = SelfStat()
    assert MemoryQueue(100, stat).close() == 0
    assert stat.reasons("records.lost") == {}


def test_waiting_ends_with_a_batch() -> None:
    queue = MemoryQueue(100, SelfStat())
    got: list[bool] = []
    waiter = threading.Thread(target=lambda: got.append(queue.wait(30)))
    waiter.start()
    queue.put([batch(1)])
    waiter.join(30)
    assert got == [True]


def test_waiting_ends_when_woken_even_before_it_began() -> None:
    queue = MemoryQueue(100, SelfStat())
    queue.wake()
    assert queue.wait(30) is False
    assert queue.wait(0.001) is False


def test_refused_records_are_not_kept_in_memory() -> None:
    queue = MemoryQueue(100, SelfStat())
    queue.bury([{"metric": "m"}], "refused")
    assert (queue.records, queue.peek()) == (0, None)
