"""The bodies of batches as the spool keeps them: each a zlib stream (RFC 1950) that can be read alone."""

from __future__ import annotations

import zlib

MAX_BODY = 16 * 1024 * 1024
"""No body that the outbox makes is longer; a damaged one might unpack to anything."""

_LEVEL = 1
"""JSON of records shrinks to a tenth, or less, with any."""

_HEAD = b"\x78\x01"
"""Of a zlib stream with a window of 32 KiB, made at the fastest level."""

_END = b"\x03\x00"
"""The block that is the last one of a stream, with nothing in it (RFC 1951, 3.2.6)."""


class Packer:
    """Packs bodies one after the other, to be used for a cycle and let go.

    A compressor of zlib takes 256 KiB, which malloc maps anew for each one (see `allocator`). Here all bodies share
    one, which is told to forget after each what it has seen.
    """

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS)

    def pack(self, body: bytes) -> bytes:
        """A body as a zlib stream, which ends with the Adler-32 of the body."""
        blocks = self._compressor.compress(body)
        rest = self._compressor.flush(zlib.Z_FULL_FLUSH)
        return b"".join((_HEAD, blocks, rest, _END, zlib.adler32(body).to_bytes(4, "big")))


def unpack(packed: bytes) -> bytes:
    """What `Packer.pack` was given.

    Raises:
        ValueError: the bytes are not those that were packed.
    """
    unpacking = zlib.decompressobj()
    try:
        body = unpacking.decompress(packed, MAX_BODY)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacking.eof:
        raise ValueError("it has no end")
    return body
