from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.transfer.answers import Newest, decode_items, judge_all

NOW = 1795161725
ITEM: dict[str, Any] = {
    "endpoint": "h1", "metric": "m", "value": 1, "step": 60, "counterType": "GAUGE", "tags": "",
    "timestamp": 1795161720,
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "items"),
    [
        (b"[]", []),
        (b"null", []),
        (b" [null] \n", [None]),
        (b'["\xff\\ud800"]', ["\ufffd\ud800"]),
        (b"[1e999]", [float("inf")]),
    ],
)
def test_bodies_that_are_arrays(body: bytes, items: list[Any]) -> None:
    assert decode_items(body) == items


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"1",
        b"[",
        b"[]x",
        b"\xef\xbb\xbf[]",
        b"\x1f\x8b\x08\x00",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b'["\n"]',
        b"[" * 100_000,
        b"[" + b"9" * 10_000 + b"]",
    ],
)
def test_bodies_that_are_none(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  only its type is promised
        decode_items(body)


@given(st.binary())
def test_garbage_is_refused(body: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_items(body)


def test_two_points_of_a_series_in_one_push() -> None:
    newest = Newest()
    later = {**ITEM, "timestamp": 1795161660}
    fates = [verdict.outcome for _, verdict in judge_all([ITEM, ITEM, later], NOW, newest)]
    assert fates == ["ok", "dropped", "dropped"]


def test_points_are_remembered_from_push_to_push() -> None:
    newest = Newest()
    judge_all([ITEM], NOW, newest)
    assert [verdict.outcome for _, verdict in judge_all([ITEM], NOW, newest)] == ["dropped"]
    following = {**ITEM, "timestamp": 1795161780}
    assert [verdict.outcome for _, verdict in judge_all([following], NOW + 60, newest)] == ["ok"]


def test_a_rejected_push_stores_nothing_and_names_the_culprit() -> None:
    newest = Newest()
    judged = judge_all([ITEM, {**ITEM, "step": "60"}], NOW, newest)
    assert [verdict.outcome for _, verdict in judged] == ["rejected", "rejected"]
    assert judged[0][1].reasons == ("another item of its POST is badly typed",)
    assert "step" in judged[1][1].reasons[0]
    assert [verdict.outcome for _, verdict in judge_all([ITEM], NOW, newest)] == ["ok"]


def test_the_memory_of_series_is_bounded_and_forgets_the_silent() -> None:
    newest = Newest(limit=2)
    for series in (b"a", b"b", b"a", b"c"):
        newest.keep(series, 1)
    assert [newest.get(series) for series in (b"a", b"b", b"c")] == [1, None, 1]


def test_long_names_do_not_fill_the_memory() -> None:
    newest = Newest()
    judge_all([{**ITEM, "endpoint": "h" * 200}], NOW, newest)
    assert [len(series) for series in newest._timestamps] == [16]


@given(
    st.lists(st.dictionaries(st.sampled_from(list(ITEM)), st.integers() | st.text() | st.none()), max_size=4)
)
def test_no_push_makes_it_fail(changes: list[dict[str, Any]]) -> None:
    items = [{**ITEM, **change} for change in changes]
    judged = judge_all(decode_items(json.dumps(items).encode()), NOW, Newest())
    assert len(judged) == len(items)
