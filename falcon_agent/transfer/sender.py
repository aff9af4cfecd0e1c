"""The thread that empties the queue: oldest first, paced, patient, and honest about every record."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import orjson

from falcon_agent.errors import as_value
from falcon_agent.transfer.delivery import EMPTY, Delivery
from falcon_agent.transfer.failure import Rejected, Unreachable
from falcon_agent.transfer.reply import printable
from falcon_agent.transfer.serverclock import ServerClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.batches import Batch
    from falcon_agent.transfer.queue import Spool
    from falcon_agent.transfer.reply import Reply
    from falcon_agent.transfer.transport import Transport

_log = logging.getLogger(__name__)

_IDLE = 60.0
"""Seconds between two looks at an empty queue, if nothing wakes the thread before."""

_LOOK_AGAIN = 15.0
"""Seconds between two looks at a clock that is ahead: somebody may mend it."""

_LEAST_MARGIN = 60.0
"""Seconds that a timestamp may lie ahead of the transfer's time: clocks differ a little, and step may be short."""

_MAX_SERIES_LOGGED = 1000
"""Bad series that are named in the log; later ones are only counted."""

_ITEM_SHOWN = 500
"""Characters of a bad record in the log."""

_FAILURES_PER_WARNING = 20
"""Failed attempts per line of the log: one in ten minutes once the waits have grown."""

_JOIN = 1.0
"""Seconds that a push under way has to end by itself when the sender is to pause."""

_CUT_OFF = 0.3
"""Seconds that the thread has to end after its push was cut off; only a look-up of a name takes longer, and nobody can
end that."""

