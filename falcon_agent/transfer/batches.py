"""Records become the bytes of a POST at once, so that a waiting cycle costs bytes and not objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from falcon_agent.metric import Record

_PIECE = 200
"""Items that are made one text at a time, some 40 KB."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The body of one POST. Batches are told apart by identity: two may hold the same bytes.

    Attributes:
        body: a JSON array of items, as UTF-8.
        count: items in it.
        timestamp: the one that all of them carry, in seconds since the epoch.
    """

    body: bytes
    count: int
    timestamp: int


def make_batches(records: Iterable[Record], batch_size: int, max_bytes: int) -> list[Batch]:
    """Pack records that passed `contract.refusal`, oldest timestamp first, one timestamp per batch.

    transfer handles the items of a POST concurrently, so two points of a series in one POST may arrive in the
    wrong order and graph drops the older: hence one timestamp per batch.

    Args:
        records: in any order; the order within a timestamp is kept.
        batch_size: most records in a batch.
        max_bytes: longest body; a single record longer than that still goes alone.
    """
    by_timestamp: dict[int, list[str]] = {}
    for record in records:
        by_timestamp.setdefault(record.timestamp, []).append(orjson.dumps(record).decode())
    return [
        batch
        for timestamp in sorted(by_timestamp)
        for batch in batches_of([by_timestamp[timestamp]], timestamp, batch_size, max_bytes)
    ]


def batches_of(
    portions: Iterable[Sequence[str]], timestamp: int, batch_size: int, max_bytes: int
) -> Iterator[Batch]:
    """Pack items of one timestamp that are JSON already, each batch as soon as it is full.

    Args:
        portions: the items, some at a time.
        timestamp: of all of them.
        batch_size: as of `make_batches`.
        max_bytes: likewise.
    """
    waiting: list[str] = []
    for items in portions:
        waiting += items
        while len(waiting) >= batch_size:
            yield from _packed(waiting[:batch_size], timestamp, max_bytes)
            del waiting[:batch_size]
    if waiting:
        yield from _packed(waiting, timestamp, max_bytes)


def _packed(items: Sequence[str], timestamp: int, max_bytes: int) -> Iterator[Batch]:
    # In pieces: memory for a long text comes from the kernel page by page, each time anew.
    pieces = [",".join(items[at : at + _PIECE]).encode() for at in range(0, len(items), _PIECE)]
    size = sum(map(len, pieces)) + len(pieces) + 1
    if size <= max_bytes or len(items) == 1:
        pieces[0] = b"[" + pieces[0]
        pieces[-1] += b"]"
        yield Batch(b",".join(pieces), len(items), timestamp)
        return
    middle = len(items) // 2
    yield from _packed(items[:middle], timestamp, max_bytes)
    yield from _packed(items[middle:], timestamp, max_bytes)


def items_of(body: bytes) -> list[Any]:
    """The items of a body that `make_batches` made, to split it."""
    items: list[Any] = orjson.loads(body)
    return items


def body_of(items: Sequence[object]) -> bytes:
    """The body of a POST of these items."""
    return orjson.dumps(items)
