"""The agent's own parts, driven cycle by cycle in this process."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from typing import TYPE_CHECKING

from bench.floor import Pass
from falcon_agent.agent import build_inventory, build_runner, build_spool
from falcon_agent.cli.options import settings
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.outbox import Outbox
from tests.cli.programs import settings_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from falcon_agent.config import Settings
    from falcon_agent.container import Container
    from falcon_agent.discovery.feed import StillRuns

MEASURED = ("sockets", "cpu", "memory", "network")
"""The collectors that the floor is compared with."""

_CYCLES_BEHIND = 1000
"""How far in the past the first one is stamped: no two have one timestamp. Within [spool] max_age."""


class Steady:
    """A runner and a spool that make cycles when they are told to; nobody takes from the spool.

    Args:
        chosen: the settings.
        snapshot: the containers of each cycle, as `Inventory.snapshot`.
        stat: of this runner alone.
    """

    def __init__(
        self, chosen: Settings, snapshot: Callable[[StillRuns], Sequence[Container]], stat: SelfStat
    ) -> None:
        self.stat = stat
        self._snapshot = snapshot
        self._step = chosen.agent.step
        self._inventory = build_inventory(chosen, SelfStat())
        self.runner = build_runner(chosen, stat, self._inventory)
        self._spool = build_spool(chosen, ["bench"], stat)
        self._outbox = Outbox(self._spool, chosen.transfer.batch_size, stat)
        self._timestamp = (int(time.time()) // self._step - _CYCLES_BEHIND) * self._step

    def cycle(self) -> None:
        """What the scheduler runs at every step: from its tick to bytes in the spool."""
        self._timestamp += self._step
        reports = self.runner.reports(self._snapshot(self.runner.still_runs))
        self._outbox.put(reports, self._step, self._timestamp)

    def run(self) -> Pass:
        """One cycle and its cost, in all threads; delivered afterwards, as it were.

        Raises:
            RuntimeError: a collector failed: what it left undone must not count as speed.
        """
        wall, cpu = time.monotonic_ns(), time.process_time_ns()
        self.cycle()
        spent = Pass(time.process_time_ns() - cpu, time.monotonic_ns() - wall)
        failed = self.stat.reasons("collect.failed")
        if failed:
            raise RuntimeError(f"cannot compare: collectors failed, by name: {failed}")
        self._spool.discard()
        return spent

    def collectors(self) -> dict[str, float]:
        """CPU milliseconds of each collector in the last cycle, without what it had other threads do."""
        return self.stat.labelled("collect.cpu")

    def close(self) -> None:
        """Let containers and spool go."""
        self.runner.close()
        self._spool.close()


def settings_with(directory: Path, sections: Mapping[str, Mapping[str, object]]) -> Settings:
    """Settings as `falcon-agent run` would read them from a file, without what the environment says."""
    for name in [name for name in os.environ if name.startswith("FALCON_AGENT__")]:
        del os.environ[name]
    directory.mkdir(parents=True, exist_ok=True)
    spool = {"spool": {"directory": str(directory / "spool")}}
    path = settings_file(directory / "agent.toml", spool | dict(sections))
    return settings(argparse.Namespace(config=path, proc="", sys=""))


@contextlib.contextmanager
def containers_of(chosen: Settings) -> Iterator[Callable[..., Sequence[Container]]]:
    """What the engine in the settings runs; kept current as the agent does."""
    inventory = build_inventory(chosen, SelfStat())
    inventory.start()
    try:
        yield inventory.snapshot
    finally:
        inventory.stop()
