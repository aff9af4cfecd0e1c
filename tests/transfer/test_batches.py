from __future__ import annotations

import json

from falcon_agent.metric import Record
from falcon_agent.transfer.batches import body_of, items_of, make_batches


def records(count: int, timestamp: int = 1795161720) -> list[Record]:
    return [Record("h", "m", number, 60, "GAUGE", f"n={number}", timestamp) for number in range(count)]


def test_the_body_is_the_array_that_transfer_reads() -> None:
    (batch,) = make_batches(records(1), 1000, 10**6)
    assert batch.body == (
        b'[{"endpoint":"h","metric":"m","value":0,"step":60,"counterType":"GAUGE","tags":"n=0",'
        b'"timestamp":1795161720}]'
    )
    assert (batch.count, batch.timestamp) == (1, 1795161720)


def test_no_records_are_no_batches() -> None:
    assert make_batches([], 10, 1000) == []


def test_a_batch_holds_one_timestamp_and_the_oldest_comes_first() -> None:
    mixed = [*records(2, 120), *records(3, 60), *records(1, 120)]
    batches = make_batches(mixed, 1000, 10**6)
    assert [(batch.timestamp, batch.count) for batch in batches] == [(60, 3), (120, 3)]
    for batch in batches:
        assert {item["timestamp"] for item in json.loads(batch.body)} == {batch.timestamp}


def test_batches_have_at_most_batch_size_records_in_order() -> None:
    batches = make_batches(records(25), 10, 10**6)
    assert [batch.count for batch in batches] == [10, 10, 5]
    assert [item["value"] for batch in batches for item in json.loads(batch.body)] == list(range(25))


def test_bodies_stay_below_max_bytes() -> None:
    batches = make_batches(records(100), 1000, 1000)
    assert all(len(batch.body) <= 1000 for batch in batches)
    assert sum(batch.count for batch in batches) == 100


def test_a_single_record_goes_however_long_it_is() -> None:
    assert [batch.count for batch in make_batches(records(3), 1000, 10)] == [1, 1, 1]


def test_numbers_survive_a_split() -> None:
    values: list[int | float] = [2**63 - 1, -(2**63), 0.1, 1e300, 3.0, 5e-324]
    batch = make_batches([Record("h", "m", value, 1, "GAUGE", "", 1) for value in values], 10, 10**6)[0]
    assert body_of(items_of(batch.body)) == batch.body
