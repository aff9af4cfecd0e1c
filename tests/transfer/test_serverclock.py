from __future__ import annotations

import time

from falcon_agent.transfer.serverclock import ServerClock, boot_seconds


class Elapsed:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_nothing_is_known_before_a_reply_told_it() -> None:
    clock = ServerClock()
    assert clock.now() is None
    assert clock.ahead(10**12) == 0.0
    clock.learn(None)
    assert clock.now() is None


def test_what_a_reply_told_goes_on() -> None:
    elapsed = Elapsed()
    clock = ServerClock(elapsed)
    clock.learn(1_800_000_000.0)
    elapsed.seconds += 90
    assert clock.now() == 1_800_000_090.0
    assert clock.ahead(1_800_000_100) == 10.0
    assert clock.ahead(1_800_000_000) == 0.0


def test_a_later_reply_counts_and_one_without_time_does_not() -> None:
    elapsed = Elapsed()
    clock = ServerClock(elapsed)
    clock.learn(1_800_000_000.0)
    clock.learn(1_700_000_000.0)
    clock.learn(None)
    assert clock.now() == 1_700_000_000.0


def test_it_goes_by_the_clock_that_counts_sleep() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boot_seconds() <= time.clock_gettime(time.CLOCK_BOOTTIME)
