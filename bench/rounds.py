"""Taking turns, so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.report import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.floor import Pass

GAP_SECONDS = 0.1
"""Before each pass, so that all of them find the kernel's counters equally stale."""


def alternate(
    passes: Mapping[str, Callable[[], Pass]], rounds: int, after: Callable[[], None] = lambda: None
) -> dict[str, list[Pass]]:
    """Every pass once in each round, one after the other; a first round, to warm up, does not count.

    Args:
        passes: by name.
        rounds: how many count.
        after: called after each round that counts.
    """
    done: dict[str, list[Pass]] = {name: [] for name in passes}
    for number in range(rounds + 1):
        progress(f"round {number} of {rounds}", passing=True)
        for name, run in passes.items():
            time.sleep(GAP_SECONDS)
            one = run()
            if number:
                done[name].append(one)
        if number:
            after()
    return done
