"""The scheduler: at multiples of the step, one at a time, whatever the job does."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.scheduler import Scheduler, floor_to_step

if TYPE_CHECKING:
    import pytest


@given(st.floats(0, 4e9), st.integers(1, 86400))
def test_floor_is_the_latest_multiple_not_after_now(now: float, step: int) -> None:
    floored = floor_to_step(now, step)
    assert floored % step == 0
    assert floored <= now < floored + step + 1


def test_runs_come_at_multiples_of_the_step() -> None:
    runs: list[float] = []
    enough = threading.Event()

    def cycle() -> None:
        runs.append(time.time())
        if len(runs) == 3:
            enough.set()

    scheduler = Scheduler(1, cycle, lambda: None)
    scheduler.start()
    assert enough.wait(10)
    scheduler.stop()
    assert [int(run) - int(runs[0]) for run in runs[:3]] == [0, 1, 2]
    # Late by scheduling, never early: an early run would get the timestamp of the step before.
    assert all(run % 1 < 0.9 for run in runs)


def test_a_slow_run_is_not_overlapped_and_the_skipped_one_is_told() -> None:
    running = threading.Semaphore(1)
    overlapped = threading.Event()
    skipped = threading.Event()
    release = threading.Event()

    def cycle() -> None:
        if not running.acquire(blocking=False):
            overlapped.set()
            return
        release.wait(10)
        running.release()

    scheduler = Scheduler(1, cycle, skipped.set)
    scheduler.start()
    assert skipped.wait(10)
    release.set()
    scheduler.stop()
    assert not overlapped.is_set()


def test_a_run_that_fails_does_not_end_the_next(caplog: pytest.LogCaptureFixture) -> None:
    runs = threading.Semaphore(0)

    def cycle() -> None:
        runs.release()
        raise ValueError("by design")

    scheduler = Scheduler(1, cycle, lambda: None)
    scheduler.start()
    assert runs.acquire(timeout=10)
    assert runs.acquire(timeout=10)
    scheduler.stop()
    assert any("by design" in message for message in caplog.messages)


def test_stop_does_not_wait_for_a_run_that_hangs() -> None:
    begun = threading.Event()
    release = threading.Event()

    def cycle() -> None:
        begun.set()
        release.wait(20)

    scheduler = Scheduler(1, cycle, lambda: None)
    scheduler.start()
    assert begun.wait(10)
    stopper = threading.Thread(target=scheduler.stop)
    stopper.start()
    stopper.join(5)
    assert not stopper.is_alive()
    release.set()
