from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.metric import Record
from falcon_agent.naming import (
    MAX_NAME_BYTES,
    MAX_TAGS_BYTES,
    MAX_VALUE_BYTES,
    clean_name,
    clean_tag_key,
    clean_tag_value,
    join_tags,
)
from falcon_agent.transfer.contract import refusal

any_text = st.text(st.characters(), max_size=300)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("web-1.example_x:80", "web-1.example_x:80"),
        ("a'b\"c>d", "a_b_c_d"),
        ("a\rb\nc\td", "a_b_c_d"),
        ("a b,c=d)e", "a_b_c_d_e"),
        ("(paren", "(paren"),
        ("bell\x07 del\x7f nbsp\xa0x", "bell__del__nbsp_x"),
        ("网站", "网站"),
        ("é", "é"),
        ("rocket🚀", "rocket_"),
        ("lone\ud800", "lone_"),
        ("right-to-left\u202e", "right-to-left_"),
        ("registry/app", "registry/app"),
        ("  padded  ", "padded"),
        (" \t\n ", ""),
        ("", ""),
    ],
)
def test_tag_values_keep_what_every_part_of_open_falcon_carries(raw: str, clean: str) -> None:
    assert clean_tag_value(raw) == clean
    assert clean_tag_key(raw) == clean


def test_names_lose_the_slash_that_makes_series_collide() -> None:
    assert clean_name("cpu/busy a=b") == "cpu_busy_a_b"


def test_a_host_name_of_full_length_is_not_cut() -> None:
    assert clean_name("h" * 253) == "h" * 253


def test_long_values_are_cut_and_stay_different() -> None:
    one, two = clean_tag_value("x" * 299 + "1"), clean_tag_value("x" * 299 + "2")
    assert len(one) == len(two) == MAX_VALUE_BYTES
    assert one != two
    assert one.startswith("x" * 91 + "~")


def test_cutting_does_not_split_a_character() -> None:
    cut = clean_tag_value("容" * 200)
    assert cut.startswith("容" * 30 + "~")
    assert len(cut.encode()) <= MAX_VALUE_BYTES


def test_tags_are_sorted_and_the_later_pair_wins() -> None:
    assert join_tags([("b", "1"), ("a", "2"), ("b", "3")]) == "a=2,b=3"


def test_a_tag_without_key_or_value_is_left_out() -> None:
    assert join_tags([("", "1"), ("a", " "), ("b", "2")]) == "b=2"
    assert join_tags([]) == ""


def test_tags_that_together_exceed_the_index_lose_the_end_of_the_longest() -> None:
    pairs = [("name", "n" * 63), ("namespace", "short"), ("pod", "p" * 253)]
    joined = join_tags(pairs)
    assert len(joined.encode()) <= MAX_TAGS_BYTES
    assert f"name={'n' * 63},namespace=short,pod=ppp" in joined
    assert joined != join_tags([*pairs[:2], ("pod", "p" * 252)])


def test_all_long_tags_are_cut_alike() -> None:
    joined = join_tags((key, key * 100) for key in "abc")
    assert len(joined) <= MAX_TAGS_BYTES
    assert len({len(part) for part in joined.split(",")}) == 1


@settings(deadline=None)
@given(any_text, any_text, st.lists(st.tuples(any_text, any_text), max_size=3))
def test_whatever_comes_in_can_be_stored(endpoint: str, metric: str, pairs: list[tuple[str, str]]) -> None:
    record = Record(
        clean_name("h" + endpoint),
        clean_tag_value("m" + metric.replace("/", "_"))[:20],
        1,
        60,
        "GAUGE",
        join_tags((key[:10], value) for key, value in pairs),
        1795161720,
    )
    assert refusal(record) is None


@settings(deadline=None)
@given(any_text)
def test_cleaned_text_holds_nothing_forbidden_and_stays_as_it_is(text: str) -> None:
    for clean, limit, forbidden in (
        (clean_tag_value, MAX_VALUE_BYTES, "'\"> ,=)\r\n\t"),
        (clean_tag_key, MAX_VALUE_BYTES, "'\"> ,=)\r\n\t"),
        (clean_name, MAX_NAME_BYTES, "'\"> ,=)/\r\n\t"),
    ):
        cleaned = clean(text)
        assert not set(cleaned) & set(forbidden)
        assert all(ord(character) <= 0xFFFF and character.isprintable() for character in cleaned)
        assert len(cleaned.encode()) <= limit
        assert clean(cleaned) == cleaned
        assert bool(cleaned) == bool(text.strip())
