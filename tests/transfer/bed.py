"""A sender without threads and real time: a clock that moves when somebody sleeps, a transport that obeys."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

from falcon_agent.metric import Record
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.batches import make_batches
from falcon_agent.transfer.failure import Rejected
from falcon_agent.transfer.queue import MemoryQueue
from falcon_agent.transfer.reply import Reply
from falcon_agent.transfer.sender import Sender
from falcon_agent.transfer.serverclock import ServerClock

if TYPE_CHECKING:
    from falcon_agent.transfer.delivery import Delivery


def records(timestamp: int, count: int = 2, tags: str = "") -> list[Record]:
    return [Record("h", f"m{number}", 1, 60, "GAUGE", tags, timestamp) for number in range(count)]


class Bed:
    """Items with the tag `poison=400` are badly typed for its transfer, other poison is counted invalid."""

    def __init__(self) -> None:
        self.stat = SelfStat()
        self.queue = MemoryQueue(10**7, self.stat)
        self.now = 100.0
        self.offset: float | None = None
        """What the transfer's time is ahead of `now`; None if it does not tell."""
        self.slept: list[float] = []
        self.outcomes: list[Exception | None] = []
        """What becomes of the next pushes; of empty ones, which take no time here, `trouble` says it."""
        self.trouble: Exception | None = None
        self.pushed: list[tuple[float, int]] = []
        self.accepted: list[str] = []
        self.asked = 0
        self.closed = False
        self.sender = self.successor()

    def successor(
        self,
        step: float = 60.0,
        target: str = "",
        resume: Delivery | None = None,
        *,
        succeeds: bool = True,
    ) -> Sender:
        self.sender = Sender(
            self,
            self.queue,
            self.stat,
            clock=lambda: self.now,
            sleep=self.sleep,
            rng=random.Random(7),
            target=target,
            step=step,
            server_clock=ServerClock(lambda: self.now),
            resume=resume,
            succeeds=succeeds,
        )
        return self.sender

    def sleep(self, seconds: float) -> bool:
        self.slept.append(seconds)
        self.now += seconds
        return False

    def post(self, body: bytes) -> Reply:
        items = json.loads(body)
        if not items:
            self.asked += 1
            if self.trouble is not None:
                raise self.trouble
            return Reply(0, 0, "ok", server_time=self._time())
        self.now += 0.25
        outcome = self.outcomes.pop(0) if self.outcomes else None
        self.pushed.append((self.now, items[0]["timestamp"]))
        if outcome is not None:
            raise outcome
        if any(item["tags"] == "poison=400" for item in items):
            raise Rejected("http://h/", 400, "decode error")
        good = [item["metric"] for item in items if "poison" not in item["tags"]]
        self.accepted += good
        return Reply(len(items), len(items) - len(good), "ok", 0.25, "http://h/", self._time())

    def _time(self) -> float | None:
        return None if self.offset is None else self.now + self.offset

    def close(self) -> None:
        self.closed = True

    def put(self, *timestamps: int) -> None:
        for timestamp in timestamps:
            self.queue.put(make_batches(records(timestamp), 1000, 10**6))

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.sender._turn()
