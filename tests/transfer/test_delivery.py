from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.metric import Record
from falcon_agent.transfer.batches import Batch, make_batches
from falcon_agent.transfer.delivery import MAX_EXTRA_POSTS, Delivery
from falcon_agent.transfer.failure import Rejected, Unreachable
from falcon_agent.transfer.reply import Reply


def batch_of(count: int) -> Batch:
    records = [Record("h", "m", number, 60, "GAUGE", "", 1795161720) for number in range(count)]
    return make_batches(records, count, 10**9)[0]


class Transfer:
    """Takes items by their value; `rejected` fail the whole push with 400, `invalid` are counted."""

    def __init__(self, rejected: set[int] = frozenset(), invalid: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.rejected = rejected
        self.invalid = invalid
        self.accepted: list[int] = []
        self.posts = 0
        self.limit = 10**9
        self.down: set[int] = set()

    def __call__(self, body: bytes) -> Reply:
        self.posts += 1
        if self.posts in self.down:
            raise Unreachable("cannot push", "refused")
        values = [item["value"] for item in json.loads(body)]
        if len(values) > self.limit:
            raise Rejected("a", 413, "too large")
        if self.rejected.intersection(values):
            raise Rejected("a", 400, "decode error")
        good = [value for value in values if value not in self.invalid]
        self.accepted += good
        return Reply(len(values), len(values) - len(good), "ok")


def run(delivery: Delivery, transfer: Transfer) -> list[Any]:
    while not delivery.done:
        delivery.advance(transfer)
    return sorted(item["value"] for item, _ in delivery.bad)


def test_a_good_batch_is_one_push() -> None:
    transfer, delivery = Transfer(), Delivery(batch_of(1000))
    assert not delivery.done
    assert run(delivery, transfer) == []
    assert (transfer.posts, delivery.sent, delivery.invalid, delivery.left) == (1, 1000, 0, 0)


def test_one_invalid_record_among_a_thousand() -> None:
    transfer, delivery = Transfer(invalid={777}), Delivery(batch_of(1000))
    assert run(delivery, transfer) == [777]
    assert (delivery.sent, delivery.invalid, delivery.left) == (999, 1, 0)
    assert transfer.posts <= 11
    assert set(transfer.accepted) == set(range(1000)) - {777}
    assert len(transfer.accepted) <= 2000


def test_one_record_that_fails_the_whole_push_among_a_thousand() -> None:
    transfer, delivery = Transfer(rejected={500}), Delivery(batch_of(1000))
    assert run(delivery, transfer) == [500]
    assert (delivery.sent, delivery.invalid, delivery.left) == (999, 1, 0)
    assert transfer.posts <= 22
    # Nothing is sent twice, and the order is kept.
    assert transfer.accepted == [value for value in range(1000) if value != 500]


def test_both_kinds_at_once() -> None:
    transfer = Transfer(rejected={3, 400, 999}, invalid={4, 500, 501})
    delivery = Delivery(batch_of(1000))
    assert run(delivery, transfer) == [3, 4, 400, 500, 501, 999]
    assert (delivery.sent, delivery.invalid, delivery.left) == (994, 6, 0)
    assert set(transfer.accepted) == set(range(1000)) - {3, 4, 400, 500, 501, 999}


def test_all_invalid_needs_no_search() -> None:
    transfer, delivery = Transfer(invalid=set(range(100))), Delivery(batch_of(100))
    assert run(delivery, transfer) == list(range(100))
    assert transfer.posts == 1


def test_a_batch_of_one() -> None:
    for transfer in (Transfer(invalid={0}), Transfer(rejected={0})):
        delivery = Delivery(batch_of(1))
        assert run(delivery, transfer) == [0]
        assert (delivery.sent, delivery.invalid, delivery.left) == (0, 1, 0)


def test_a_body_that_is_too_large_is_halved_until_it_fits() -> None:
    transfer, delivery = Transfer(), Delivery(batch_of(1000))
    transfer.limit = 300
    assert run(delivery, transfer) == []
    assert transfer.accepted == list(range(1000))
    assert delivery.invalid == 0


@pytest.mark.parametrize("kind", ["rejected", "invalid"])
def test_the_search_is_bounded(kind: str) -> None:
    bad = set(random.Random(1).sample(range(1000), 400))
    transfer, delivery = Transfer(**{kind: bad}), Delivery(batch_of(1000))
    found = run(delivery, transfer)
    assert transfer.posts <= MAX_EXTRA_POSTS + 2
    assert set(found) <= bad
    assert delivery.left == 0
    assert delivery.sent + delivery.invalid == 1000
    if kind == "invalid":
        assert delivery.invalid == 400


def test_an_address_that_refuses_everything_is_not_held_against_the_records() -> None:
    def gateway(body: bytes) -> Reply:
        raise Rejected("http://gateway/", 400, "Bad Request")

    delivery = Delivery(batch_of(10))
    with pytest.raises(
        Unreachable, match=r"to an empty push 400 .* too; is this the address of a transfer"
    ) as caught:
        delivery.advance(gateway)
    assert caught.value.reason == "http_400"
    assert (delivery.left, delivery.invalid, delivery.done) == (10, 0, False)


@pytest.mark.parametrize("status", [401, 403, 404, 407, 405])
def test_a_wrong_address_or_credentials_blame_no_record(status: int) -> None:
    def gateway(body: bytes) -> Reply:
        raise Rejected("http://gateway/", status, "")

    delivery = Delivery(batch_of(10))
    with pytest.raises(Rejected):
        delivery.advance(gateway)
    assert (delivery.left, delivery.invalid, delivery.done) == (10, 0, False)


def test_credentials_that_expire_during_a_search_blame_no_record() -> None:
    transfer, delivery = Transfer(rejected={3}), Delivery(batch_of(8))
    delivery.advance(transfer)

    def gateway(body: bytes) -> Reply:
        raise Rejected("http://gateway/", 401, "")

    with pytest.raises(Rejected):
        delivery.advance(gateway)
    assert (delivery.left, delivery.invalid) == (8, 0)
    assert run(delivery, transfer) == [3]
    assert transfer.accepted == [0, 1, 2, 4, 5, 6, 7]


def test_it_goes_on_where_it_was_interrupted() -> None:
    transfer, delivery = Transfer(rejected={500}), Delivery(batch_of(1000))
    transfer.down = {1, 2, 4, 8, 9}
    interruptions = 0
    while not delivery.done:
        try:
            delivery.advance(transfer)
        except Unreachable:
            interruptions += 1
    assert interruptions == 5
    assert transfer.accepted == [value for value in range(1000) if value != 500]
    assert (delivery.sent, delivery.invalid, delivery.left) == (999, 1, 0)


def test_a_search_among_delivered_records_does_not_hold_up_the_queue() -> None:
    transfer, delivery = Transfer(invalid={777}), Delivery(batch_of(1000))
    transfer.down = {3}
    assert run(delivery, transfer) == []
    assert (transfer.posts, delivery.sent, delivery.invalid, delivery.left) == (3, 999, 1, 0)


def test_a_transfer_that_counts_nonsense_does_no_harm() -> None:
    delivery = Delivery(batch_of(10))
    replies = iter([Reply(99, 99, "ok")])
    delivery.advance(lambda _: next(replies))
    assert (delivery.sent, delivery.invalid, delivery.left) == (0, 10, 0)

    answers = random.Random(3)
    for _ in range(50):
        delivery = Delivery(batch_of(50))
        for _ in range(MAX_EXTRA_POSTS + 200):
            if delivery.done:
                break
            delivery.advance(lambda body: Reply(50, answers.randrange(50), "ok"))
        assert delivery.done
        assert delivery.sent + delivery.invalid == 50


@given(st.integers(1, 60), st.sets(st.integers(0, 59), max_size=5), st.sets(st.integers(0, 59), max_size=5))
def test_every_record_has_one_fate(count: int, rejected: set[int], invalid: set[int]) -> None:
    transfer, delivery = Transfer(rejected, invalid - rejected), Delivery(batch_of(count))
    bad = {value for value in rejected | invalid if value < count}
    assert run(delivery, transfer) == sorted(bad)
    assert set(transfer.accepted) == set(range(count)) - bad
    assert (delivery.sent, delivery.invalid, delivery.left) == (count - len(bad), len(bad), 0)


def test_each_bad_record_comes_with_what_was_said_against_it() -> None:
    transfer, delivery = Transfer(rejected={3}, invalid={7}), Delivery(batch_of(10))
    run(delivery, transfer)
    assert {item["value"]: reason for item, reason in delivery.bad} == {
        3: "it answered 400 'decode error'",
        7: "it counted it as invalid",
    }


def test_what_an_ended_search_left_undelivered_is_kept() -> None:
    bad = set(random.Random(1).sample(range(1000), 400))
    transfer, delivery = Transfer(rejected=bad), Delivery(batch_of(1000))
    found = set(run(delivery, transfer))
    abandoned = {item["value"] for item in delivery.abandoned}
    assert abandoned
    assert found | abandoned == set(range(1000)) - set(transfer.accepted)
    assert delivery.invalid == len(found) + len(abandoned)


def test_an_error_over_json_rpc_is_split_like_a_400() -> None:
    def update(body: bytes) -> Reply:
        values = [item["value"] for item in json.loads(body)]
        if 3 in values:
            raise Rejected("rpc://h:8433", None, "json: bad")
        return Reply(len(values), 0, "ok")

    delivery = Delivery(batch_of(10))
    while not delivery.done:
        delivery.advance(update)
    assert [(item["value"], reason) for item, reason in delivery.bad] == [
        (3, "it answered an error 'json: bad'")
    ]
    assert delivery.sent == 9


def test_the_hint_of_a_refused_empty_push_is_told() -> None:
    def transfer(body: bytes) -> Reply:
        raise Rejected("http://h/", 400, "decode error", "set gzip = false")

    with pytest.raises(Unreachable, match=r"to an empty push 400 'decode error' too; set gzip = false"):
        Delivery(batch_of(10)).advance(transfer)


def test_a_batch_is_known_again_by_what_it_holds() -> None:
    delivery = Delivery(batch_of(3))
    assert delivery.is_of(delivery.batch)
    assert delivery.is_of(batch_of(3))
    assert not delivery.is_of(batch_of(4))
    own = delivery.batch
    assert not delivery.is_of(Batch(own.body, own.count, own.timestamp + 60))
