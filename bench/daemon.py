"""The real daemon, pushing to a transfer on loopback, looked at from outside."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.netns import in_namespace
from tests.cli.programs import environment, settings_file
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_AGENT = str(Path(sys.executable).with_name("falcon-agent"))
_STOP_SECONDS = 20.0
_START_SECONDS = 60.0
_PATIENCE_SECONDS = 600.0
"""For cycles that arrive a second apart where nothing else runs."""


class Arrival(NamedTuple):
    """One push that the transfer took.

    Attributes:
        at: monotonic seconds.
        records: in it.
        timestamp: of its records, seconds since the epoch.
    """

    at: float
    records: int
    timestamp: int


class Memory(NamedTuple):
    """Memory of a process in kilobytes, and what else it holds.

    Attributes:
        rss: resident pages, shared ones in full.
        pss: resident pages, shared ones in proportion.
        threads: how many.
        descriptors: open ones.
    """

    rss: int
    pss: int
    threads: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running agent and what its transfer got.

    Attributes:
        pid: of the agent.
        started: monotonic seconds when its process was made.
        arrivals: pushes so far; grows by itself.
    """

    pid: int
    started: float
    arrivals: list[Arrival]

    def wait_for_cycles(self, wanted: int, seconds: float = _PATIENCE_SECONDS) -> None:
        """Wait until so many cycles have arrived."""
        wait_until(lambda: self.cycles() >= wanted, f"{wanted} cycles arrived", seconds)

    def cycles(self) -> int:
        """How many different cycles have arrived."""
        return len({arrival.timestamp for arrival in self.arrivals})

    def memory(self) -> Memory:
        """What it holds now (proc(5), smaps_rollup)."""
        process = Path(f"/proc/{self.pid}")
        rollup = (process / "smaps_rollup").read_text()
        sizes = {name: int(kb) for name, kb in re.findall(r"^(Rss|Pss):\s+(\d+) kB", rollup, re.MULTILINE)}
        threads = len(list((process / "task").iterdir()))
        return Memory(sizes["Rss"], sizes["Pss"], threads, len(list((process / "fd").iterdir())))

    def cpu_ns(self) -> int:
        """CPU time of all threads that live (first field of schedstat, scheduler/sched-stats.rst)."""
        return sum(
            int((task / "schedstat").read_text().split()[0])
            for task in Path(f"/proc/{self.pid}/task").iterdir()
        )

    def switches(self) -> dict[str, tuple[int, int]]:
        """Voluntary and involuntary context switches of each thread, by name and thread id."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            status = (task / "status").read_text()
            numbers = re.findall(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
            name = (task / "comm").read_text().strip()
            found[f"{name} {task.name}"] = (int(numbers[0]), int(numbers[1]))
        return found


@contextlib.contextmanager
def daemon(
    engine: str,
    netns: str,
    directory: Path,
    sections: Mapping[str, Mapping[str, object]],
    *,
    named: bool = False,
) -> Iterator[Daemon]:
    """`falcon-agent run` against the containers of an engine, for the block.

    Args:
        engine: URL of its API.
        netns: network namespace to run in, where the host's ends of the veth pairs are.
        directory: for configuration, spool and log.
        sections: more of the configuration.
        named: run it by `bench.named`.
    """
    directory.mkdir(parents=True)
    with _transfer(netns) as (port, arrivals):
        configuration = _configuration(engine, directory, port, sections)
        program = [sys.executable, "-m", "bench.named"] if named else [_AGENT]
        command = in_namespace(netns, *program, "run", "--config", configuration)
        with (directory / "log").open("wb") as log:
            started = time.monotonic()
            # A session of its own: Ctrl-C is for the benchmark, which ends it in its turn.
            process = subprocess.Popen(
                command, env=environment(), stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_until(lambda: arrivals or process.poll() is not None, "the first push", _START_SECONDS)
            if process.poll() is not None:
                raise RuntimeError(
                    f"cannot measure: the agent ended:\n{(directory / 'log').read_text()[-2000:]}"
                )
            # nsenter becomes the program it starts.
            yield Daemon(process.pid, started, arrivals)
        finally:
            _end(process)


def _configuration(
    engine: str, directory: Path, port: int, sections: Mapping[str, Mapping[str, object]]
) -> str:
    whole: dict[str, Mapping[str, object]] = {
        "transfer": {"addresses": [f"http://127.0.0.1:{port}/api/push"]},
        "spool": {"directory": str(directory / "spool")},
        "discovery": {"docker": engine},
        **sections,
    }
    return settings_file(directory / "agent.toml", whole)


@contextlib.contextmanager
def _transfer(netns: str) -> Iterator[tuple[int, list[Arrival]]]:
    command = in_namespace(netns, sys.executable, "-m", "bench.receiver")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    arrivals: list[Arrival] = []
    try:
        if process.stdout is None:
            raise RuntimeError("the transfer has no pipe")
        port = int(process.stdout.readline())
        stdout = process.stdout

        def read() -> None:
            for line in stdout:
                at, records, timestamp = line.split()
                arrivals.append(Arrival(float(at), int(records), int(timestamp)))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        yield port, arrivals
    finally:
        _end(process)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
