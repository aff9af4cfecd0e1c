from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.metric import Record
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.contract import refusal, takes
from falcon_agent.transfer.verdict import judge

GOOD = Record("host-1", "container.mem.rss", 4096, 60, "GAUGE", "name=web", 1795161720)
COUNTER = replace(GOOD, counterType="COUNTER")


@pytest.mark.parametrize(
    "record",
    [
        GOOD,
        COUNTER,
        replace(GOOD, value=-0.5),
        replace(GOOD, value=1e300),
        replace(GOOD, tags=""),
        replace(GOOD, tags="image=registry/app,name=网站"),
        replace(GOOD, step=1, timestamp=1795161721),
        replace(COUNTER, value=0),
        replace(COUNTER, value=2**63 - 1),
        replace(COUNTER, value=3.0),
        replace(GOOD, endpoint="h" * 255),
        replace(GOOD, metric="m" * 246),
    ],
)
def test_a_good_record_is_taken(record: Record) -> None:
    assert refusal(record) is None


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("endpoint", {"endpoint": ""}),
        ("endpoint", {"endpoint": 5}),
        ("endpoint", {"endpoint": None}),
        ("metric", {"metric": ""}),
        ("metric", {"metric": b"m"}),
        ("metric", {"metric": "kernel.hostname"}),
        ("tags", {"tags": {"name": "web"}}),
        ("tags", {"tags": "name"}),
        ("tags", {"tags": "=web"}),
        ("tags", {"tags": "name="}),
        ("tags", {"tags": "a=1,a=2"}),
        ("characters", {"endpoint": "a/b"}),
        ("characters", {"endpoint": "a b"}),
        ("characters", {"metric": "a'b"}),
        ("characters", {"metric": "a/b"}),
        ("characters", {"tags": "name=a\nb"}),
        ("characters", {"tags": "name=🚀"}),
        ("characters", {"tags": "name=\udc80"}),
        ("too_long", {"endpoint": "h" * 256}),
        ("too_long", {"metric": "m" * 247}),
        ("too_long", {"tags": "name=" + "容" * 80}),
        ("value", {"value": True}),
        ("value", {"value": "1"}),
        ("value", {"value": None}),
        ("value", {"value": float("nan")}),
        ("value", {"value": float("inf")}),
        ("value", {"value": float("-inf"), "counterType": "COUNTER"}),
        ("too_large", {"value": 2**63}),
        ("too_large", {"value": -(10**400)}),
        ("too_large", {"value": 2**63, "counterType": "COUNTER"}),
        ("too_large", {"value": 1e19, "counterType": "COUNTER"}),
        ("not_whole", {"value": 0.5, "counterType": "COUNTER"}),
        ("negative", {"value": -1, "counterType": "COUNTER"}),
        ("counter_type", {"counterType": "gauge"}),
        ("counter_type", {"counterType": "DERIVE"}),
        ("counter_type", {"counterType": ["GAUGE"]}),
        ("step", {"step": 0}),
        ("step", {"step": 60.0}),
        ("step", {"step": True}),
        ("timestamp", {"timestamp": 0}),
        ("timestamp", {"timestamp": -60}),
        ("timestamp", {"timestamp": 1795161721}),
        ("timestamp", {"timestamp": 1795161720.0}),
        ("timestamp", {"timestamp": 1795161720000}),
    ],
)
def test_what_open_falcon_cannot_store_is_refused(reason: str, changes: dict[str, Any]) -> None:
    assert refusal(replace(GOOD, **changes)) == reason


anything: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=300),
    st.lists(st.integers(), max_size=2),
)


@given(st.tuples(*[anything] * 7))
def test_no_record_makes_it_fail(fields: tuple[Any, ...]) -> None:
    assert refusal(Record(*fields)) is not None


@given(
    st.text(min_size=1, max_size=260),
    st.one_of(st.integers(), st.floats()),
    st.sampled_from(["GAUGE", "COUNTER"]),
    st.text(max_size=260),
)
def test_what_is_taken_is_stored_by_open_falcon_just_as_it_is(
    name: str, value: float, counter_type: str, tag: str
) -> None:
    record = Record(name, name, value, 60, counter_type, f"k={tag}", 1795161720)
    if refusal(record) is None:
        item = {field: getattr(record, field) for field in Record.__slots__}
        assert judge(item, 1795161730, lambda _: None).outcome == "ok"


def test_what_is_refused_is_counted_by_reason_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    stat = SelfStat()
    bad = [replace(GOOD, value=float("nan")), replace(GOOD, value=float("inf")), replace(GOOD, step=0)]
    with caplog.at_level(logging.WARNING):
        assert [takes(record, stat) for record in (GOOD, *bad, COUNTER)] == [True, False, False, False, True]
        assert not any(takes(record, stat) for record in bad)
    assert stat.reasons("records.invalid") == {"value": 4, "step": 2}
    assert len(caplog.records) == 2
