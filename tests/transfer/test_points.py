"""Bodies made of points that were checked in haste are those that the whole contract and a JSON library make."""

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
from falcon_agent.transfer.points import PointMaker, body_of_points

if TYPE_CHECKING:
    from falcon_agent.metric import Report

NOW = 1795161720
GAUGE = Metric("container.mem.rss", "GAUGE", "bytes", "", "")
COUNTER = Metric("container.net.if.in.bytes", "COUNTER", "bytes", "", "")
OTHER = Metric("container.cpu.busy", "GAUGE", "percent", "", "")
WEB = Subject("host-1", "name=web")


def maker(stat: SelfStat | None = None, batch_size: int = 1000, max_bytes: int = 900_000) -> PointMaker:
    return PointMaker(stat or SelfStat(), batch_size, max_bytes)


def bodies(
    made: PointMaker, reports: list[Report], step: int = 60, at: int = NOW
) -> list[list[dict[str, Any]]]:
    """The items of each POST, which are as many as it says they are."""
    found = []
    for points in made.points(reports, step, at):
        found.append(json.loads(body_of_points(points.document)))
        assert (len(found[-1]), points.timestamp) == (points.count, at)
    return found


def report(subject: Subject, said: list[tuple[Metric, Any]]) -> Report:
    return subject, tuple(metric for metric, _ in said), tuple(value for _, value in said)


def items(
    made: PointMaker, points: list[tuple[Subject, Metric, Any]], step: int = 60, at: int = NOW
) -> list[dict[str, Any]]:
    """Of one report for each point."""
    reports: list[Report] = [(subject, (metric,), (value,)) for subject, metric, value in points]
    return [item for body in bodies(made, reports, step, at) for item in body]


def test_an_item_has_the_fields_of_the_wire() -> None:
    (item,) = items(maker(), [(WEB, GAUGE, 4096)])
    assert item == {
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
    st.sampled_from(["", "by subject"]),
    st.sampled_from([(60, NOW), (60, NOW + 1), (0, NOW), (60, NOW * 1000)]),
)
def test_they_are_what_the_contract_takes_and_nothing_else(
    points: list[tuple[Subject, Metric, Any]], together: str, when: tuple[int, int]
) -> None:
    stat, made = SelfStat(), maker()
    reports: list[Report] = [(subject, (metric,), (value,)) for subject, metric, value in points]
    if together:
        by_subject: dict[Subject, list[tuple[Metric, Any]]] = {}
        for subject, metric, value in points:
            by_subject.setdefault(subject, []).append((metric, value))
        reports = [report(subject, said) for subject, said in by_subject.items()]
    records = [
        record_of(subject, metric, value, *when)
        for subject, metrics, values in reports
        for metric, value in zip(metrics, values, strict=True)
    ]
    taken = [one for one in records if refusal(one) is None]
    for _ in range(2):  # with what it remembers too
        found = [item for body in bodies(made, reports, *when) for item in body]
        assert found == [orjson.loads(orjson.dumps(one)) for one in taken]
    bodies(maker(stat), reports, *when)
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
    assert items(maker(stat), [(WEB, metric, value)]) == []
    assert stat.reasons("records.invalid") == {reason: 1}
    # Neither where the same metric was good a moment before.
    assert len(items(maker(stat), [(WEB, metric, 1), (WEB, metric, value), (WEB, metric, 2)])) == 2
    assert stat.reasons("records.invalid") == {reason: 2}


@pytest.mark.parametrize("bad", [nan, inf, -1, 2**63, 0.5, True, None, "1", [1]])
def test_a_bad_value_takes_none_of_its_neighbours_along(bad: Any) -> None:
    stat = SelfStat()
    metrics = (GAUGE, COUNTER, OTHER)
    said = [(1, 2, 0.5), (3, bad, 4.5), (1, 2, 0.5)]
    (body,) = bodies(maker(stat), [(WEB, metrics, values) for values in said])
    assert [item["value"] for item in body] == [1, 2, 0.5, 3, 4.5, 1, 2, 0.5]
    assert stat.total("records.invalid") == 1


@pytest.mark.parametrize("value", [0.1, 1e22, 1e-7, 123456789.125, 2**53 + 1, 2**63 - 1, -(2**63), -0.0, 0])
def test_a_value_is_the_number_that_was_measured(value: float) -> None:
    for made in items(maker(), [(WEB, GAUGE, 1), (WEB, GAUGE, value)])[1:]:
        assert (made["value"], type(made["value"])) == (value, type(value))
        assert str(made["value"]) == str(value)


