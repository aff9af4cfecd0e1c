"""`falcon-agent` with a tap: the real program, which also writes down what it promises and what it gives up.

What a killed process had counted dies with it. So every record handed over for delivery, every one counted as lost,
and every push, when it begins and when its answer is heard, is appended to the file named in CHAOS_JOURNAL at that very
moment; `write` hands it to the kernel, which outlives the process.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, SupportsIndex

from falcon_agent.cli import main
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.batches import items_of
from falcon_agent.transfer.httpclient import HttpClient
from falcon_agent.transfer.outbox import Outbox
from falcon_agent.transfer.points import body_of_points
from tests.chaos.ledger import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from falcon_agent.transfer.points import Points
    from falcon_agent.transfer.reply import Reply

_COUNTED = {("records.lost", None), ("records.invalid", "transfer")}


class _Journal:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, what: str, **fields: Any) -> None:
        line = json.dumps({"what": what, "life": os.getpid(), "at": time.monotonic(), **fields})
        os.write(self._file, line.encode() + b"\n")


class _Tap:
    """Stands before the spool for the one who fills it."""

    _numbers = itertools.count()

    def __init__(self, spool: Any, journal: _Journal) -> None:
        self._spool = spool
        self._journal = journal

    def put(self, batches: Iterable[Points]) -> None:
        batches = list(batches)
        number = next(self._numbers)
        keys = [key_of(item) for batch in batches for item in items_of(body_of_points(batch.document))]
        self._journal.write("offered", number=number, keys=keys)
        self._spool.put(batches)
        self._journal.write("promised", number=number)


def _install(journal: _Journal) -> None:
    make, count = Outbox.__init__, SelfStat.count

    def tapped_make(self: Outbox, spool: Any, *args: Any, **kwargs: Any) -> None:
        make(self, _Tap(spool, journal), *args, **kwargs)

    def tapped_count(self: SelfStat, name: str, reason: str = "", n: int = 1) -> None:
        if (name, None) in _COUNTED or (name, reason) in _COUNTED:
            journal.write("lost", name=name, reason=reason, records=n)
        count(self, name, reason, n)

    exchange, pushes = HttpClient._exchange, itertools.count()

    def tapped_exchange(self: HttpClient, content: bytes) -> Reply:
        push = f"{os.getpid()}-{next(pushes)}"
        self._headers["X-Push"] = push
        journal.write("pushed", push=push)
        reply = exchange(self, content)
        journal.write("heard", push=push)
        return reply

    HttpClient._exchange = tapped_exchange  # type: ignore[method-assign]
    Outbox.__init__ = tapped_make  # type: ignore[method-assign]
    SelfStat.count = tapped_count  # type: ignore[method-assign]


def _wait(seconds: float | SupportsIndex) -> None:
    threading.Event().wait(float(seconds))


if __name__ == "__main__":
    if "FAKETIME_TIMESTAMP_FILE" in os.environ:
        # time.sleep waits until a moment of the monotonic clock, which libfaketime takes for one of the clock that
        # can be set.
        time.sleep = _wait
    _install(_Journal(os.environ["CHAOS_JOURNAL"]))
    sys.exit(main())
