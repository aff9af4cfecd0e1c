"""When a cycle runs: at every multiple of the step, never two at once."""

from __future__ import annotations

import logging
import time
from threading import Event, Semaphore, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


def floor_to_step(now: float, step: int) -> int:
    """The latest multiple of `step` that is not after `now`, in seconds since the epoch."""
    return int(now) // step * step


class Scheduler:
    """Calls `cycle` at every multiple of `step` seconds since the epoch, in a thread of its own.

    Runs that fell due while the host slept are made up by one run at most; one that falls due while another is running
    is left out. When the clock is set back the runs go on at the new multiples, at most one step later.

    Args:
        step: seconds.
        cycle: what to run; an error it raises is logged and the next run comes all the same.
        skipped: told of a run that did not happen.
    """

    def __init__(self, step: int, cycle: Callable[[], None], skipped: Callable[[], None]) -> None:
        self._step = step
        self._cycle = cycle
        self._skipped = skipped
        self._stopping = Event()
        self._turns = Semaphore(0)
        self._busy = False

    def start(self) -> None:
        """Begin with the next multiple of the step."""
        Thread(target=self._run, name="cycle", daemon=True).start()
        Thread(target=self._keep_time, name="clock", daemon=True).start()

    def stop(self) -> None:
        """No further run begins; one that is under way is left to end by itself."""
        self._stopping.set()
        self._turns.release()

    def _keep_time(self) -> None:
        due = floor_to_step(time.time(), self._step) + self._step
        # No longer than a step at once: the wait takes no notice of a clock that is set.
        while not self._stopping.wait(min(max(due - time.time(), 0.0), self._step)):
            now = floor_to_step(time.time(), self._step)
            if now < due:
                if due - now > self._step:
                    log.warning("the clock was set back by about %d s", due - now)
                due = now + self._step
                continue
            if now > due or self._busy:
                self._on_skipped()
            if not self._busy:
                self._busy = True
                self._turns.release()
            due = now + self._step

    def _run(self) -> None:
        while self._turns.acquire() and not self._stopping.is_set():
            try:
                self._cycle()
            except Exception as error:
                log.exception("a cycle failed: %s", error)  # noqa: TRY401  of a repeated one only the message is shown
            self._busy = False

    def _on_skipped(self) -> None:
        self._skipped()
        log.warning("a cycle was skipped: the one before is still running or the host slept")
