"""The thread that empties the queue: oldest first, paced, patient, and honest about every record."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from falcon_agent.transfer.delivery import Delivery
from falcon_agent.transfer.failure import Rejected, Unreachable
from falcon_agent.transfer.reply import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.batches import Batch
    from falcon_agent.transfer.queue import Spool
    from falcon_agent.transfer.reply import Reply

_log = logging.getLogger(__name__)

_IDLE = 60.0
"""Seconds between two looks at an empty queue, if nothing wakes the thread before."""

_MAX_SERIES_LOGGED = 1000
"""Bad series that are named in the log; later ones are only counted."""

_ITEM_SHOWN = 500
"""Characters of a bad record in the log."""

_FAILURES_PER_WARNING = 20
"""Failed attempts per line of the log: one in ten minutes once the waits have grown."""

_JOIN = 1.0
"""Seconds that the thread has to end after its push was cut off."""


class Transport(Protocol):
    """Pushes bodies; `client.Client` is one."""

    def post(self, body: bytes) -> Reply:
        """Push, or raise `Rejected` or `Unreachable`."""

    def close(self) -> None:
        """End a push that is under way, from another thread."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of everything that was queued; true if all of it was accepted, and `str` says it in words.

    Attributes:
        sent: records accepted.
        invalid: records that the transfer refused.
        left: records still in the queue.
        replies: the answers, one per push that was taken.
        error: why it ended early, or None.
    """

    sent: int
    invalid: int
    left: int
    replies: tuple[Reply, ...]
    error: Rejected | Unreachable | None

    def __bool__(self) -> bool:
        return self.error is None and not self.invalid

    def __str__(self) -> str:
        words = [f"{self.sent} records accepted"]
        if self.replies:
            last = self.replies[-1]
            milliseconds = sum(reply.latency for reply in self.replies) * 1000
            words.append(f" by {last.address} in {milliseconds:.0f} ms; it said {last.message!r}")
        if self.invalid:
            words.append(f"; {self.invalid} refused as invalid")
        if self.left:
            words.append(f"; {self.left} not delivered")
        if self.error is not None:
            words.append(f"; {self.error}")
        return "".join(words)


class Sender:
    """Delivers batches one after the other and removes each from the queue only when its fate is known.

    graph drops a point that is not newer than the newest of its series, and transfer handles what it gets
    concurrently: so pushes never overlap, the oldest goes first, and between two timestamps there is a pause.

    Args:
        client: where to push.
        queue: what to push.
        stat: told `push.ok`, `push.failed` (by reason), `push.latency` (milliseconds), `records.sent`,
            `records.invalid` (reason `transfer`) and, by way of the queue, `records.lost`.
        backoff: first and longest upper bound of the wait after a failure, in seconds; the wait is random
            below the bound (full jitter), which doubles each time.
        pace: least seconds between pushes of different timestamps.
        clock: seconds, monotonic.
        sleep: waits so many seconds and returns True when the sender was told to stop; by default it does.
        rng: source of the jitter.
    """

    def __init__(
        self,
        client: Transport,
        queue: Spool,
        stat: SelfStat,
        backoff: tuple[float, float] = (1.0, 60.0),
        pace: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], bool] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._queue = queue
        self._stat = stat
        self._backoff = backoff
        self._pace = pace
        self._clock = clock
        self._stopping = Event()
        self._sleep = sleep or self._stopping.wait
        self._rng = rng or random.Random()  # noqa: S311  spreads retries, hides nothing
        self._thread: Thread | None = None
        self._delivery: Delivery | None = None
        self._sent_timestamp: int | None = None
        self._sent_at = 0.0
        self._failures = 0
        self._flush_until = 0.0
        self._logged: set[tuple[Any, Any, Any]] = set()

    def start(self) -> None:
        """Begin delivering in a thread of its own."""
        self._thread = Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """End, and leave the queue to another sender, as a reload does; a push under way has a second."""
        self._end(0.0, _JOIN)

    def stop(self, flush_seconds: float) -> int:
        """Deliver what is possible within `flush_seconds`, then end and close the queue.

        A push that is under way at the end is cut off. What becomes of it nobody knows, so its records count
        as lost although the transfer may have taken them.

        Returns:
            Records that were not delivered and do not outlive the queue, counted as lost (`stopped`).
        """
        self._end(flush_seconds, flush_seconds)
        return self._queue.close()

    def _end(self, flush_seconds: float, patience: float) -> None:
        self._flush_until = self._clock() + flush_seconds
        self._stopping.set()
        self._queue.wake()
        if self._thread is not None:
            self._thread.join(patience)
            self._client.close()
            self._thread.join(_JOIN)
            self._thread = None
        else:
            self._client.close()

    def send_once(self) -> Summary:
        """Push everything that is queued, each batch once, in the calling thread; for a single cycle."""
        sent = invalid = 0
        replies: list[Reply] = []
        error: Rejected | Unreachable | None = None
        while error is None and (batch := self._queue.peek()) is not None:
            self._keep_pace(batch)
            delivery = self._delivery = Delivery(batch)
            error = self._attempt(delivery)
            sent += delivery.sent
            invalid += delivery.invalid
            replies += delivery.replies
        return Summary(sent, invalid, self._queue.records, tuple(replies), error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._queue.wait(_IDLE):
                self._turn()
        while self._queue.records and self._flushing():
            self._turn()

    def _flushing(self) -> bool:
        return self._clock() < self._flush_until

    def _turn(self) -> None:
        """Deliver the oldest batch, or wait after failing to."""
        try:
            batch = self._queue.peek()
            if batch is None:
                return
            self._keep_pace(batch)
            if self._stopping.is_set() and not self._flushing():
                self._queue.release(batch)
                return
            if self._delivery is None or self._delivery.batch is not batch:
                self._delivery = Delivery(batch)
            error = self._attempt(self._delivery)
        except Exception:  # noqa: BLE001  without its sender the agent would be silent for ever
            _log.exception("cannot deliver a batch")
            self._stat.count("push.failed", "internal")
            self._wait(self._backoff[1])
            return
        if error is not None:
            self._wait(self._delay(error))

    def _keep_pace(self, batch: Batch) -> None:
        """Wait until a push of another timestamp than the last one's may follow it."""
        if self._sent_timestamp not in {None, batch.timestamp}:
            self._wait(self._sent_at + self._pace - self._clock())
            if self._stopping.is_set():
                # Woken early; graph needs the pause all the same.
                self._wait(self._sent_at + self._pace - self._clock())

    def _attempt(self, delivery: Delivery) -> Rejected | Unreachable | None:
        """Deliver a batch as far as it goes; the error that stopped it, or None when its fate is known."""
        sent, invalid = delivery.sent, delivery.invalid
        try:
            while not delivery.done:
                delivery.advance(self._post)
        except (Rejected, Unreachable) as error:
            self._queue.release(delivery.batch)
            self._failed(error)
            return error
        finally:
            self._account(delivery, delivery.sent - sent, delivery.invalid - invalid)
        self._queue.ack(delivery.batch)
        self._delivery = None
        self._succeeded()
        return None

    def _post(self, body: bytes, /) -> Reply:
        try:
            reply = self._client.post(body)
        except (Rejected, Unreachable) as error:
            self._stat.count("push.failed", error.reason)
            raise
        self._stat.count("push.ok")
        self._stat.set("push.latency", reply.latency * 1000)
        return reply

    def _account(self, delivery: Delivery, sent: int, invalid: int) -> None:
        """Add to the statistics what the last attempt changed."""
        self._sent_timestamp = delivery.batch.timestamp
        self._sent_at = self._clock()
        if sent:
            self._stat.count("records.sent", n=sent)
        if invalid:
            self._stat.count("records.invalid", "transfer", invalid)
        if delivery.done and delivery.invalid:
            self._name(delivery)

    def _name(self, delivery: Delivery) -> None:
        """Log the bad records of a finished delivery, each series once."""
        for item in delivery.bad:
            series = (item["endpoint"], item["metric"], item["tags"])
            if series in self._logged or len(self._logged) >= _MAX_SERIES_LOGGED:
                continue
            self._logged.add(series)
            _log.warning("the transfer refuses %s", printable(orjson.dumps(item).decode(), _ITEM_SHOWN))
        unnamed = delivery.invalid - len(delivery.bad)
        if unnamed:
            _log.warning("the transfer refuses %d more records; the search for them was ended", unnamed)

    def _succeeded(self) -> None:
        if self._failures:
            _log.info("a transfer takes records again, after %d failed attempts", self._failures)
        self._failures = 0

    def _failed(self, error: Rejected | Unreachable) -> None:
        """Say it the first time and now and then, so that neither the log nor the reader is flooded."""
        level = logging.DEBUG if self._failures % _FAILURES_PER_WARNING else logging.WARNING
        self._failures += 1
        _log.log(level, "%s (%d records are waiting)", error, self._queue.records)

    def _delay(self, error: Rejected | Unreachable) -> float:
        """Seconds to wait after the latest failure."""
        base, longest = self._backoff
        # The exponent is bounded, for a number with a million bits takes long.
        bound = min(longest, base * 2 ** min(self._failures - 1, 30))
        delay = self._rng.uniform(0, bound)
        asked = error.retry_after if isinstance(error, Unreachable) else None
        return delay if asked is None else asked + delay

    def _wait(self, seconds: float) -> None:
        """Wait, but when stopping no longer than the flush lasts."""
        if self._stopping.is_set():
            seconds = min(seconds, self._flush_until - self._clock())
            if seconds > 0:
                time.sleep(seconds)
        elif seconds > 0:
            self._sleep(seconds)
