from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.batches import make_batches
from falcon_agent.transfer.queue import MemoryQueue
from falcon_agent.transfer.sender import Sender
from falcon_agent.transfer.transport import make_transport
from tests.transfer import rpcdouble
from tests.transfer.bed import records
from tests.transfer.double import Double, reset
from tests.transfer.pushing import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.transfer.rpcdouble import RpcDouble

FIRST = 1795161720


@contextmanager
def sending(*addresses: str, timeout: float = 10.0) -> Iterator[tuple[MemoryQueue, SelfStat]]:
    stat = SelfStat()
    queue = MemoryQueue(10**7, stat)
    with closing(make_transport(addresses, timeout)) as transport:
        sender = Sender(transport, queue, stat, backoff=(0.01, 0.02), pace=0.0)
        sender.start()
        try:
            yield queue, stat
        finally:
            sender.stop(0.0)


def test_faults_of_every_kind_delay_and_lose_nothing(rpc: RpcDouble) -> None:
    rpc.faults += [
        rpcdouble.close,
        rpcdouble.reset,
        rpcdouble.say(b"garbage"),
        rpcdouble.answer({"code": 0}),
        rpcdouble.answer(None, "rpc: can't find service Transfer.Update"),
        rpcdouble.foreign_first(1, -1),
        rpcdouble.byte_by_byte,
    ]
    with sending(rpc.address) as (queue, stat):
        for step in range(5):
            queue.put(make_batches(records(FIRST + 60 * step, 100), 40, 10**6))
        until(lambda: queue.records == 0)
    assert [item["timestamp"] for item in rpc.accepted] == [
        FIRST + 60 * step for step in range(5) for _ in range(100)
    ]
    assert stat.total("records.sent") == 500
    assert set(stat.reasons("push.failed")) == {"closed", "garbage", "rpc_error"}
    assert stat.total("records.lost") == stat.total("records.invalid") == 0


def test_a_transfer_that_hangs_delays_and_loses_nothing(rpc: RpcDouble) -> None:
    rpc.faults += [None, rpcdouble.hang]
    with sending(rpc.address, timeout=1.0) as (queue, stat):
        queue.put(make_batches(records(FIRST, 100), 40, 10**6))
        until(lambda: queue.records == 0)
    assert stat.total("records.sent") == 100
    # An answer that comes too late, for which a busy machine is enough, costs duplicates.
    names = [item["metric"] for item in rpc.accepted]
    assert list(dict.fromkeys(names)) == [f"m{number}" for number in range(100)]
    assert set(stat.reasons("push.failed")) == {"timeout"}
    assert stat.total("records.lost") == stat.total("records.invalid") == 0


@pytest.mark.parametrize("poison", ["poison=400", "poison=invalid"])
def test_poison_among_a_thousand_is_isolated(rpc: RpcDouble, poison: str) -> None:
    mixed = records(FIRST, 1000)
    for number in (0, 123, 999):
        mixed[number].tags = poison
    with sending(rpc.address) as (queue, stat):
        queue.put(make_batches(mixed, 1000, 10**6))
        queue.put(make_batches(records(FIRST + 60, 10), 1000, 10**6))
        until(lambda: queue.records == 0)
    assert stat.reasons("records.invalid") == {"transfer": 3}
    assert stat.total("records.sent") == 997 + 10
    assert rpc.connections == 1


def test_an_answer_lost_after_acceptance_costs_a_duplicate_and_no_record(rpc: RpcDouble) -> None:
    rpc.faults += [None, rpcdouble.accept_then_close]
    with sending(rpc.address) as (queue, stat):
        queue.put(make_batches(records(FIRST), 10, 10**6))
        until(lambda: queue.records == 0)
    assert len(rpc.accepted) == 4
    assert stat.total("records.sent") == 2


def test_two_doors_that_fail_by_turns(double: Double, rpc: RpcDouble) -> None:
    with sending(double.address, rpc.address) as (queue, stat):
        for step in range(20):
            double.default, rpc.default = (reset(), None) if step % 2 else (None, rpcdouble.close)
            queue.put(make_batches(records(FIRST + 60 * step), 10, 10**6))
            until(lambda: queue.records == 0)
    assert len(double.accepted) == len(rpc.accepted) == 20
    assert stat.total("records.sent") == 40
