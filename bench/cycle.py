"""Steady cycles of the agent against the C floor, on containers that run already, in one process.

It has to run where the host's ends of the containers' veth pairs are: give it the engine's network namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import os
import pstats
import re
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import calls
from bench.apart import WARM_UP, Apart
from bench.bed import CONNECTS
from bench.floor import Floor
from bench.netns import count_tcp, go_inside
from bench.rounds import alternate
from bench.show import cycle_tables
from bench.steady import MEASURED, Steady, containers_of, settings_with
from falcon_agent.collectors import DEFAULTS
from falcon_agent.selfstat import SelfStat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.floor import Order, Pass
    from falcon_agent.container import Container


def main() -> int:
    """Print the tables, or JSON."""
    options = _parser().parse_args()
    go_inside(options.netns, "bench.cycle")
    with tempfile.TemporaryDirectory(prefix="falcon-bench-") as directory:
        if options.profile:
            _profile(options, Path(directory))
            return 0
        figures = measure(options, Path(directory))
    if options.json:
        Path(options.json).write_text(json.dumps(figures) + "\n")
    else:
        print(cycle_tables(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.cycle", description=__doc__)
    parser.add_argument("--engine", default="unix:///var/run/docker.sock", metavar="URL")
    parser.add_argument("--netns", default="", metavar="FILE", help="enter this network namespace first")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write JSON there instead")
    parser.add_argument(
        "--collectors", default=",".join(MEASURED), help="those of the first line (default: %(default)s)"
    )
    parser.add_argument("--only", action="store_true", help="that line and its floor only")
    parser.add_argument("--busy", action="store_true", help="also with a busy loop on every core")
    parser.add_argument(
        "--profile", metavar="SORT", help="no figures: cProfile, sorted by tottime or cumtime"
    )
    return parser


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """All figures of an engine's containers, by name; times are lists of nanoseconds, one for each round."""
    with contextlib.ExitStack() as stack:
        agents: dict[str, Apart] = {}

        def begin(name: str, enabled: Sequence[str], **more: dict[str, object]) -> None:
            agents[name] = Apart(directory / name, _sections(options.engine, enabled, **more))
            stack.callback(agents[name].close)

        begin("agent", options.collectors.split(","))
        seen, containers = agents["agent"].trace(), agents["agent"].containers()
        files, namespaces = calls.files_read(seen), _with_sockets(containers)
        unconnected = 0
        if not options.only:
            begin("agent.sockets", ["sockets"])
            begin("agent.defaults", DEFAULTS)
            if namespaces:
                left_out: dict[str, object] = {"label": [f"load={CONNECTS}"]}
                begin("agent.unconnected", ["sockets"], **{"discovery.exclude": left_out})
                unconnected = len(agents["agent.unconnected"].containers())
        floor = stack.enter_context(Floor(files, namespaces, directory))
        orders: tuple[Order, ...] = ("files", "kept", "dumps", "held") if namespaces else ("files", "kept")
        passes: dict[str, Callable[[], Pass]] = {
            f"floor.{order}": partial(floor.run, order) for order in orders
        }
        passes |= {name: agent.run for name, agent in agents.items()}
        spent: dict[str, list[dict[str, float]]] = {name: [] for name in agents}

        def note_collectors() -> None:
            for name, agent in agents.items():
                spent[name].append(agent.collectors)

        rounds = alternate(passes, options.rounds, note_collectors)
        if options.busy:
            with _busy_cores():
                rounds |= alternate({"agent.busy": agents["agent"].run}, options.rounds)
    return {
        "containers": len(containers),
        "namespaces": len(namespaces),
        "unconnected": unconnected,
        "files": len(files),
        "calls": calls.by_name(seen),
        "kinds": _kinds(files),
        "cpu_ns": {name: [one.cpu_ns for one in done] for name, done in rounds.items()},
        "wall_ns": {name: [one.wall_ns for one in done] for name, done in rounds.items()},
        "collectors_ms": {name: _medians(of) for name, of in spent.items()},
    }


def _sections(engine: str, enabled: Sequence[str], **more: dict[str, object]) -> dict[str, dict[str, object]]:
    discovery: dict[str, object] = {"runtimes": ["docker"], "docker": engine}
    return {"discovery": discovery, "collectors": {"enabled": list(enabled)}, **more}


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


@contextlib.contextmanager
def _busy_cores() -> Iterator[None]:
    """A busy loop for every core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _with_sockets(containers: Sequence[Container]) -> list[str]:
    """The network namespaces with TCP sockets, once each: those that the agent has to ask."""
    found = {one.netns: f"/proc/{one.pid}/ns/net" for one in containers if count_tcp(one.pid)}
    return list(found.values())


def _kinds(files: Sequence[str]) -> dict[str, int]:
    """How often a file of each kind is read, by its name without the container's."""
    kinds: dict[str, int] = {}
    for path in files:
        kind = re.sub(r"^/proc/\d+/", "/proc/PID/", path)
        kind = kind.rpartition("/")[2] if kind.startswith("/sys/") else kind
        kinds[kind] = kinds.get(kind, 0) + 1
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def _profile(options: argparse.Namespace, directory: Path) -> None:
    """Where the CPU time of the cycle's thread goes."""
    chosen = settings_with(directory, _sections(options.engine, options.collectors.split(",")))
    with containers_of(chosen) as snapshot:
        agent = Steady(chosen, snapshot, SelfStat())
        for _ in range(WARM_UP):
            agent.run()
        profile = cProfile.Profile(time.thread_time)
        profile.enable()
        for _ in range(options.rounds):
            agent.cycle()
        profile.disable()
        agent.close()
    pstats.Stats(profile).sort_stats(options.profile).print_stats(40)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
