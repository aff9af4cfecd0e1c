"""Items made in haste are those that the whole contract and a JSON library make."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.metric import Metric, Record, Subject
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.contract import refusal
from falcon_agent.transfer.items import ItemMaker

NOW = 1795161720
GAUGE = Metric("container.mem.rss", "GAUGE", "bytes", "", "")
COUNTER = Metric("container.net.if.in.bytes", "COUNTER", "bytes", "", "")
WEB = Subject("host-1", "name=web")


def record(subject: Subject, metric: Metric, value: float, step: int = 60, timestamp: int = NOW) -> Record:
    return Record(subject.endpoint, metric.name, value, step, metric.counter_type, subject.tags, timestamp)


def test_an_item_has_the_fields_of_the_wire() -> None:
    (item,) = ItemMaker(SelfStat()).items([(WEB, GAUGE, 4096)], 60, NOW)
    assert json.loads(item) == {
        "endpoint": "host-1",
        "metric": "container.mem.rss",
        "value": 4096,
        "step": 60,
        "counterType": "GAUGE",
        "tags": "name=web",
        "timestamp": NOW,
    }


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    WEB,
                    Subject("host-1", ""),
                    Subject("容器", "name=容器,x=\\back"),
                    Subject("host-1", "name=" + "n" * 229),
                    Subject("host-1", "name=" + "n" * 230),
                    Subject("h/1", "name=web"),
                    Subject("", "name=web"),
                    Subject("host-1", "name=\udc80"),
                    Subject("host-1", "name="),
                ]
            ),
            st.sampled_from(
                [
                    GAUGE,
                    COUNTER,
                    Metric("kernel.hostname", "GAUGE", "", "", ""),
                    Metric("a b", "GAUGE", "", "", ""),
                    Metric("m", "DERIVE", "", "", ""),  # type: ignore[arg-type]
                ]
            ),
            st.one_of(
                st.integers(),
                st.floats(),
                st.sampled_from(
                    [0, -1, 2**63 - 1, 2**63, -(2**63), True, None, "1", nan, inf, -0.0, 1e300, 5e-324]
                ),
            ),
        ),
        max_size=8,
    ),
    st.sampled_from([(60, NOW), (60, NOW + 1), (0, NOW), (60, NOW * 1000)]),
)
def test_they_are_what_the_contract_takes_and_nothing_else(
    points: list[tuple[Subject, Metric, Any]], when: tuple[int, int]
) -> None:
    stat, maker = SelfStat(), ItemMaker(SelfStat())
    records = [record(*point, *when) for point in points]
    taken = [one for one in records if refusal(one) is None]
    for _ in range(2):  # with what it remembers too
        items = maker.items(points, *when)
        assert [json.loads(item) for item in items] == [orjson.loads(orjson.dumps(one)) for one in taken]
    ItemMaker(stat).items(points, *when)
    assert stat.total("records.invalid") == len(records) - len(taken)


@pytest.mark.parametrize(
    ("metric", "value", "reason"),
    [
        (COUNTER, 0.5, "not_whole"),
        (COUNTER, -1, "negative"),
        (COUNTER, 2**63, "too_large"),
        (GAUGE, 2**63, "too_large"),
        (GAUGE, nan, "value"),
        (GAUGE, inf, "value"),
        (GAUGE, True, "value"),
    ],
)
def test_what_cannot_be_stored_is_counted(metric: Metric, value: float, reason: str) -> None:
    stat = SelfStat()
    assert ItemMaker(stat).items([(WEB, metric, value)], 60, NOW) == []
    assert stat.reasons("records.invalid") == {reason: 1}


@pytest.mark.parametrize("value", [0.1, 1e22, 1e-7, 123456789.125, 2**53 + 1])
def test_a_value_is_the_number_that_was_measured(value: float) -> None:
    (item,) = ItemMaker(SelfStat()).items([(WEB, GAUGE, value)], 60, NOW)
    assert json.loads(item)["value"] == value


def test_nothing_is_kept_of_subjects_that_fell_silent() -> None:
    maker = ItemMaker(SelfStat())
    maker.items([(WEB, GAUGE, 1), (Subject("host-1", "name=db"), GAUGE, 1)], 60, NOW)
    maker.items([(WEB, GAUGE, 2)], 60, NOW + 60)
    assert list(maker._tails) == [WEB]
