"""The agent as a process that is killed, frozen, misled about the time and started again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.ledger import read_journal
from tests.cli.programs import environment, settings_file, until

if TYPE_CHECKING:
    from tests.chaos.ledger import Journal

STEP = 1
PACE = 0.3
"""Seconds; graph needs 0.2."""

CONTAINER = "chaos"
"""The one container that is measured."""

TIMEOUT = 1.0
"""Seconds that one push may take."""

STOP_SECONDS = 60.0

_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class Daemon:
    """All lives of one agent: they share the configuration, the spool and the journal.

    Args:
        directory: for all its files.
        name: the endpoint of its records.
        addresses: transfers, equals of one target.
        spool: directory of its spool.
        clock: whether its clock can be changed.
    """

    def __init__(self, directory: Path, name: str, addresses: list[str], spool: Path, *, clock: bool) -> None:
        self.spool = spool
        self.ends: list[float] = []
        self._name = name
        self._config = directory / "agent.toml"
        self._journal = directory / "journal"
        self._log = directory / "agent.log"
        self._offset = directory / "clock"
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(addresses)
        self.set_clock(0)

    def configure(self, addresses: list[str], second_target: str = "") -> None:
        """Write the configuration; a running agent is told."""
        second = {"name": "second", "addresses": [second_target], "timeout": TIMEOUT}
        settings_file(
            self._config,
            {
                "agent": {"step": STEP, "endpoint": self._name},
                "transfer": {"addresses": addresses, "timeout": TIMEOUT},
                **({"[transfer.targets]": second} if second_target else {}),
                "spool": {"directory": str(self.spool), "pace": PACE},
                "discovery": {"runtimes": ["cgroups"]},
                "discovery.include": {"name": [CONTAINER, f"*/{CONTAINER}"]},
                "log": {"level": "debug"},
            },
        )
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def set_clock(self, seconds: float) -> None:
        """From now on its clock is so many seconds ahead; the file is read at every look at the clock."""
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(f"{seconds:+.0f}\n")
        fresh.replace(self._offset)

    def start(self) -> None:
        """Begin a life."""
        variables = {"CHAOS_JOURNAL": str(self._journal)}
        if self._clock:
            variables |= {
                "LD_PRELOAD": _FAKETIME,
                "FAKETIME_TIMESTAMP_FILE": str(self._offset),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        command = [sys.executable, "-m", "tests.chaos.tapped", "run", "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=Path(__file__).parents[2],
                env=environment() | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the running agent."""
        if self._process is not None:
            self._process.send_signal(number)

    def end(self, number: signal.Signals) -> int:
        """End this life; returns the exit code."""
        if self._process is None:
            raise RuntimeError("the agent does not run")
        self._process.send_signal(number)
        code = self._process.wait(STOP_SECONDS)
        self._process = None
        self.ends.append(time.monotonic())
        return code

    def close(self) -> None:
        """Leave no process behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
            self._process = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def journal(self) -> Journal:
        """What was promised and counted so far."""
        return read_journal(self._journal)

    @property
    def log(self) -> str:
        """Everything it logged, in all lives."""
        return self._log.read_text(errors="replace")

    def wait_for_puts(self, more: int) -> None:
        """Wait until so many more cycles were handed over, and taken."""

        def promised() -> int:
            return sum(put.promised for put in self.journal.puts)

        goal = promised() + more
        until(lambda: promised() >= goal, f"{more} cycles")

    def wait_for_first_cycle(self) -> None:
        """Wait until this life has handed over a cycle."""
        life = self._process.pid if self._process is not None else 0
        until(lambda: any(put.life == life and put.promised for put in self.journal.puts), "the first cycle")
