from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.transfer.verdict import Verdict, judge

NOW = 1795161725
ITEM: dict[str, Any] = {
    "endpoint": "h1",
    "metric": "m",
    "value": 1,
    "step": 60,
    "counterType": "GAUGE",
    "tags": "",
    "timestamp": 1795161720,
}
GONE = object()


def fate(newest: int | None = None, **changes: Any) -> Verdict:
    item = {key: value for key, value in {**ITEM, **changes}.items() if value is not GONE}
    return judge(item, NOW, lambda _: newest)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"value": 1.5},
        {"value": -3},
        {"counterType": "DERIVE"},
        {"tags": "a=1,b=registry/x"},
        {"tags": "b=2,a=1"},
        {"tags": GONE},
        {"tags": None},
        {"unknown": [1]},
        {"endpoint": "h" * 255},
    ],
)
def test_stored_as_sent(changes: dict[str, Any]) -> None:
    assert fate(**changes).outcome == "ok"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"tags": {"a": "b"}}, "tags must be a string and is an object"),
        ({"tags": ["a=b"]}, "tags must be a string and is a list"),
        ({"step": "60"}, "step must be a whole number and is a string"),
        ({"step": 60.0}, "step must be a whole number and is a number with a fraction or exponent"),
        ({"step": True}, "step must be a whole number and is true or false"),
        ({"timestamp": "1795161720"}, "timestamp"),
        ({"timestamp": 1795161720.0}, "timestamp"),
        ({"timestamp": 2**63}, "64 bits"),
        ({"endpoint": 7}, "endpoint must be a string and is a number"),
        ({"metric": 7}, "metric"),
        ({"counterType": []}, "counterType"),
        ({"value": float("inf")}, "no finite number"),
        ({"value": 10**400}, "no finite number"),
    ],
)
def test_one_badly_typed_field_rejects_the_post(changes: dict[str, Any], word: str) -> None:
    verdict = fate(**changes)
    assert verdict.outcome == "rejected"
    assert word in verdict.reasons[0]


@pytest.mark.parametrize("item", [1, "x", [], True, 1.5])
def test_an_item_that_is_no_object_rejects_the_post(item: object) -> None:
    assert judge(item, NOW, lambda _: None).outcome == "rejected"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"metric": ""}, "metric is empty"),
        ({"metric": GONE}, "metric is empty"),
        ({"endpoint": ""}, "endpoint is empty"),
        ({"endpoint": None}, "endpoint is empty"),
        ({"counterType": "gauge"}, "exactly GAUGE"),
        ({"counterType": GONE}, "exactly GAUGE"),
        ({"value": ""}, "no number"),
        ({"value": "1.5 "}, "no number"),
        ({"value": "1_0"}, "no number"),
        ({"value": "1e999"}, "no number"),
        ({"value": "0x1p99999"}, "no number"),
        ({"value": None}, "missing"),
        ({"value": GONE}, "missing"),
        ({"value": True}, "true or false"),
        ({"value": [1]}, "a list"),
        ({"value": {}}, "an object"),
        ({"step": 0}, "step"),
        ({"step": -60}, "step"),
        ({"step": GONE}, "step"),
        ({"metric": "m" * 500, "tags": "a=12345678901"}, "510 bytes"),
        ({"metric": "kernel.hostname"}, "reserved"),
    ],
)
def test_counted_invalid_by_transfer(changes: dict[str, Any], word: str) -> None:
    verdict = fate(**changes)
    assert verdict.outcome == "invalid"
    assert word in "; ".join(verdict.reasons)


