"""Calls that the kernel may never end, on threads that can be given up.

A file system whose server is away (NFS, FUSE) holds whoever asks it, without any limit of time and deaf to most
signals. So such calls are made on a thread beside the program; one that hangs is left behind with its thread.
"""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from falcon_agent.errors import FalconAgentError, as_value

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

T = TypeVar("T")


class CallHangsError(FalconAgentError):
    """A call did not end in its time; its thread waits on, and `subject` is left alone until it has returned."""


class NotCalledError(FalconAgentError):
    """A call was not begun, because others hang or time ran out; the message says which."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One piece of work.

    Attributes:
        subject: what is to be left alone if this call hangs, e.g. a device.
        is_remote: somebody else's program has to answer it, so it is left out first where many hang.
        run: the work; it must not rely on anything that its caller takes away while it hangs.
    """

    subject: Hashable
    is_remote: bool
    run: Callable[[], T]


@dataclass(eq=False, slots=True)
class _Batch(Generic[T]):
    """Calls from `start` on, for one thread; `at` is the one that runs since `since` (monotonic seconds)."""

    calls: Sequence[Call[T]]
    outcomes: list[T | Exception]
    start: int
    shunned: frozenset[Hashable]
    remote_too: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    at: int = 0
    since: float = 0.0
    given_up: bool = False
    finished: bool = False
    done: SimpleQueue[None] = field(default_factory=SimpleQueue)

    def work(self) -> bool:
        """Make the calls one after the other; False if they were given up meanwhile."""
        for index in range(self.start, len(self.calls)):
            call = self.calls[index]
            if call.subject in self.shunned:
                outcome: T | Exception = NotCalledError("an earlier call to it still hangs")
            elif call.is_remote and not self.remote_too:
                outcome = NotCalledError("too many remote file systems hang: no other is asked")
            else:
                with self.lock:
                    if self.given_up:
                        return False
                    self.at, self.since = index, time.monotonic()
                try:
                    outcome = call.run()
                except Exception as error:  # noqa: BLE001  it belongs to the caller, who gets it as the outcome
                    outcome = as_value(error)
            with self.lock:
                if self.given_up:
                    return False
                self.outcomes[index] = outcome
        with self.lock:
            if self.given_up:
                return False
            self.finished = True
        self.done.put(None)
        return True


@dataclass(eq=False, slots=True)
class _Left:
    """The batches that were left behind with their threads, and what each hangs at."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    hung: dict[_Batch[Any], Hashable] = field(default_factory=dict)


class Calls:
    """One thread for calls that may hang, and another one for the rest each time that it does.

    Args:
        name: of the threads.
        limit: seconds that one call may take.
        total: seconds that all calls of one `run` may take.
        max_hung: threads that may hang before no remote call is begun any more; twice as many, and none is.
        prepare: called first on each thread.
    """

    def __init__(
        self,
        name: str,
        limit: float,
        total: float,
        max_hung: int,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self._name = name
        self._limit = limit
        self._total = total
        self._max_hung = max_hung
        self._prepare = prepare
        self._left = _Left()
        self._inbox: SimpleQueue[_Batch[Any] | None] | None = None

    def hung(self) -> int:
        """How many threads hang."""
        with self._left.lock:
            return len(self._left.hung)

    def run(self, calls: Sequence[Call[T]]) -> list[T | Exception]:
        """Make the calls in their order.

        Returns:
            For each what it returned or raised, CallHangsError, or NotCalledError.
        """
        no_time = NotCalledError("others took all the time there was")
        outcomes: list[T | Exception] = [no_time] * len(calls)
        deadline = time.monotonic() + self._total
        start = 0
        while start < len(calls):
            with self._left.lock:
                shunned = frozenset(self._left.hung.values())
                hung = len(self._left.hung)
            if hung >= 2 * self._max_hung:
                outcomes[start:] = [NotCalledError(f"{hung} calls hang: no other is made")] * (
                    len(calls) - start
                )
                break
            batch = _Batch(calls, outcomes, start, shunned, remote_too=hung < self._max_hung)
            try:
                self._give(batch)
            except RuntimeError as error:  # a limit on tasks
                outcomes[start:] = [NotCalledError(f"no thread for it: {error}")] * (len(calls) - start)
                break
            hangs_at = self._wait(batch, deadline)
            if hangs_at is None:
                break
            outcomes[hangs_at] = CallHangsError(f"no answer within {min(self._limit, self._total):g} s")
            start = hangs_at + 1 if time.monotonic() < deadline else len(calls)
        return outcomes

    def _wait(self, batch: _Batch[T], deadline: float) -> int | None:
        """Wait for the end of a batch; the index of the call that hangs, if one does."""
        wait = self._limit
        while True:
            with suppress(Empty):
                batch.done.get(timeout=max(min(wait, deadline - time.monotonic()), 0.0))
                return None
            with self._left.lock, batch.lock:
                if batch.finished:
                    return None
                now = time.monotonic()
                # Not begun yet: the thread has not been given a CPU.
                late = now - batch.since if batch.since else 0.0
                if late < self._limit and now < deadline:
                    wait = self._limit - late
                    continue
                batch.given_up = True
                at = max(batch.at, batch.start)
                self._left.hung[batch] = batch.calls[at].subject
                self._end.detach()
                self._inbox = None
                return at

    def _give(self, batch: _Batch[T]) -> None:
        if self._inbox is None:
            inbox: SimpleQueue[_Batch[Any] | None] = SimpleQueue()
            # A daemon: the program may end while the thread waits, for work or for an answer that never comes.
            threading.Thread(
                target=_serve, args=(inbox, self._left, self._prepare), name=self._name, daemon=True
            ).start()
            self._end = weakref.finalize(self, inbox.put, None)
            self._inbox = inbox
        self._inbox.put(batch)


def _serve(inbox: SimpleQueue[_Batch[Any] | None], left: _Left, prepare: Callable[[], object] | None) -> None:
    """The thread: batch after batch, until one was given up."""
    if prepare is not None:
        prepare()
    while (batch := inbox.get()) is not None:
        if not batch.work():
            with left.lock:
                left.hung.pop(batch, None)
            return
        # The batch would otherwise live until the next one comes.
        del batch