def test_a_long_name_is_refused_where_there_is_no_room_for_it() -> None:
    long = Metric("container.test." + "m" * 100, "GAUGE", "", "", "")
    roomy, crowded = WEB, Subject("host-1", "name=" + "n" * 160)
    stat = SelfStat()
    found = items(maker(stat), [(one, metric, 1) for one in (roomy, crowded) for metric in (long, GAUGE)])
    assert [(item["metric"], item["tags"]) for item in found] == [
        (long.name, roomy.tags),
        (GAUGE.name, roomy.tags),
        (GAUGE.name, crowded.tags),
    ]
    assert stat.reasons("records.invalid") == {"too_long": 1}


def test_a_name_that_is_no_text_takes_none_of_its_neighbours_along() -> None:
    report: Report = WEB, (GAUGE, Metric("m\udc80", "GAUGE", "", "", ""), OTHER), (1, 2, 3)
    for _ in range(2):
        (body,) = bodies(maker(), [report, report])
        assert [item["value"] for item in body] == [1, 3, 1, 3]


def test_nothing_is_kept_of_what_fell_silent() -> None:
    made = maker()
    items(made, [(WEB, GAUGE, 1), (Subject("host-1", "name=db"), COUNTER, 1)])
    items(made, [(WEB, GAUGE, 2)], at=NOW + 60)
    assert list(made._abouts) == [WEB]
    assert list(made._layouts) == [(GAUGE,)]


def test_reports_stay_together_where_they_have_room() -> None:
    found = bodies(maker(batch_size=5), [*[(WEB, (GAUGE, COUNTER), (1, 2))] * 4, (WEB, (GAUGE,), (1,))])
    assert [len(body) for body in found] == [4, 5]


def test_a_report_that_is_longer_than_a_batch_is_divided() -> None:
    short: Report = WEB, (GAUGE,), (0,)
    found = bodies(maker(batch_size=2), [short, (WEB, (GAUGE,) * 7, tuple(range(7))), short])
    assert all(len(body) <= 2 for body in found)
    assert [item["value"] for body in found for item in body] == [0, *range(7), 0]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([WEB, Subject("h", ""), Subject("容器", 'name=容器,x="\\')]),
            st.lists(
                st.tuples(st.sampled_from([GAUGE, OTHER]), st.one_of(st.integers(), st.floats())), min_size=1
            ),
        )
    ),
    st.integers(1, 9),
    st.integers(1, 2000),
)
def test_no_body_is_longer_than_it_may_be(
    said: list[tuple[Subject, list[tuple[Metric, int | float]]]], batch_size: int, max_bytes: int
) -> None:
    reports = [report(subject, values) for subject, values in said]
    for points in maker(batch_size=batch_size, max_bytes=max_bytes).points(reports, 60, NOW):
        assert points.count <= batch_size
        body = body_of_points(points.document)
        assert len(json.loads(body)) == points.count
        assert len(body) <= max_bytes or points.count == 1


def test_a_document_says_each_thing_once() -> None:
    reports: list[Report] = [
        (Subject("host-1", f"name=c{number}"), (GAUGE, COUNTER), (number, 5)) for number in range(100)
    ]
    (points,) = maker().points(reports, 60, NOW)
    assert points.document.count(GAUGE.name.encode()) == 1
    assert len(points.document) < len(body_of_points(points.document)) / 8


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'{"step":60,"timestamp":60,"layouts":[],"reports":[["h","",0,"1"]]}',
        b'{"step":60,"timestamp":60,"layouts":[[["m","GAUGE"]]],"reports":[["h","",0,"1,2"]]}',
        b'{"step":60,"timestamp":60,"layouts":[[["m"]]],"reports":[]}',
        b'{"step":60,"timestamp":60,"layouts":[[["m","GAUGE"]]],"reports":[["h","",0,[1]]]}',
        b'{"step":60,"timestamp":60,"layouts":[[["m","GAUGE"]]],"reports":[["h",1.0,"0","1"]]}',
        b'{"step":60,"timestamp":60,"layouts":[],"reports":[["h","",[]]]}',
    ],
)
def test_what_is_no_document_is_an_error(document: bytes) -> None:
    with pytest.raises(ValueError, match="no document of points"):
        body_of_points(document)
