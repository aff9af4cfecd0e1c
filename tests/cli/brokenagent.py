"""The agent with one part changed: no real file can be made to hang, or to fail in a new way, at a given moment.

It is run as `brokenagent.py FAULT GATE falcon-agent run ...`. While the file GATE exists, the memory collector

    hang     waits in every cycle for the file to go, and says `hangs` on standard output
    raise    fails with a text that would forge an event

With `main` a reload fails in a way that nobody foresaw; with `patient` a stopping agent delivers what it can however
slow the machine is. Cycles that begin, those that are skipped, and the timestamp of each that is in the spool, are said
on standard output.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from falcon_agent import agent
from falcon_agent.agent import Agent
from falcon_agent.cli import main
from falcon_agent.collectors.memory import MemoryCollector
from falcon_agent.scheduler import Scheduler
from falcon_agent.transfer.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from falcon_agent.metric import Report

FAULT, GATE, _, *ARGS = sys.argv[1:]


def say(what: str) -> None:
    print(what, flush=True)


def begin(self: MemoryCollector, targets: Sequence[Any]) -> None:
    say("cycle")
    if FAULT == "raise":
        raise ValueError('by design\n<0>level=critical msg="forged"\x1b[2J')
    if os.path.exists(GATE):
        say("hangs")
    while os.path.exists(GATE):
        time.sleep(0.02)


def reload(self: Agent, settings: object) -> None:
    raise RuntimeError("by design")


def on_skipped(self: Scheduler) -> None:
    say("skipped")


put = Outbox.put


def told_put(self: Outbox, reports: Iterable[Report], step: int, timestamp: int) -> None:
    put(self, reports, step, timestamp)
    say(f"stored {timestamp}")


Outbox.put = told_put  # type: ignore[method-assign]
MemoryCollector.begin = begin  # type: ignore[method-assign]
Scheduler._on_skipped = on_skipped  # type: ignore[method-assign]
if FAULT == "main":
    Agent.reload = reload  # type: ignore[method-assign]
if FAULT == "patient":
    agent.FLUSH_SECONDS = 30.0
sys.exit(main(ARGS))
