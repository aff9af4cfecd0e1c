"""A process that has a backlog of many series to deliver: spool and sender without anything that measures.

Usage: python -m tests.chaos.backlog ADDRESS DIRECTORY SERIES CYCLES PACE

Prints `ready` once the backlog is in the spool and `drained` when all of it, and one live cycle that came while it
was being drained, was accepted.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from falcon_agent.metric import Metric, Subject
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.outbox import Outbox
from falcon_agent.transfer.sender import Sender
from falcon_agent.transfer.spool import DiskSpool
from falcon_agent.transfer.transport import make_transport

if TYPE_CHECKING:
    from falcon_agent.metric import Report

STEP = 30
BATCH_SIZE = 1000
_TARGET = "default"


_LOAD = Metric("load", "GAUGE", "1", "", "")


def main(address: str, directory: str, series: int, cycles: int, pace: float) -> None:
    """Fill the spool, and deliver."""
    stat = SelfStat()
    spool = DiskSpool(directory, [_TARGET], stat, max_bytes=2**29, max_age=86400.0)
    outbox = Outbox(spool, BATCH_SIZE, stat)
    queue = spool.queue(_TARGET)
    sender = Sender(make_transport([address], 30.0), queue, stat, backoff=(0.1, 0.5), pace=pace)
    live = int(time.time()) // STEP * STEP
    subjects = [Subject("backlog", f"name=c{number}") for number in range(series)]
    reports: list[Report] = [(subject, (_LOAD,), (number,)) for number, subject in enumerate(subjects)]
    sender.start()
    for number in range(cycles):
        outbox.put(reports, STEP, live - (cycles - number) * STEP)
    print("ready", flush=True)
    while queue.records == series * cycles:
        time.sleep(0.01)
    outbox.put(reports, STEP, live)
    while queue.records:
        time.sleep(0.01)
    sender.stop(5.0)
    spool.close()
    print("drained", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
