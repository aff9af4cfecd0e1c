"""What a source of containers is, and what it hands over."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from falcon_agent.errors import ParseError, RuntimeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event as Flag

    from falcon_agent.container import Census, Container, LeftOut

log = logging.getLogger(__name__)

PATIENCE = 2
"""Containers whose description may fail to come in one look. One stuck container must not hide the others,
but when the daemon itself got stuck, waiting for each would take very long."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """One complete look at a runtime.

    Attributes:
        containers: all that run now.
        left_out: those that were named, but of which too little could be learnt, and why.
    """

    containers: list[Container] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened; the next look will show what.

    Attributes:
        id: the container it happened to, or empty if that is not known (events may have been missed).
        ended: the container is over: it need not be looked for any more.
        started: a life of the container began; where this is not known, it is not told (and two changes that
            differ in it only are equal).
        oom: the kernel killed in it for want of memory, and this is the container as far as that news
            describes it.
    """

    id: str = ""
    ended: bool = False
    started: bool = field(default=False, compare=False)
    oom: Container | None = None


class Runtime(Protocol):
    """A source of containers; used from two threads, one in `find` and one in `watch`."""

    @property
    def name(self) -> str:
        """As in `[discovery] runtimes`, e.g. `docker`."""

    def find(self) -> Found:
        """Everything that runs now, within the runtime's own time limit.

        Raises:
            RuntimeUnavailableError: it did not answer, or not sensibly; what was known before still holds.
        """

    def watch(self, notify: Callable[[Change], None]) -> None:
        """Call `notify` for every change until `close`; never raises. Blocks, connects again by itself.

        After every (re)connection it notifies a change without id: what happened before was not heard.
        """

    def alive(self, container: Container) -> bool:
        """Whether the first process of a container it found still runs; asks only the kernel."""

    def close(self) -> None:
        """End `watch` and whatever waits for an answer, at once; nothing can be asked afterwards."""


@runtime_checkable
class Countable(Protocol):
    """A runtime that also tells how much it has, running or not: an engine with a disk of its own."""

    def census(self) -> Census:
        """The figures of now; asked only from the thread of `find`.

        Raises:
            RuntimeUnavailableError: as `find`.
        """


def keep_hearing(hear: Callable[[], None], closed: Flag) -> None:
    """Call `hear` again whenever its stream of events has ended, with growing pauses while there is no sound one.

    Args:
        hear: follows one stream; raises RuntimeUnavailableError or ParseError when it is over.
        closed: ends it all.
    """
    pause = _FIRST_PAUSE
    while not closed.is_set():
        began = time.monotonic()
        try:
            hear()
        except (RuntimeUnavailableError, ParseError) as error:
            log.debug("no events: %s", error)
        if time.monotonic() - began > _LONGEST_PAUSE:
            pause = _FIRST_PAUSE
        closed.wait(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
