from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.cgroupfs.fileformat import parse_flat_keyed, parse_single_value
from falcon_agent.errors import ParseError
from tests.cgroupfs.trees import captured


def test_flat_keyed() -> None:
    assert parse_flat_keyed(b"low 0\nmax 18446744073709551615\n", "f") == {b"low": 0, b"max": 2**64 - 1}
    assert parse_flat_keyed(b"", "f") == {}


@pytest.mark.parametrize(
    "garbage",
    [
        b"low 0",  # cut short
        b"low\n",
        b"low 0 1\n",
        b"low -1\n",
        b"low 1_0\n",
        b"low  1\n",
        b"\n",
        b"low max\n",
        b"low 0\r\n",
        b"low " + b"9" * 21 + b"\n",
    ],
)
def test_flat_keyed_garbage(garbage: bytes) -> None:
    with pytest.raises(ParseError, match=r"cannot parse memory\.stat"):
        parse_flat_keyed(garbage, "memory.stat")


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
    try:
        values = parse_flat_keyed(content[:cut] + more, "memory.stat")
    except ParseError:
        return
    assert all(value >= 0 for value in values.values())


@given(st.binary(max_size=30))
def test_single_value_of_any_bytes(content: bytes) -> None:
    try:
        value = parse_single_value(content, "memory.current")
    except ParseError:
        return
    assert content == b"%d\n" % value or content.startswith(b"0")
