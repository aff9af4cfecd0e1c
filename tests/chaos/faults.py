"""Everything that goes wrong, by name. Each leaves the world in order, and says what it expects of the agent."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from tests.chaos.stage import Fault
from tests.cli.programs import until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.chaos.stage import Stage

JUMP_SECONDS = 300
"""A jump of the clock: far more than the sender tolerates, and more than a run lasts."""


def _transfer(fault: str) -> Fault:
    """The transfer has one fault for the whole time."""

    def play(stage: Stage) -> None:
        with stage.transfer_that(fault):
            hits = stage.transfer.hits
            stage.hold()
            if fault != "refuse":
                until(lambda: stage.transfer.hits > hits, f"a push to a transfer with {fault}")

    return Fault(play)


def _lost_reply(stage: Stage) -> None:
    """Accepted, but the answer never arrives: the second push is a duplicate, which graph drops."""
    with stage.transfer_that("lost reply"):
        stage.hold()
        ledger = stage.transfer.ledger
        until(lambda: any(one.fault == "lost reply" for one in ledger.read()), "a reply that is lost")
    stage.catch_up()
    stage.expect(stage.account().duplicates, "the reply was lost and nothing was pushed twice")


def _bad_records(fault: str) -> Fault:
    """One record of each cycle is bad: it alone is refused, and counted."""

    def play(stage: Stage) -> None:
        with stage.transfer_that(fault):
            stage.hold()
            until(lambda: stage.account().lost["transfer"], "a bad record to be counted")
        stage.catch_up()

    return Fault(play, losses=frozenset({"transfer"}))


def _flapping(stage: Stage) -> None:
    """Up and down and everything in between, request by request."""
    with stage.transfer_that("flapping"):
        stage.hold()


def _dns(stage: Stage) -> None:
    """The name of the transfer cannot be resolved, until somebody mends the configuration."""
    stage.daemon.configure([f"http://transfer.invalid:{stage.transfer.port}/api/push"])
    stage.daemon.wait_for_puts(2)
    stage.hold(0.5)
    stage.daemon.configure([stage.transfer.address])


def _reload(stage: Stage) -> None:
    """The configuration is read again and again, with a backlog waiting."""
    with stage.transfer_that("refuse"):
        for _ in range(3):
            stage.daemon.wait_for_puts(1)
            stage.daemon.send(signal.SIGHUP)
            stage.hold(0.2)


def _fail_over(stage: Stage) -> None:
    """Of two addresses of one target now one is down and now the other: the order holds over both."""
    other = stage.another_transfer(stage.transfer.ledger)
    stage.daemon.configure([stage.transfer.address, other.address])
    for down in (stage.transfer, other, stage.transfer):
        down.fault = stage.rng.choice(("refuse", "reset", "500"))
        stage.hold(0.5)
        down.fault = ""


def _second_target(stage: Stage) -> None:
    """Of two targets one is away: it gets everything later, and the other is not held up by it."""
    second = stage.another_transfer()
    stage.daemon.configure([stage.transfer.address], second.address)
    until(second.ledger.read, "records at the second target")
    first = min(second.ledger.timestamps())
    stage.second = second, {key for key in stage.promised() if key[1] <= first}
    second.fault = "refuse"
    before = len(stage.transfer.ledger.timestamps())
    until(lambda: len(stage.transfer.ledger.timestamps()) > before + 2, "cycles at the first target")
    second.fault = ""


def _restarts(number: signal.Signals) -> Callable[[Stage], None]:
    """The agent ends again and again, in the middle of a backlog or of catching up."""

    def play(stage: Stage) -> None:
        for turn in range(max(3, int(stage.seconds))):
            with stage.transfer_that(("refuse", "lost reply", "")[turn % 3]):
                # Any instant: of a cycle, of a write, of a push.
                time.sleep(stage.rng.uniform(0.1, 1.3))
                stage.restart(number)

    return play


def _frozen(stage: Stage) -> None:
    """The host sleeps: afterwards there is one cycle for all that were missed, not one for each."""
    stage.daemon.send(signal.SIGSTOP)
    stage.hold(1.5)
    resumed = time.monotonic()
    stage.daemon.send(signal.SIGCONT)
    stage.hold(0.5)
    puts = sum(put.at >= resumed for put in stage.daemon.journal.puts)
    awake = time.monotonic() - resumed
    # One that was under way, one for all that were missed, and those that fell due since.
    stage.expect(puts <= awake + 3, f"{puts} cycles within {awake:.1f} s after the sleep")


def _clock_forward(stage: Stage) -> None:
    """The clock is ahead for a while: no point of that time may arrive before its time."""
    stage.daemon.set_clock(JUMP_SECONDS)
    stage.hold()
    stage.daemon.set_clock(0)
    stage.daemon.wait_for_puts(2)
    _expect_fresh_points(stage)


def _clock_back(stage: Stage) -> None:
    """The clock is behind for a while: what is measured then is older than what graph has, and is counted."""
    stage.daemon.set_clock(-JUMP_SECONDS)
    stage.daemon.wait_for_puts(2)
    stage.hold(0.5)
    stage.daemon.set_clock(0)
    stage.daemon.wait_for_puts(2)
    lost = stage.account().lost
    stage.expect(lost["clock_back"], f"nothing counted as clock_back, but {dict(lost)}")
    _expect_fresh_points(stage)


def _expect_fresh_points(stage: Stage) -> None:
    """Once the clock is right again, points arrive again."""
    now = time.time()
    until(lambda: max(stage.transfer.ledger.timestamps()) > now, "new points after the clock was set right")


def _full_disk(stage: Stage) -> None:
    """No byte is free where the spool is, and the transfer is away as well."""
    ballast = stage.daemon.spool / "ballast"
    with stage.transfer_that("refuse"):
        _fill(ballast)
        stage.daemon.wait_for_puts(3)
        stage.hold(0.5)
        ballast.unlink()
        stage.daemon.wait_for_puts(1)


def _fill(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            os.write(file, bytes(4096))
    except OSError:
        # That the disk is full is the point.
        return
    finally:
        os.close(file)


def _read_only(stage: Stage) -> None:
    """The agent begins a life on a file system that is read-only, and that is mended while it runs."""
    with stage.transfer_that("refuse"):
        # The kernel makes no file system read-only while a file is open for writing on it.
        stage.daemon.end(signal.SIGTERM)
        _remount(stage.daemon.spool, "ro")
        stage.daemon.start()
        stage.daemon.wait_for_first_cycle()
        stage.daemon.wait_for_puts(2)
        _remount(stage.daemon.spool, "rw")
        stage.daemon.wait_for_puts(1)


def _remount(path: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True, timeout=10)


def _damaged(stage: Stage) -> None:
    """Something wrote over the spool while the agent was not running, with a backlog in it."""
    with stage.transfer_that("refuse"):
        stage.daemon.wait_for_puts(3)
        stage.daemon.end(signal.SIGTERM)
        stage.excused |= stage.account().missing
        _damage(stage.daemon.spool / "spool.db", stage.rng)
        stage.daemon.start()
        stage.daemon.wait_for_first_cycle()

    def aside() -> list[str]:
        return [name for name in os.listdir(stage.daemon.spool) if name.startswith("spool.db.")]

    # Damage that hit nothing of importance is none.
    until(
        lambda: aside() or not stage.account().set_aside, "the damaged spool to be moved aside, or delivered"
    )
    stage.expect(all(name in stage.daemon.log for name in aside()), f"the log does not name {aside()}")


def _damage(database: Path, rng: random.Random) -> None:
    size = database.stat().st_size
    with database.open("r+b") as file:
        match rng.choice(("beginning", "everywhere", "cut")):
            case "beginning":
                file.write(rng.randbytes(64))
            case "everywhere":
                for _ in range(size // 1024):
                    file.seek(rng.randrange(size - 64))
                    file.write(rng.randbytes(64))
            case _:
                file.truncate(rng.randrange(size))


_MIXED = ("refuse", "reset", "hang", "late", "slow", "lost reply", "garbage", "400", "429", "500", "flapping")


def _mixed(stage: Stage) -> None:
    """One after the other, at random, with and without the agent dying in between."""
    for _ in range(4):
        with stage.transfer_that(stage.rng.choice(_MIXED)):
            stage.hold(0.4)
            chance = stage.rng.random()
            if chance < 0.4:
                stage.restart(signal.SIGKILL if chance < 0.3 else signal.SIGTERM)
        if stage.rng.random() < 0.5:
            stage.hold(0.3)


FAULTS: Mapping[str, Fault] = {
    "refuse": _transfer("refuse"),
    "reset": _transfer("reset"),
    "hang": _transfer("hang"),
    "late": _transfer("late"),
    "slow": _transfer("slow"),
    "garbage": _transfer("garbage"),
    "400 to all": _transfer("400"),
    "429": _transfer("429"),
    "500": _transfer("500"),
    "redirect": _transfer("redirect"),
    "413": _transfer("413"),
    "poison": _bad_records("poison"),
    "invalid": _bad_records("invalid"),
    "lost reply": Fault(_lost_reply),
    "flapping": Fault(_flapping),
    "dns": Fault(_dns),
    "reload": Fault(_reload),
    "fail-over": Fault(_fail_over),
    "second target": Fault(_second_target),
    "killed": Fault(_restarts(signal.SIGKILL)),
    "restarted": Fault(_restarts(signal.SIGTERM)),
    "frozen": Fault(_frozen),
    "clock forward": Fault(_clock_forward, clock=True, losses=frozenset({"clock"})),
    # What waits when the clock is set back is given up as well.
    "clock back": Fault(_clock_back, clock=True, losses=frozenset({"clock"})),
    "full disk": Fault(_full_disk, small_disk=True),
    "read-only": Fault(_read_only, small_disk=True),
    "damaged spool": Fault(_damaged, losses=frozenset({"damaged"})),
    "mixed": Fault(_mixed),
}
