"""The bodies of POSTs: made of records, taken apart, made of parts again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from falcon_agent.metric import Record


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
    by_timestamp: dict[int, list[bytes]] = {}
    for record in records:
        by_timestamp.setdefault(record.timestamp, []).append(orjson.dumps(record))
    return [
        batch
        for timestamp, items in sorted(by_timestamp.items())
        for at in range(0, len(items), batch_size)
        for batch in _packed(items[at : at + batch_size], timestamp, max_bytes)
    ]


def _packed(items: Sequence[bytes], timestamp: int, max_bytes: int) -> Iterator[Batch]:
    body = b"[" + b",".join(items) + b"]"
    if len(body) <= max_bytes or len(items) == 1:
        yield Batch(body, len(items), timestamp)
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
