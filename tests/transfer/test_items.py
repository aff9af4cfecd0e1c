"""Items made in haste are those that the whole contract and a JSON library make."""

from __future__ import annotations

import json
from math import inf, nan
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.metric import Metric, Subject, record_of
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.contract import refusal
from falcon_agent.transfer.items import ItemMaker

if TYPE_CHECKING:
    from falcon_agent.metric import Report

NOW = 1795161720
GAUGE = Metric("container.mem.rss", "GAUGE", "bytes", "", "")
COUNTER = Metric("container.net.if.in.bytes", "COUNTER", "bytes", "", "")
WEB = Subject("host-1", "name=web")


def items(
    maker: ItemMaker, points: list[tuple[Subject, Metric, Any]], step: int = 60, at: int = NOW
) -> list[str]:
    """Of one report for each point."""
    reports = [(subject, [(metric, value, ())]) for subject, metric, value in points]
    return [item for portion in maker.items(reports, step, at) for item in portion]


def test_an_item_has_the_fields_of_the_wire() -> None:
    (item,) = items(ItemMaker(SelfStat()), [(WEB, GAUGE, 4096)])
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
    records = [record_of(*point, *when) for point in points]
    taken = [one for one in records if refusal(one) is None]
    for _ in range(2):  # with what it remembers too
        made = items(maker, points, *when)
        assert [json.loads(item) for item in made] == [orjson.loads(orjson.dumps(one)) for one in taken]
    items(ItemMaker(stat), points, *when)
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
    assert items(ItemMaker(stat), [(WEB, metric, value)]) == []
    assert stat.reasons("records.invalid") == {reason: 1}
    # Neither where the same metric was good a moment before.
    assert len(items(ItemMaker(stat), [(WEB, metric, 1), (WEB, metric, value), (WEB, metric, 2)])) == 2
    assert stat.reasons("records.invalid") == {reason: 2}


@pytest.mark.parametrize("value", [0.1, 1e22, 1e-7, 123456789.125, 2**53 + 1])
def test_a_value_is_the_number_that_was_measured(value: float) -> None:
    (item,) = items(ItemMaker(SelfStat()), [(WEB, GAUGE, value)])
    assert json.loads(item)["value"] == value


def test_nothing_is_kept_of_subjects_that_fell_silent() -> None:
    maker = ItemMaker(SelfStat())
    items(maker, [(WEB, GAUGE, 1), (Subject("host-1", "name=db"), GAUGE, 1)])
    items(maker, [(WEB, GAUGE, 2)], at=NOW + 60)
    assert list(maker._tails) == [WEB]


def test_the_items_of_a_report_come_together() -> None:
    reports: list[Report] = [
        (WEB, [(GAUGE, 1, ()), (GAUGE, nan, ()), (COUNTER, 2, ())]),
        (WEB, [(GAUGE, 3, ())]),
    ]
    made = ItemMaker(SelfStat()).items(reports, 60, NOW)
    assert [[json.loads(item)["value"] for item in portion] for portion in made] == [[1, 2], [3]]
