"""Each agent in a process of its own: Python's collector of garbage walks everything that one process holds."""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

from bench import calls
from bench.steady import Steady, containers_of, settings_with
from falcon_agent.allocator import collect_seldom, keep_little
from falcon_agent.selfstat import SelfStat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bench.calls import Call
    from bench.floor import Pass
    from falcon_agent.container import Container

WARM_UP = 5
"""Cycles before any counts."""


class _Held(NamedTuple):
    """What the process of an agent holds."""

    agent: Steady
    snapshot: Callable[..., Sequence[Container]]
    stack: contextlib.ExitStack


class Apart:
    """A `Steady` in a process of its own, warmed up.

    Args:
        directory: for its configuration and spool.
        sections: its configuration.
        containers: what to measure; None asks the engine that the configuration names.

    Raises:
        RuntimeError: a collector fails; so does `run`.

    Attributes:
        collectors: CPU milliseconds of each collector in the last cycle.
    """

    def __init__(
        self,
        directory: Path,
        sections: Mapping[str, Mapping[str, object]],
        containers: Sequence[Container] | None = None,
    ) -> None:
        self.collectors: dict[str, float] = {}
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            self._pool.submit(_begin, directory, sections, containers).result()
        except BaseException:
            self._pool.shutdown()
            raise

    def run(self) -> Pass:
        """One cycle and its cost."""
        spent, self.collectors = self._pool.submit(_run).result()
        return spent

    def trace(self) -> list[Call]:
        """The system calls of one cycle; errors as `calls.traced`."""
        return self._pool.submit(_trace).result()

    def containers(self) -> list[Container]:
        """Those that it measures."""
        return self._pool.submit(_containers).result()

    def close(self) -> None:
        """End the process."""
        self._pool.submit(_end).result()
        self._pool.shutdown()


_held: list[_Held] = []
"""Of this process, if it is that of an agent."""


def _begin(
    directory: Path, sections: Mapping[str, Mapping[str, object]], containers: Sequence[Container] | None
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which ends this in its turn
    logging.disable(logging.CRITICAL)  # what fails ends the comparison, once
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    keep_little()
    collect_seldom()
    chosen = settings_with(directory, sections)
    stack = contextlib.ExitStack()
    if containers is None:
        snapshot = stack.enter_context(containers_of(chosen))
    else:
        given = containers

        def snapshot(_: object = None) -> Sequence[Container]:
            return given

    agent = Steady(chosen, snapshot, SelfStat())
    stack.callback(agent.close)
    for _ in range(WARM_UP):
        agent.run()
    _held.append(_Held(agent, snapshot, stack))


def _run() -> tuple[Pass, dict[str, float]]:
    agent = _held[0].agent
    return agent.run(), agent.collectors()


def _trace() -> list[Call]:
    return calls.traced(_held[0].agent.cycle)


def _containers() -> list[Container]:
    return list(_held[0].snapshot())


def _end() -> None:
    _held.pop().stack.close()