_UNKNOWN = -1
"""Differs from every timestamp."""


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
    A point of the future would have graph drop what follows it: so a batch waits while its timestamp is ahead
    of the transfer's own time. Where that is not told, as over JSON-RPC, nothing waits.

    Args:
        client: where to push.
        queue: what to push.
        stat: told `push.ok`, `push.failed` (by reason), `push.latency` (milliseconds), `records.sent`,
            `records.invalid` (reason `transfer`), by target `clock.ahead` (seconds by which the batch that
            waits is ahead, else 0) and `target.records`, and, by way of the queue, `records.lost`.
        backoff: first and longest upper bound of the wait after a failure, in seconds; the wait is random
            below the bound (full jitter), which doubles each time.
        pace: least seconds between pushes of different timestamps.
        clock: seconds, monotonic.
        sleep: waits so many seconds and returns True when the sender was told to stop; by default it does.
        rng: source of the jitter.
        target: name of the target, for the log and the statistics; empty where there is only one.
        step: seconds between two cycles; a batch may be ahead of the transfer's time by this, or by a minute.
        server_clock: keeps the transfer's time.
        resume: what `pause` of the predecessor left.
        succeeds: another sender may have pushed there until this one was made, so `start` keeps the pace from then on.
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
        *,
        target: str = "",
        step: float = _LEAST_MARGIN,
        server_clock: ServerClock | None = None,
        resume: Delivery | None = None,
        succeeds: bool = True,
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
        self._target = target
        self._prefix = f"{target}: " if target else ""
        self._margin = max(step, _LEAST_MARGIN)
        self._server_clock = server_clock or ServerClock()
        self._asked = False
        self._held = False
        self._thread: Thread | None = None
        self._delivery = resume
        self._succeeds = succeeds
        self._sent_timestamp: int | None = None
        self._sent_at = self._clock()
        self._failures = 0
        self._flush_until = 0.0
        self._logged: set[tuple[Any, Any, Any]] = set()

    def start(self) -> None:
        """Begin delivering in a thread of its own."""
        if self._succeeds:
            # What a predecessor pushed last is not known, only that it does so no more since this one was made.
            self._sent_timestamp = _UNKNOWN
        name = f"sender {self._target}" if self._target else "sender"
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def pause(self) -> Delivery | None:
        """End, and leave the queue to another sender, as a reload does; a push under way has a second.

        Returns:
            The delivery under way, for the successor to `resume`: without it, a batch that was being split
            would be pushed, and counted, from its beginning.
        """
        return self._delivery if self._end(0.0, _JOIN) else None

    def stop(self, flush_seconds: float) -> int:
        """Deliver what is possible within `flush_seconds`, then end and close the queue.

        A push that is under way at the end is cut off. What becomes of it nobody knows, so its records count
        as not delivered although the transfer may have taken them.

        Returns:
            Records that were not delivered and do not outlive the queue, counted as lost (`stopped`).
        """
        self._end(flush_seconds, flush_seconds)
        return self._queue.close()

    def _end(self, flush_seconds: float, patience: float) -> bool:
        """End the thread; False if it still hangs, as in a look-up of a name, and touches what it knows."""
        self._flush_until = self._clock() + flush_seconds
        self._stopping.set()
        self._queue.wake()
        thread, self._thread = self._thread, None
        if thread is None:
            self._client.close()
            return True
        thread.join(patience)
        self._client.close()
        thread.join(_CUT_OFF)
        return not thread.is_alive()

    def send_once(self) -> Summary:
        """Push everything that is queued, each batch once, in the calling thread; for a single cycle."""
        sent = invalid = 0
        replies: list[Reply] = []
        error: Rejected | Unreachable | None = None
        while error is None and (batch := self._queue.peek()) is not None:
            self._keep_pace(batch)
            delivery = self._delivery = Delivery(batch)
            error = self._attempt(batch)
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
            error = self._attempt(batch)
            if self._target:
                self._stat.set("target.records", self._queue.records, self._target)
        except Exception:  # noqa: BLE001  without its sender the agent would be silent for ever
            _log.exception("%scannot deliver a batch", self._prefix)
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

    def _attempt(self, batch: Batch) -> Rejected | Unreachable | None:
        """Deliver a batch as far as it goes; the error that stopped it, or None when its fate is known."""
        try:
            early = self._early(batch)
            if early is not None:
                self._queue.release(batch)
                return early
            delivery = self._resumed(batch)
            self._advance(delivery)
        except (Rejected, Unreachable) as error:
            self._queue.release(batch)
            self._failed(error)
            return as_value(error)
        self._bury(delivery)
        self._queue.ack(batch)
        self._delivery = None
        self._succeeded()
        return None

    def _early(self, batch: Batch) -> Unreachable | None:
        """Why it is too early for a batch, by the transfer's own time, or None."""
        if not self._asked or self._server_clock.ahead(batch.timestamp) > self._margin:
            # What is known may be old, so it is asked for before anything is held back for it.
            self._ask()
        ahead = self._server_clock.ahead(batch.timestamp)
        error = None
        if ahead > self._margin:
            error = Unreachable(
                f"cannot push yet: the records are {ahead:.0f} s ahead of the transfer's time, and graph would "
                "then drop those that follow; check the clocks of this host and of the transfer",
                "clock",
                min(ahead - self._margin, _LOOK_AGAIN),
            )
        self._stat.set("clock.ahead", ahead if error else 0.0, self._target)
        if (error is not None) != self._held:
            self._held = error is not None
            words = error or "the records are not ahead of the transfer's time any more"
            _log.warning("%s%s", self._prefix, words)
        return error

    def _ask(self) -> None:
        """Learn the transfer's time by an empty push."""
        try:
            self._exchange(EMPTY)
        except Rejected as error:
            if not error.body_at_fault:
                raise
        self._asked = True

    def _resumed(self, batch: Batch) -> Delivery:
        """The delivery of this batch that was begun before, or a new one."""
        begun = self._delivery
        if begun is None or not begun.is_of(batch):
            begun = self._delivery = Delivery(batch)
        return begun

    def _advance(self, delivery: Delivery) -> None:
        sent, invalid = delivery.sent, delivery.invalid
        try:
            while not delivery.done:
                delivery.advance(self._post)
        finally:
            self._account(delivery, delivery.sent - sent, delivery.invalid - invalid)

    def _post(self, body: bytes, /) -> Reply:
        reply = self._exchange(body)
        self._stat.count("push.ok")
        self._stat.set("push.latency", reply.latency * 1000)
        return reply

    def _exchange(self, body: bytes) -> Reply:
        try:
            reply = self._client.post(body)
        except (Rejected, Unreachable) as error:
            self._stat.count("push.failed", error.reason)
            raise
        self._server_clock.learn(reply.server_time)
        return reply

    def _account(self, delivery: Delivery, sent: int, invalid: int) -> None:
        """Add to the statistics what the last attempt changed."""
        self._sent_timestamp = delivery.batch.timestamp
        self._sent_at = self._clock()
        if sent:
            self._stat.count("records.sent", n=sent)
        if invalid:
            self._stat.count("records.invalid", "transfer", invalid)

    def _bury(self, delivery: Delivery) -> None:
        """Log the bad records of a finished delivery, each series once, and keep all of them."""
        by_reason: dict[str, list[Any]] = {}
        for item, reason in delivery.bad:
            by_reason.setdefault(reason, []).append(item)
            series = (item["endpoint"], item["metric"], item["tags"])
            if series not in self._logged and len(self._logged) < _MAX_SERIES_LOGGED:
                self._logged.add(series)
                shown = printable(orjson.dumps(item).decode(), _ITEM_SHOWN)
                _log.warning("%sthe transfer refuses %s: %s", self._prefix, shown, reason)
        if delivery.abandoned:
            by_reason["not delivered: too many records of its batch are refused"] = delivery.abandoned
        unnamed = delivery.invalid - len(delivery.bad)
        if unnamed:
            _log.warning(
                "%sthe transfer refuses %d more records; the search for them was ended", self._prefix, unnamed
            )
        for reason, items in by_reason.items():
            self._queue.bury(items, reason)

    def _succeeded(self) -> None:
        if self._failures:
            _log.info(
                "%sa transfer takes records again, after %d failed attempts", self._prefix, self._failures
            )
        self._failures = 0

    def _failed(self, error: Rejected | Unreachable) -> None:
        """Say it the first time and now and then, so that neither the log nor the reader is flooded."""
        level = logging.DEBUG if self._failures % _FAILURES_PER_WARNING else logging.WARNING
        self._failures += 1
        _log.log(level, "%s%s (%d records are waiting)", self._prefix, error, self._queue.records)

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
