"""Batches as the spool keeps them: deflated, each so that it can be read alone, behind a checksum."""

from __future__ import annotations

import zlib

from falcon_agent.transfer.points import body_of_points

MAX_BODY = 16 * 1024 * 1024
"""No body that the outbox makes is longer; a damaged one might unpack to anything."""

_LEVEL = 1
"""JSON of records shrinks to a tenth, points to a quarter, with any."""

_MEMORY = 6
"""Of 1 to 9. zlib's own 8 has a table of 64 KiB where this has 16: a tenth more time, and nothing smaller."""

_BODY, _POINTS = b"\x01", b"\x02"
"""The body of a POST, or a document of points: a CRC-32 of four bytes follows, big end first, and deflated blocks
(RFC 1951). Before version 3 it was a zlib stream (RFC 1950) of a body, which never begins so; its checksum is of the
body, and costs more."""

_STREAM = len(_BODY) + 4
"""Where the deflated blocks begin."""

_END = b"\x03\x00"
"""A last block with nothing in it."""


class Packer:
    """Packs what rows hold, one after the other, to be used for a cycle and let go.

    A compressor takes 160 KiB, which has to be had and cleared for each one. Here all rows share one, which is told to
    forget after each what it has seen.
    """

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS, memLevel=_MEMORY)

    def pack(self, body: bytes) -> bytes:
        """A body as `unpack` reads it."""
        return self._packed(_BODY, body)

    def pack_points(self, document: bytes) -> bytes:
        """A document of points, of which `unpack` makes the body."""
        return self._packed(_POINTS, document)

    def _packed(self, form: bytes, content: bytes) -> bytes:
        blocks = self._compressor.compress(content)
        stream = b"".join((blocks, self._compressor.flush(zlib.Z_FULL_FLUSH), _END))
        return b"".join((form, _checksum(form, stream), stream))


def unpack(packed: bytes) -> bytes:
    """The body of what a `Packer` was given, of this version or an older one.

    Raises:
        ValueError: the bytes are not those that were packed.
    """
    stream, window = packed, zlib.MAX_WBITS
    form = packed[: len(_BODY)]
    if form in {_BODY, _POINTS}:
        stream, window = packed[_STREAM:], -zlib.MAX_WBITS
        if packed[len(form) : _STREAM] != _checksum(form, stream):
            raise ValueError("its checksum is wrong")
    unpacking = zlib.decompressobj(window)
    try:
        content = unpacking.decompress(stream, MAX_BODY)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacking.eof:
        raise ValueError("it has no end")
    return body_of_points(content) if form == _POINTS else content


def _checksum(form: bytes, stream: bytes) -> bytes:
    # Bodies came first, without it.
    return zlib.crc32(stream, zlib.crc32(form) if form == _POINTS else 0).to_bytes(4, "big")
