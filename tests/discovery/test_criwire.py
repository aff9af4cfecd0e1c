"""Our reader of the wire format against the real protobuf library."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import pytest
from cri_api.v1 import api_pb2 as cri
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value
from google.protobuf.unknown_fields import UnknownFieldSet
from google.protobuf.wrappers_pb2 import DoubleValue, FloatValue, StringValue, UInt32Value, UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.discovery.criwire import encode_bytes, encode_number, entry, fields, nested, number, text
from falcon_agent.errors import ParseError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEY_1 = b"\x0a"
PARTS = [b"\x08", b"\x80", b"\x12\x02", b"ab", b"\x01", b"\x13\x14"]
GROUP = 3
PARTS = [b"\x08", b"\x80", b"\x12\x02", b"ab", b"\x01", b"\x0d1234", b"\x13\x14"]


@given(st.integers(0, 2**64 - 1))
def test_numbers(value: int) -> None:
    encoded = UInt64Value(value=value).SerializeToString()
    assert [(at, number(told)) for at, told in fields(encoded)] == ([(1, value)] if value else [])
    assert UInt64Value.FromString(encode_number(1, value)).value == value


@given(st.integers(1, 2**29 - 1), st.binary())
def test_fields_by_their_number(at: int, value: bytes) -> None:
    assert [(key, bytes(nested(told))) for key, told in fields(encode_bytes(at, value))] == [(at, value)]


@given(TEXT)
def test_texts(value: str) -> None:
    assert StringValue.FromString(encode_bytes(1, value.encode())).value == value
    assert [text(told) for _, told in fields(StringValue(value=value).SerializeToString())] == [value] * bool(
        value
    )


@given(st.lists(st.binary()), st.dictionaries(TEXT, TEXT), st.floats(min_value=0.5, width=32))
def test_repeated_fields_maps_and_numbers_of_fixed_size(
    parts: list[bytes], labels: dict[str, str], ratio: float
) -> None:
    sandboxes = cri.ListPodSandboxResponse(
        items=[cri.PodSandbox(id=part.hex(), labels=labels) for part in parts]
    )
    read = [nested(told) for at, told in fields(sandboxes.SerializeToString()) if at == 1]
    assert len(read) == len(parts)
    for part, sandbox in zip(parts, read, strict=True):
        found = list(fields(sandbox))
        assert [text(told) for at, told in found if at == 1] == [part.hex()] * bool(part)
        assert dict(entry(told) for at, told in found if at == 5) == labels
    for message, size in ((DoubleValue(value=ratio), 8), (FloatValue(value=ratio), 4)):
        assert [len(nested(told)) for _, told in fields(message.SerializeToString())] == [size]


@given(st.binary(max_size=200) | st.lists(st.sampled_from(PARTS)).map(b"".join))
def test_whatever_comes_is_read_as_the_library_reads_it_or_refused(content: bytes) -> None:
    try:
        unknown = cast(
            "Any", UnknownFieldSet(Empty.FromString(content))
        )  # its type does not say that it is a row
        expected = [(one.field_number, one.wire_type, one.data) for one in unknown]
    except DecodeError:
        with contextlib.suppress(ParseError):
            list(fields(content))
        return
    if any(kind == GROUP for _, kind, _ in expected):
        with pytest.raises(ParseError, match="unknown kind 3"):
            list(fields(content))
        return
    read = [(at, told if isinstance(told, int) else bytes(told)) for at, told in fields(content)]
    assert [at for at, _ in read] == [at for at, _, _ in expected]
    for (_, told), (_, kind, data) in zip(read, expected, strict=True):
        assert told == (data if kind in {0, 2} else data.to_bytes(8 if kind == 1 else 4, "little"))


@given(st.text(min_size=1, max_size=300), st.data())
def test_a_message_that_is_cut_off_is_refused(value: str, data: st.DataObject) -> None:
    encoded = encode_bytes(2, value.encode(errors="replace"))
    with pytest.raises(ParseError, match="cut off"):
        list(fields(encoded[: data.draw(st.integers(1, len(encoded) - 1))]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x08" + b"\x80" * 20, "more than 64 bits"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (b"\x00\x00", "field with number 0"),
        (b"\x0b", "unknown kind 3"),
        (b"\x0c", "unknown kind 4"),
        (b"\x0e", "unknown kind 6"),
        (b"\x09" + b"1234567", "cut off"),
        (b"\x0d" + b"123", "cut off"),
        (KEY_1 + b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x", "cut off"),
        (b"\x80", "cut off"),
    ],
)
def test_garbage(content: bytes, words: str) -> None:
    with pytest.raises(ParseError, match=words):
        list(fields(content))


def test_a_number_of_ten_bytes_is_cut_to_64_bits_as_the_library_does() -> None:
    content = b"\x08" + b"\xff" * 9 + b"\x7f"
    assert (
        [number(told) for _, told in fields(content)]
        == [UInt64Value.FromString(content).value]
        == [2**64 - 1]
    )


def test_negative_numbers_are_large_ones() -> None:
    assert [told for _, told in fields(cri.ContainerStatus(exit_code=-1).SerializeToString())] == [2**64 - 1]


def test_a_field_of_another_kind() -> None:
    for content in (UInt32Value(value=7), Value(bool_value=True)):
        [(_, told)] = fields(content.SerializeToString())
        for read in (text, nested, entry):
            with pytest.raises(ParseError, match="it has a number where a"):
                read(told)
    [(_, told)] = fields(encode_bytes(1, b"x"))
    with pytest.raises(ParseError, match="it has a text where a number belongs"):
        number(told)


def test_a_text_that_is_no_utf_8() -> None:
    [(_, told)] = fields(encode_bytes(1, b"a\xffb"))
    assert text(told) == "a\ufffdb"


def test_an_entry_may_lack_its_key_or_its_value() -> None:
    assert entry(memoryview(b"")) == ("", "")
    assert entry(memoryview(encode_bytes(1, b"k"))) == ("k", "")
    assert entry(memoryview(encode_bytes(2, b"v"))) == ("", "v")
