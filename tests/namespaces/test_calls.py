from __future__ import annotations

import gc
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from falcon_agent.namespaces.calls import Call, CallHangsError, Calls, NotCalledError
from tests.namespaces.lab import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "test-calls"


class Clock:
    """Stands still but where somebody enters a hole: how long the machine takes for a call makes none of them hang."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("falcon_agent.namespaces.calls.time", made)
    return made


class Hole:
    """A FIFO that nobody writes to: the kernel holds whoever opens it."""

    def __init__(self, path: Path, clock: Clock) -> None:
        os.mkfifo(path)
        self._path = path
        self._clock = clock
        self.entered = 0

    def enter(self) -> int:
        self.entered += 1
        self._clock.now += 1.0
        os.close(os.open(self._path, os.O_RDONLY))
        return -1

    def released(self, condition: Callable[[], bool]) -> bool:
        """Let those inside out, and ask whether that has shown yet."""
        os.close(os.open(self._path, os.O_RDWR | os.O_NONBLOCK))
        return condition()


@pytest.fixture
def hole(tmp_path: Path, clock: Clock) -> Iterator[Callable[[], Hole]]:
    made: list[Hole] = []

    def make() -> Hole:
        made.append(Hole(tmp_path / f"hole{len(made)}", clock))
        return made[-1]

    yield make
    for each in made:
        eventually(partial(each.released, lambda: not threads()), "every thread has come back")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def calls(limit: float = 0.05, total: float = 5.0, max_hung: int = 2) -> Calls:
    return Calls(NAME, limit, total, max_hung)


def local(run: Callable[[], int], subject: str = "local") -> Call[int]:
    return Call(subject, is_remote=False, run=run)


def remote(hole: Hole, subject: str) -> Call[int]:
    return Call(subject, is_remote=True, run=hole.enter)


def test_outcomes_come_in_order_and_all_from_one_thread_beside_this() -> None:
    made = calls()
    idents = set()

    def work() -> int:
        idents.add(threading.get_ident())
        return 7

    outcomes = made.run([local(work), local(lambda: 1 // 0), local(work)])
    assert outcomes[0] == outcomes[2] == 7
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert made.run([local(work)]) == [7]
    assert made.run([]) == []
    assert len(idents) == 1
    assert threading.get_ident() not in idents
    del made
    gc.collect()
    eventually(lambda: not threads(), "its thread ends with it")


def test_each_thread_is_prepared() -> None:
    prepared: list[int] = []
    made = Calls(NAME, 5, 5, 1, lambda: prepared.append(threading.get_ident()))
    assert made.run([Call("x", is_remote=False, run=threading.get_ident)]) == prepared
    del made
    gc.collect()
    eventually(lambda: not threads(), "its thread ends with it")


def test_one_that_hangs_costs_its_own_time_only(hole: Callable[[], Hole]) -> None:
    made, deep = calls(), hole()
    outcomes = made.run([local(lambda: 1), remote(deep, "nfs"), local(lambda: 2), remote(deep, "nfs")])
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], CallHangsError)
    assert str(outcomes[1]) == "no answer within 0.05 s"
    assert outcomes[2] == 2
    assert isinstance(outcomes[3], NotCalledError)
    assert deep.entered == made.hung() == 1


def test_what_hangs_is_left_alone_until_it_has_returned(hole: Callable[[], Hole]) -> None:
    made, deep = calls(), hole()
    made.run([remote(deep, "nfs")])
    for _ in range(3):
        (outcome,) = made.run([remote(deep, "nfs")])
        assert isinstance(outcome, NotCalledError)
    assert deep.entered == 1
    assert len(threads()) == 1 + 1  # the one that hangs, and the one that said so
    eventually(lambda: deep.released(lambda: not made.hung()), "it came back")
    assert made.run([local(lambda: 3, "nfs")]) == [3]


def test_while_many_hang_no_remote_call_is_made_and_then_none(hole: Callable[[], Hole]) -> None:
    made, deep = calls(max_hung=2), hole()
    outcomes = made.run([remote(deep, "a"), remote(deep, "b"), remote(deep, "c"), local(lambda: 1)])
    assert [type(outcome) for outcome in outcomes] == [CallHangsError, CallHangsError, NotCalledError, int]
    assert deep.entered == made.hung() == 2
    outcomes = made.run([local(deep.enter, "d"), local(deep.enter, "e"), local(lambda: 1)])
    assert [type(outcome) for outcome in outcomes] == [CallHangsError, CallHangsError, NotCalledError]
    outcomes = made.run([local(lambda: 1)])
    assert str(outcomes[0]) == "4 calls hang: no other is made"
    assert made.hung() == 4


def test_all_calls_together_have_a_limit_too(hole: Callable[[], Hole]) -> None:
    made, deep = calls(limit=30, total=0.05), hole()
    outcomes = made.run([local(lambda: 1), remote(deep, "slow"), local(lambda: 2)])
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], CallHangsError)
    assert str(outcomes[2]) == "others took all the time there was"


def test_what_comes_late_changes_nothing(hole: Callable[[], Hole]) -> None:
    made, deep = calls(), hole()
    outcomes = made.run([remote(deep, "nfs"), local(lambda: 1)])
    eventually(lambda: deep.released(lambda: not made.hung()), "it came back")
    assert isinstance(outcomes[0], CallHangsError)


def test_without_a_thread_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    # A limit on tasks would hit the rest of the test run as well.
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    made = calls()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        (outcome,) = made.run([local(lambda: 1)])
    assert isinstance(outcome, NotCalledError)
    assert str(outcome) == "no thread for it: can't start new thread"
    assert made.run([local(lambda: 1)]) == [1]
    del made
    gc.collect()
    eventually(lambda: not threads(), "its thread ends with it")
