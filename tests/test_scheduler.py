"""The scheduler: at multiples of the step, one at a time, whatever the job does."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.scheduler import Scheduler, floor_to_step
from tests.cli.programs import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@given(st.floats(0, 4e9), st.integers(1, 86400))
def test_floor_is_the_latest_multiple_not_after_now(now: float, step: int) -> None:
    floored = floor_to_step(now, step)
    assert floored % step == 0
    assert floored <= now < floored + step + 1


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    """What a thread still does, and logs, after `stop` is not to reach the next test."""
    yield
    until(
        lambda: not {thread.name for thread in threading.enumerate()} & {"cycle", "clock"},
        "the threads to end",
    )


def test_runs_come_at_multiples_of_the_step() -> None:
    runs: list[float] = []

    def three_in_time() -> bool:
        """Late by the machine now and then, never early: that would be the end of the step before."""
        last = runs[-3:]
        return [int(run) - int(last[0]) for run in last] == [0, 1, 2] and all(run % 1 < 0.5 for run in last)

    scheduler = Scheduler(1, lambda: runs.append(time.time()), lambda: None)
    scheduler.start()
    until(three_in_time, "three runs in a row at the beginning of their steps")
    scheduler.stop()


def test_a_slow_run_is_not_overlapped_and_the_skipped_one_is_told() -> None:
    running = threading.Semaphore(1)
    overlapped = threading.Event()
    skipped = threading.Event()
    release = threading.Event()

    def cycle() -> None:
        if not running.acquire(blocking=False):
            overlapped.set()
            return
        release.wait()
        running.release()

    scheduler = Scheduler(1, cycle, skipped.set)
    scheduler.start()
    assert skipped.wait(PATIENCE)
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
    assert runs.acquire(timeout=PATIENCE)
    assert runs.acquire(timeout=PATIENCE)
    scheduler.stop()
    assert any("by design" in message for message in caplog.messages)


def test_stop_does_not_wait_for_a_run_that_hangs() -> None:
    begun = threading.Event()
    release = threading.Event()

    def cycle() -> None:
        begun.set()
        release.wait()

    scheduler = Scheduler(1, cycle, lambda: None)
    scheduler.start()
    assert begun.wait(PATIENCE)
    stopper = threading.Thread(target=scheduler.stop)
    stopper.start()
    stopper.join(PATIENCE)
    returned = not stopper.is_alive()
    release.set()
    assert returned
