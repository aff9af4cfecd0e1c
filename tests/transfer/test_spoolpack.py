from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.transfer.batches import body_of
from falcon_agent.transfer.points import body_of_points
from falcon_agent.transfer.spoolpack import MAX_BODY, Packer, unpack


def body(cycle: int, items: int = 200) -> bytes:
    return body_of([{"metric": f"m{number}", "value": cycle, "tags": "name=x"} for number in range(items)])


@given(bodies=st.lists(st.binary(max_size=2000), min_size=1))
def test_every_body_comes_back(bodies: list[bytes]) -> None:
    packer = Packer()
    packed = [packer.pack(each) for each in bodies]
    assert [unpack(each) for each in packed] == bodies


def test_a_body_needs_none_of_those_before_it() -> None:
    packer = Packer()
    bodies = [body(cycle) for cycle in range(5)]
    packed = [packer.pack(each) for each in bodies]
    assert [unpack(each) for each in reversed(packed)] == bodies[::-1]
    assert all(len(each) < len(body(0)) / 8 for each in packed)


def test_points_come_back_as_the_body() -> None:
    document = b'{"step":60,"timestamp":120,"layouts":[[["m","GAUGE"]]],"reports":[["h","n=1",0,"5"]]}'
    packed = Packer().pack_points(document)
    assert unpack(packed) == body_of_points(document)
    # What makes them points is under the checksum too.
    for form in range(256):
        if form != packed[0]:
            with pytest.raises(ValueError, match=r"."):
                unpack(bytes([form]) + packed[1:])
    with pytest.raises(ValueError, match="no document of points"):
        unpack(Packer().pack_points(b"[]"))


def test_what_an_older_version_packed_is_read() -> None:
    packed = zlib.compress(body(1), 1)
    assert unpack(packed) == body(1)
    with pytest.raises(ValueError, match="incorrect data check"):
        unpack(packed[:-1] + bytes([packed[-1] ^ 1]))
    with pytest.raises(ValueError, match="no end"):
        unpack(packed[:-1])


@pytest.mark.parametrize("bit", range(8))
def test_a_changed_bit_is_found_wherever_it_is(bit: int) -> None:
    packer = Packer()
    packer.pack(body(1))
    packed = packer.pack(body(2, 20))
    for at in range(len(packed)):
        changed = bytearray(packed)
        changed[at] ^= 1 << bit
        with pytest.raises(ValueError, match=r"."):
            unpack(bytes(changed))


def test_an_end_that_is_missing_is_found() -> None:
    packed = Packer().pack(body(1))
    for end in range(len(packed)):
        with pytest.raises(ValueError, match=r"."):
            unpack(packed[:end])


def test_garbage_is_found() -> None:
    for seed in range(1000):
        with pytest.raises(ValueError, match=r"."):
            unpack(random.Random(seed).randbytes(200))


def test_what_would_become_too_long_is_refused() -> None:
    assert len(unpack(Packer().pack(bytes(MAX_BODY)))) == MAX_BODY
    with pytest.raises(ValueError, match="no end"):
        unpack(Packer().pack(bytes(MAX_BODY + 1)))