def test_a_null_item_is_counted_invalid() -> None:
    assert judge(None, NOW, lambda _: None).outcome == "invalid"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"value": "1.5"}, "value is a string"),
        ({"value": "0x1p4"}, "value is a string"),
        ({"value": "NaN"}, "NaN"),
        ({"value": "Inf"}, "infinite"),
        ({"value": 0.5, "counterType": "COUNTER"}, "fraction of a COUNTER"),
        ({"value": 0.5, "counterType": "DERIVE"}, "fraction of a DERIVE"),
        ({"value": 2**63, "counterType": "COUNTER"}, "reads 0"),
        ({"step": 10, "timestamp": 1795161710}, "raised to 30"),
        ({"metric": "a/b"}, "/ in metric"),
        ({"endpoint": "a/b"}, "/ in endpoint"),
        ({"endpoint": "a b"}, "space in endpoint"),
        ({"tags": "a = 1"}, "spaces are removed"),
        ({"tags": "a=1,b"}, "without ="),
        ({"tags": "a=1,a=2"}, "only the last"),
        ({"timestamp": 0}, "missing, 0 or negative"),
        ({"timestamp": -5}, "missing, 0 or negative"),
        ({"timestamp": GONE}, "missing, 0 or negative"),
        ({"timestamp": NOW * 1000}, "milliseconds"),
        ({"timestamp": NOW + 3600}, "future"),
    ],
)
def test_stored_but_not_as_sent(changes: dict[str, Any], word: str) -> None:
    verdict = fate(**changes)
    assert verdict.outcome == "changed"
    assert word in "; ".join(verdict.reasons)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        *(
            ({name: f"a=x{bad}y"}, name)
            for name in ("endpoint", "metric", "tags")
            for bad in "'\">\r\n\t\x00\x7f"
        ),
        ({"tags": "a=🚀"}, "tags"),
        ({"endpoint": "h" * 256}, "endpoint exceeds 255"),
        ({"metric": "m" * 250, "tags": "a=1234"}, "255 bytes of the index"),
    ],
)
def test_dropped_by_graph(changes: dict[str, Any], word: str) -> None:
    verdict = fate(**changes)
    assert verdict.outcome == "dropped"
    assert word in verdict.reasons[0]
    assert verdict.series is None


def test_a_point_not_newer_than_its_series_is_dropped() -> None:
    assert fate(newest=1795161720).reasons == ("the series has a point of this time already",)
    assert fate(newest=1795161780).reasons == ("it comes 60 s after a newer one",)
    assert fate(newest=1795161660).outcome == "ok"


def test_timestamps_are_floored_to_the_step_that_graph_uses() -> None:
    assert fate(timestamp=1795161719).timestamp == 1795161660
    assert fate(step=10, timestamp=1795161710).timestamp == 1795161690
    assert fate(timestamp=0).timestamp == NOW - NOW % 60


def test_a_series_is_named_by_everything_that_graph_keys_it_with() -> None:
    series = fate().series
    assert series is not None
    assert fate(tags="b=1,a=2").series == fate(tags="a=2,b=1").series
    for other in (
        {"endpoint": "x"},
        {"metric": "x"},
        {"tags": "a=b"},
        {"step": 30},
        {"counterType": "COUNTER"},
    ):
        assert fate(**other).series not in {None, series}


def test_field_names_are_read_in_any_case_as_go_does() -> None:
    item = {key.upper(): value for key, value in ITEM.items()}
    assert judge(item, NOW, lambda _: None).outcome == "ok"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(json_values)
def test_no_value_makes_it_fail(item: object) -> None:
    assert judge(item, NOW, lambda _: None).outcome in {"rejected", "invalid"}


@given(st.dictionaries(st.sampled_from(list(ITEM)), json_values, max_size=4))
def test_no_field_makes_it_fail(changes: dict[str, Any]) -> None:
    verdict = judge({**ITEM, **changes}, NOW, lambda _: None)
    assert (verdict.outcome == "ok") == (not verdict.reasons)
    assert (verdict.series is not None) == (verdict.outcome in {"ok", "changed"})


@given(st.text(st.characters()), st.text(st.characters()), st.text(st.characters()))
def test_no_text_makes_it_fail(endpoint: str, metric: str, tags: str) -> None:
    fate(endpoint=endpoint, metric=metric, tags=tags, value=tags)


def test_a_shorter_step_can_be_let_pass() -> None:
    latest = NOW // 2 * 2
    item = {**ITEM, "step": 2, "timestamp": latest}
    assert judge(item, NOW, lambda _: None).outcome == "changed"
    verdict = judge(item, NOW, lambda _: latest - 2, min_step=2)
    assert (verdict.outcome, verdict.timestamp) == ("ok", latest)
