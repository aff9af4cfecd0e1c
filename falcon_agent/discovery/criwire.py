"""The wire format of protocol buffers, as much of it as the Container Runtime Interface needs: pure functions.

A message is a row of fields, each a number with a value; what a number means is known to who reads it. The format is
described at https://protobuf.dev/programming-guides/encoding/. The protobuf package with the interface's own messages
would take a third of the agent's memory (docs/decisions/003-cri-client.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from falcon_agent.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator

Buffer: TypeAlias = bytes | memoryview
"""An encoded message, or a part of one that was not copied."""

_SOURCE = "a message of the container runtime"
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BITS = 64


def fields(message: Buffer) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message in their order: number and value.

    The value is an int for a varint (not yet negative, where the field is signed), otherwise bytes: a text, a
    message in the message, packed numbers, or a number of fixed size.

    Raises:
        ParseError: not a message: cut off, or a kind of field that does not exist (any more).
    """
    view = memoryview(message)
    at, end = 0, len(view)
    while at < end:
        key, at = _varint(view, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ParseError(_SOURCE, "it has a field with number 0")
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield number, value
            continue
        if kind == _LENGTH:
            size, at = _varint(view, at)
        elif kind in _FIXED_BYTES:
            size = _FIXED_BYTES[kind]
        else:
            raise ParseError(_SOURCE, f"it has a field of the unknown kind {kind}")
        if size > end - at:
            raise ParseError(_SOURCE, "it is cut off")
        yield number, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number of variable length at `at`, and where what follows it begins."""
    value = shift = 0
    try:
        while (byte := view[at]) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            at += 1
            if shift >= _MAX_VARINT_BITS:
                raise ParseError(_SOURCE, "it has a number of more than 64 bits")
    except IndexError:
        raise ParseError(_SOURCE, "it is cut off") from None
    return (value | byte << shift) & 0xFFFF_FFFF_FFFF_FFFF, at + 1


def nested(value: int | memoryview) -> memoryview:
    """The bytes of a field that is a message.

    Raises:
        ParseError: it is a number.
    """
    if isinstance(value, int):
        raise ParseError(_SOURCE, "it has a number where a message belongs")
    return value


def text(value: int | memoryview) -> str:
    """A field that is a text; what is no UTF-8 becomes the replacement character.

    Raises:
        ParseError: it is a number.
    """
    if isinstance(value, int):
        raise ParseError(_SOURCE, "it has a number where a text belongs")
    return str(value, "utf-8", "replace")


def number(value: int | memoryview) -> int:
    """A field that is an enumeration, a truth value or an unsigned number.

    Raises:
        ParseError: it is a text or a message.
    """
    if not isinstance(value, int):
        raise ParseError(_SOURCE, "it has a text where a number belongs")
    return value


def entry(value: int | memoryview) -> tuple[str, str]:
    """One entry of a field that is a map of texts: key and value, each empty if it is left out.

    Raises:
        ParseError: it is none.
    """
    key = content = ""
    for at, part in fields(nested(value)):
        if at == 1:
            key = text(part)
        elif at == 2:  # noqa: PLR2004  a map's entry is a message with the key as field 1 and the value as field 2
            content = text(part)
    return key, content


def encode_number(field: int, value: int) -> bytes:
    """A field that is an enumeration, a truth value or an unsigned number."""
    return _encode_varint(field << 3 | _VARINT) + _encode_varint(value)


def encode_bytes(field: int, value: bytes) -> bytes:
    """A field that is a text in UTF-8, or a message."""
    return _encode_varint(field << 3 | _LENGTH) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004  seven bits to the byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
