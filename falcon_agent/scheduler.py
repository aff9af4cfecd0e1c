"""When a cycle runs: at every multiple of the step, never two at once."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from apscheduler.events import JobExecutionEvent, JobSubmissionEvent

log = logging.getLogger(__name__)


def floor_to_step(now: float, step: int) -> int:
    """The latest multiple of `step` that is not after `now`, in seconds since the epoch."""
    return int(now) // step * step


class Scheduler:
    """Calls `cycle` at every multiple of `step` seconds since the epoch, in a thread of its own.

    Runs that fell due while one was running, or while the host slept, are made up by one run at most. When the clock is
    set back the runs go on at the new multiples, at most one step later.

    Args:
        step: seconds.
        cycle: what to run; an error it raises is logged and the next run comes all the same.
        skipped: told of a run that did not happen.
    """

    def __init__(self, step: int, cycle: Callable[[], None], skipped: Callable[[], None]) -> None:
        self._step = timedelta(seconds=step)
        self._skipped = skipped
        self._stopping = Event()
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": step},
            timezone=UTC,
        )
        first = datetime.fromtimestamp(0, UTC)
        self._trigger = IntervalTrigger(seconds=step, start_date=first, timezone=UTC)
        self._job = self._scheduler.add_job(cycle, self._trigger, name="cycle")
        self._scheduler.add_listener(self._on_skipped, EVENT_JOB_MAX_INSTANCES | EVENT_JOB_MISSED)
        self._scheduler.add_listener(self._on_error, EVENT_JOB_ERROR)

    def start(self) -> None:
        """Begin with the next multiple of the step."""
        self._scheduler.start()
        Thread(target=self._watch_clock, name="clock", daemon=True).start()

    def _watch_clock(self) -> None:
        """Plan anew when the clock was set back: the scheduler would wait until it is as late as it was before."""
        while not self._stopping.wait(self._step.total_seconds()):
            now = datetime.now(UTC)
            planned = self._job.next_run_time
            if planned is not None and planned - now > self._step:
                log.warning("the clock was set back by about %s", planned - now)
                self._job.modify(next_run_time=self._trigger.get_next_fire_time(None, now))

    def stop(self) -> None:
        """No further run begins; one that is under way is left to end by itself."""
        self._stopping.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _on_skipped(self, _: JobSubmissionEvent) -> None:
        self._skipped()
        log.warning("a cycle was skipped: the one before is still running or the host slept")

    def _on_error(self, event: JobExecutionEvent) -> None:
        log.error("a cycle failed: %s\n%s", event.exception, event.traceback)
