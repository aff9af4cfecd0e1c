"""The model loses what the real graph was seen to lose, and keeps what it was seen to keep."""

from __future__ import annotations

import random

from tests.chaos.graphmodel import OVERLAP_SECONDS, stored, sure
from tests.chaos.ledger import Arrival


def replay(series: int, cycles: int, gap: float) -> list[Arrival]:
    """One POST per timestamp, oldest first."""
    return [
        Arrival(number * gap, 0.0, tuple((f"s{one}", number + 1) for one in range(series)))
        for number in range(cycles)
    ]


def test_a_replay_without_pause_loses_points_and_a_paced_one_does_not() -> None:
    rng = random.Random(1)
    assert 1000 < len(stored(replay(500, 10, 0.01), rng)) < 4000
    assert len(stored(replay(500, 10, OVERLAP_SECONDS), rng)) == 5000
    assert len(stored(replay(500, 10, 1.0), rng)) == 5000


def test_what_is_sure_is_stored_whatever_the_order() -> None:
    for gap in (0.0, 0.05, 0.15, 0.2, 0.3):
        arrivals = replay(500, 10, gap)
        safe = sure(arrivals)
        for seed in range(5):
            assert safe <= stored(arrivals, random.Random(seed))
    assert len(sure(replay(500, 10, 0.3))) == 5000
    # Only the newest of each series is out of danger.
    assert len(sure(replay(500, 10, 0.05))) == 500


def test_live_points_before_the_backlog_lose_the_backlog() -> None:
    live = Arrival(0.0, 0.0, (("s", 10),))
    backlog = [Arrival(float(number), 0.0, (("s", number),)) for number in range(1, 10)]
    assert sure([live, *backlog]) == stored([live, *backlog], random.Random(1)) == {("s", 10)}


def test_a_point_that_comes_twice_is_kept_once() -> None:
    arrivals = [
        Arrival(0.0, 0.0, (("s", 1),)),
        Arrival(1.0, 0.0, (("s", 1),)),
        Arrival(2.0, 0.0, (("s", 2),)),
    ]
    assert sure(arrivals) == stored(arrivals, random.Random(1)) == {("s", 1), ("s", 2)}


def test_two_timestamps_in_one_post_are_a_danger() -> None:
    assert sure([Arrival(0.0, 0.0, (("s", 1), ("s", 2)))]) == {("s", 2)}
