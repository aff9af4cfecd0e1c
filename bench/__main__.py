"""`make bench`: what a cycle costs against a C program that reads the same, and how the daemon behaves."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.bed import Bed, bed
from bench.daemon import daemon
from bench.report import progress
from bench.show import cycle_tables, daemon_tables, goals_table, linear_table
from tests.real.engine import EngineError

_FEW = 100
"""Real containers that the cost of each is also measured with."""
_STARTS = 3
_STEADY_CYCLES = 30
_SETTLED_CYCLES = 8
_SETTLE_SECONDS = 25.0
_STEP = 60
_IDLE_FROM, _IDLE_LATEST, _IDLE_UNTIL = 8.0, 10.0, 55.0
"""Seconds after a multiple of the step: when the quiet time begins, at the latest, and when it ends."""
_TWO = 2
"""Cycles: the first one at once, and one at a multiple of the step."""


_WORDS = {"few": "", "quiet": ", no connections", "connected": ", every third with connections"}


def main() -> int:
    """Measure, print, clean up."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--containers", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="all figures, also as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    figures: dict[str, Any] = {"machine": _machine()}
    code = 0
    try:
        with tempfile.TemporaryDirectory(prefix="falcon-bench-") as directory:
            _measure(figures, options.containers, options.rounds, Path(directory))
    except KeyboardInterrupt:
        code = 130
    except (EngineError, RuntimeError) as error:
        print(error, file=sys.stderr)
        code = 1
    # What was measured before that is worth its time all the same.
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    _print(figures)
    return code


def _measure(figures: dict[str, Any], containers: int, rounds: int, directory: Path) -> None:
    """All figures; each step is a process of its own, so that none carries what another has left."""
    few = min(_FEW, containers)
    with bed(few) as made:
        if few < containers:
            _settle()
            progress(f"steady cycles of {few}")
            figures["few"] = _run(made, "bench.cycle", directory, "--only", "--rounds", str(rounds))
            made.grow(containers)
        _settle()
        progress(f"steady cycles of {containers} without connections")
        figures["quiet"] = _run(made, "bench.cycle", directory, "--busy", "--rounds", str(rounds))
        progress("copied trees")
        figures["linear"] = _run(made, "bench.linear", directory, "--rounds", str(rounds))
        progress("every third container opens connections")
        made.connect()
        progress(f"steady cycles of {containers} with connections")
        figures["connected"] = _run(made, "bench.cycle", directory, "--rounds", str(rounds))
        figures["started_seconds"] = made.seconds
        figures["daemon"] = _daemon(made, directory)


def _settle() -> None:
    """The kernel tells of new interfaces for as long as IPv6 comes up on them, and a cycle then maps them anew."""
    progress("new interfaces come to rest")
    time.sleep(_SETTLE_SECONDS)


def _run(made: Bed, module: str, directory: Path, *arguments: str) -> Any:
    """The figures of one of the other programs."""
    output = directory / "figures.json"
    engine = made.engine
    command = [sys.executable, "-m", module, "--engine", engine.url, "--netns", str(engine.netns), *arguments]
    done = subprocess.run([*command, "--json", str(output)], check=False)
    if done.returncode:
        raise RuntimeError(f"cannot measure: {module} ended with {done.returncode}")
    return json.loads(output.read_text())


def _daemon(made: Bed, directory: Path) -> dict[str, Any]:
    """The real program: how soon it pushes, what it holds, what it costs, how often it wakes."""
    engine, netns = made.engine.url, str(made.engine.netns)
    figures: dict[str, Any] = {"first_push_seconds": []}
    for number in range(_STARTS):
        progress(f"start to first push, {number + 1} of {_STARTS}")
        with daemon(engine, netns, directory / f"start{number}", {"agent": {"step": _STEP}}) as agent:
            figures["first_push_seconds"].append(agent.arrivals[0].at - agent.started)
    progress(f"{_STEADY_CYCLES} cycles a second apart")
    with daemon(engine, netns, directory / "steady", {"agent": {"step": 1}}) as agent:
        agent.wait_for_cycles(_SETTLED_CYCLES)
        cycles, cpu, switches = agent.cycles(), agent.cpu_ns(), agent.switches()
        agent.wait_for_cycles(cycles + _STEADY_CYCLES)
        cycles, cpu = agent.cycles() - cycles, agent.cpu_ns() - cpu
        figures |= {
            "cycles": cycles,
            "cpu_ns_per_cycle": cpu // cycles,
            "memory": agent.memory()._asdict(),
            "switches_per_cycle": sum(sum(one) for one in _risen(switches, agent.switches()).values())
            / cycles,
            "records_per_cycle": sum(one.records for one in agent.arrivals) // agent.cycles(),
        }
    with daemon(engine, netns, directory / "idle", {"agent": {"step": _STEP}}, named=True) as agent:
        progress("waiting for the quiet part of a minute")
        while agent.cycles() < _TWO or not _IDLE_FROM <= time.time() % _STEP <= _IDLE_LATEST:
            time.sleep(0.5)
        before, started = agent.switches(), time.monotonic()
        progress("counting wake-ups in it")
        time.sleep(max(0.0, _IDLE_UNTIL - time.time() % _STEP))
        figures["idle_seconds"] = time.monotonic() - started
        figures["idle_wakeups"] = {name: one[0] for name, one in _risen(before, agent.switches()).items()}
    return figures


def _risen(
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """By how much both counts of each thread rose."""
    risen = {}
    for name, (voluntary, involuntary) in after.items():
        old = before.get(name, (0, 0))
        risen[name] = (voluntary - old[0], involuntary - old[1])
    return risen


def _machine() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].partition(":")[2].strip() if names else platform.machine()
    today = time.strftime("%Y-%m-%d")
    python = platform.python_version()
    hardware = f"{os.cpu_count()} x {cpu}, Linux {platform.release()}, Python {python}"
    return f"{today}, {hardware}, load {os.getloadavg()[0]:.1f}"


def _print(figures: dict[str, Any]) -> None:
    print(figures["machine"])
    for name, words in _WORDS.items():
        if name in figures:
            print(cycle_tables(figures[name], words))
    if "linear" in figures:
        print(linear_table(figures["linear"]))
    if "daemon" in figures:
        print(daemon_tables(figures["daemon"]))
        print(goals_table(figures))


if __name__ == "__main__":
    sys.exit(main())
