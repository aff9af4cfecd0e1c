"""One run on one agent and one transfer: bring them up, break things, heal them, settle the accounts."""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from demo import throwaway
from tests.chaos.audit import Account, settle
from tests.chaos.daemon import CONTAINER, PACE, Daemon
from tests.chaos.double import Transfer
from tests.cli.programs import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.chaos.ledger import Key, Ledger

PATIENCE = 240.0
"""Seconds for the agent to catch up: the waits of its back-off are part of it."""


@dataclass(slots=True)
class Stage:
    """What a fault may play with.

    Attributes:
        rng: every random choice of the run.
        transfer: where the agent pushes to.
        daemon: the agent, which runs and delivers when the fault begins.
        seconds: how long a fault is to last.
        excused: points that were in a spool that was damaged on purpose.
        faults: what went wrong beside the accounts, in words.
        second: another target, and what it need not get: what was measured before it was named.
    """

    rng: random.Random
    transfer: Transfer
    daemon: Daemon
    seconds: float
    excused: set[Key] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    second: tuple[Transfer, set[Key]] | None = None
    cleanup: ExitStack = field(default_factory=ExitStack)

    def hold(self, part: float = 1.0) -> None:
        """Let a part of the time of the fault go by, a little randomly."""
        time.sleep(self.seconds * part * self.rng.uniform(0.8, 1.2))

    @contextmanager
    def transfer_that(self, fault: str) -> Iterator[None]:
        """The transfer has this fault during the block."""
        self.transfer.fault = fault
        try:
            yield
        finally:
            self.transfer.fault = ""

    def restart(self, number: signal.Signals) -> None:
        """End the agent's life and begin the next."""
        self.daemon.end(number)
        self.daemon.start()
        self.daemon.wait_for_first_cycle()

    def expect(self, held: object, otherwise: str) -> None:
        """Note what is wrong unless `held`."""
        if not held:
            self.faults.append(otherwise)

    def another_transfer(self, ledger: Ledger | None = None) -> Transfer:
        """One more, until the end of the run."""
        transfer = Transfer(self.rng, ledger)
        self.cleanup.callback(transfer.close)
        return transfer

    def promised(self) -> set[Key]:
        """The points that were promised so far."""
        return {key for put in self.daemon.journal.puts if put.promised for key in put.keys}

    def account(self) -> Account:
        """The accounts as they stand."""
        # The journal first: what is accepted between the two looks is no fault.
        journal = self.daemon.journal
        return settle(journal, self.transfer.ledger.read(), PACE, self.daemon.ends, self.excused)

    def behind(self, promised: set[Key]) -> int:
        """How many of these points are neither accepted, nor counted, at the target that is furthest behind."""
        account = self.account()
        behind = len(account.missing & promised) - account.set_aside - account.lost.total()
        if self.second is None:
            return behind
        transfer, excused = self.second
        arrived = {key for arrival in transfer.ledger.read() for key in arrival.keys}
        return max(behind, len(promised - arrived - excused))

    def catch_up(self) -> None:
        """Wait until everything promised before this call was accepted, or counted."""
        promised = self.promised()
        until(lambda: self.behind(promised) <= 0, "the agent to catch up", PATIENCE)


@contextmanager
def container() -> Iterator[None]:
    """The one container that all agents measure."""
    with throwaway.running(throwaway.start(CONTAINER, 40, busy=0.02)):
        yield


@dataclass(frozen=True, slots=True)
class Fault:
    """One way for a night to go wrong.

    Attributes:
        play: breaks things, and mends them before it returns.
        clock: it needs an agent whose clock can be changed.
        small_disk: it needs a spool on a small file system of its own.
        losses: reasons for which records may be counted as lost. `clock_back` is always one: the first cycle after a
            quick restart has the timestamp of the one before it, and graph would drop it.
    """

    play: Callable[[Stage], None]
    clock: bool = False
    small_disk: bool = False
    losses: frozenset[str] = frozenset()


def perform(name: str, fault: Fault, seed: int, seconds: float) -> Account:
    """Let a fault happen to a healthy agent, heal it, and settle the accounts.

    Args:
        name: of the fault.
        fault: what happens.
        seed: of every random choice.
        seconds: how long the fault is to last.
    """
    rng = random.Random(f"{seed} {name}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        spool = directory / "spool"
        spool.mkdir()
        transfer = Transfer(rng)
        stack.callback(transfer.close)
        if fault.small_disk:
            stack.enter_context(_small_disk(spool))
        name = name.replace(" ", "-")
        daemon = Daemon(directory, name, [transfer.address], spool, clock=fault.clock)
        stage = Stage(rng, transfer, daemon, seconds)
        stack.push(stage.cleanup)
        stack.callback(daemon.close)
        try:
            daemon.start()
            until(lambda: len(transfer.ledger.timestamps()) > 1, "the first cycles to arrive")
            fault.play(stage)
            stage.catch_up()
            _finish(stage)
        except AssertionError as error:
            stage.faults.append(str(error))
        except Exception as error:  # noqa: BLE001  the others of a long run go on
            stage.faults.append(f"{type(error).__name__}: {error}")
        account = stage.account()
        account.faults += stage.faults
        if needless := {*account.lost} - fault.losses - {"clock_back", "repeated"}:
            account.faults.append(f"records were lost that need not be: {needless}")
        if stage.second is not None:
            second, excused = stage.second
            other = settle(daemon.journal, second.ledger.read(), PACE, daemon.ends, excused)
            account.faults += [f"second target: {fault}" for fault in other.faults]
        account.faults += _complaints(daemon.log)
        if account.faults:
            account.faults.append(f"the end of its log:\n{daemon.log[-3000:]}")
        return account


@contextmanager
def _small_disk(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "chaos", str(path)], check=True, timeout=10)
    try:
        yield
    finally:
        # Lazily: a process that could not be ended must not keep the rest from being cleaned up.
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=10)


def _finish(stage: Stage) -> None:
    """End the agent in peace; what was measured in the last moment may need another life to be delivered."""
    for _ in range(20):
        code = stage.daemon.end(signal.SIGTERM)
        stage.expect(code == 0, f"the agent ended with exit code {code}")
        if stage.behind(stage.promised()) <= 0:
            return
        stage.daemon.start()
        stage.daemon.wait_for_first_cycle()
        stage.catch_up()


_FAULTS = ("Traceback", "level=critical", "Fatal Python error")


def _complaints(log: str) -> Iterator[str]:
    """Failures of the program itself that no fault of the outside excuses."""
    lines = [line for line in log.splitlines() if any(word in line for word in _FAULTS)]
    if lines:
        yield f"{len(lines)} tracebacks in the log"
