"""What graph keeps of what a transfer accepted.

graph keeps a point only if it is newer than the newest of its series. transfer hands the records of a POST on in
groups of 200, concurrently, and returns before they are stored; so the groups of one POST, and of POSTs that follow
each other closely, reach graph in any order. Measured on the real thing: 500 series x 10 points, one POST per
timestamp: 2410 of 5000 are stored without a pause, all of them with 0.2 s between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.chaos.ledger import Arrival, Key

GROUP = 200
"""Records that transfer hands on together."""

OVERLAP_SECONDS = 0.2
"""Within this time of its arrival at transfer a group has reached graph."""


def stored(arrivals: Sequence[Arrival], rng: random.Random) -> set[Key]:
    """The points that graph keeps when each group takes a random part of `OVERLAP_SECONDS`."""
    groups = [
        (arrival.at + rng.uniform(0, OVERLAP_SECONDS), arrival.keys[start : start + GROUP])
        for arrival in arrivals
        for start in range(0, len(arrival.keys), GROUP)
    ]
    newest: dict[str, int] = {}
    kept: set[Key] = set()
    for _, keys in sorted(groups):
        for series, timestamp in keys:
            if timestamp > newest.get(series, 0):
                newest[series] = timestamp
                kept.add((series, timestamp))
    return kept


def sure(arrivals: Sequence[Arrival]) -> set[Key]:
    """The points that graph keeps whatever order the groups reach it in.

    A point is in danger when a newer one of its series arrived before it, or less than `OVERLAP_SECONDS` after it.
    A point that is pushed twice is kept if any of its arrivals is out of danger.
    """
    by_series: dict[str, list[tuple[float, int]]] = {}
    for arrival in arrivals:
        for series, timestamp in arrival.keys:
            by_series.setdefault(series, []).append((arrival.at, timestamp))
    return {(series, timestamp) for series, points in by_series.items() for timestamp in _safe(points)}


def _safe(points: Sequence[tuple[float, int]]) -> set[int]:
    """The timestamps of one series that are kept in any case."""
    # When each timestamp or a newer one came first, from the newest on.
    arrived: dict[int, float] = {}
    for at, timestamp in points:
        arrived[timestamp] = min(at, arrived.get(timestamp, at))
    safe = set()
    newer = float("inf")
    for timestamp in sorted(arrived, reverse=True):
        if arrived[timestamp] + OVERLAP_SECONDS <= newer:
            safe.add(timestamp)
        newer = min(newer, arrived[timestamp])
    return safe
