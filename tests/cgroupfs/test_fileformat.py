from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.cgroupfs.fileformat import parse_keyed, parse_single_value
from falcon_agent.errors import ParseError
from tests.cgroupfs.trees import captured


def test_keyed() -> None:
    content = b"low 0\nhigh_low 7\nmax 18446744073709551615\n"
    assert parse_keyed(content, "f", b"\nlow ", b"\nmax ") == [0, 2**64 - 1]
    assert parse_keyed(content, "f", b"\nmax ", b"\nlow ", b"\nhigh_low ") == [2**64 - 1, 0, 7]
    assert parse_keyed(content, "f", b"\nmax ", b"\nhigh_low ") == [2**64 - 1, 7]
    assert parse_keyed(content, "f", b"\nhigh ", b"\nlow 0\nhigh ") == [None, None]
    assert parse_keyed(b"", "f", b"\nlow ") == [None]


@pytest.mark.parametrize(
    "garbage",
    [
        b"low 0",  # cut short
        b"low 0\nmax",
        b"low 0 1\n",
        b"low -1\n",
        b"low 1_0\n",
        b"low  1\n",
        b"low \n",
        b"low max\n",
        b"low 0\r\n",
        b"low " + b"9" * 21 + b"\n",
    ],
)
def test_keyed_garbage(garbage: bytes) -> None:
    for content in (garbage, b"oom 1\n" + garbage):
        with pytest.raises(ParseError, match=r"cannot parse memory\.stat"):
            parse_keyed(content, "memory.stat", b"\noom ", b"\nlow ")


def test_single_value() -> None:
    assert parse_single_value(b"28098560\n", "f") == 28098560


@pytest.mark.parametrize(
    "garbage", [b"", b"\n", b"1", b"-1\n", b"max\n", b"1 2\n", b"1\n2\n", b"9" * 21 + b"\n"]
)
def test_single_value_garbage(garbage: bytes) -> None:
    with pytest.raises(ParseError, match=r"cannot parse memory\.current"):
        parse_single_value(garbage, "memory.current")


@given(
    content=st.sampled_from(captured("memory.stat")), cut=st.integers(0, 3000), more=st.binary(max_size=30)
)
def test_truncated_and_garbled_files(content: bytes, cut: int, more: bytes) -> None:
    keys = (b"\ntotal_cache ", b"\ninactive_file ", b"\ncache ", b"\nanon ")
    try:
        values = parse_keyed(content[:cut] + more, "memory.stat", *keys)
    except ParseError:
        return
    assert all(value is None or value >= 0 for value in values)


@given(st.binary(max_size=30))
def test_single_value_of_any_bytes(content: bytes) -> None:
    try:
        value = parse_single_value(content, "memory.current")
    except ParseError:
        return
    assert content == b"%d\n" % value or content.startswith(b"0")
