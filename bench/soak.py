"""`make bench-soak`: the real daemon over many cycles; what it holds is to stay the same."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import linear_regression
from typing import TYPE_CHECKING, Any

from bench.bed import bed
from bench.daemon import daemon
from bench.report import progress, table
from tests.real.engine import EngineError

if TYPE_CHECKING:
    from bench.daemon import Daemon

_LINES = 40
_PATIENCE_SECONDS = 120.0
_WHAT = ("rss", "pss", "threads", "descriptors")
_HEADER = ("cycle", "RSS, KB", "PSS, KB", "threads", "descriptors")


def main() -> int:
    """Print memory over time, and at the end by how much it rises."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--step", type=int, default=1, help="seconds between two cycles")
    parser.add_argument("--containers", type=int, default=300)
    parser.add_argument(
        "--replace", type=float, default=0, metavar="N", help="containers that give way to new ones, a minute"
    )
    parser.add_argument("--json", metavar="FILE", help="the samples, also as JSON")
    options = parser.parse_args()
    if options.replace < 0:
        parser.error(f"--replace {options.replace:g}: how many a minute is 0 or more")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    samples: list[dict[str, int]] = []
    code = 0
    try:
        with (
            tempfile.TemporaryDirectory(prefix="falcon-bench-") as directory,
            bed(options.containers) as made,
        ):
            made.connect()
            engine, netns = made.engine.url, str(made.engine.netns)
            with (
                daemon(engine, netns, Path(directory, "soak"), {"agent": {"step": options.step}}) as agent,
                made.replacing(options.replace),
            ):
                _watch(agent, options.cycles, samples)
    except KeyboardInterrupt:
        progress("interrupted: these are the figures so far")
    except (EngineError, RuntimeError) as error:
        print(error, file=sys.stderr)
        code = 1
    if options.json:
        Path(options.json).write_text(json.dumps(samples) + "\n")
    if len(samples) > 2:  # noqa: PLR2004  a line through two points says nothing
        print(slopes(samples))
    return code


def _watch(agent: Daemon, cycles: int, samples: list[dict[str, int]]) -> None:
    """Look at it after every fortieth part of the cycles.

    Raises:
        RuntimeError: cycles do not arrive any more.
    """
    print("  ".join(f"{name:>11}" for name in _HEADER), flush=True)
    seen, at = -1, time.monotonic()
    while seen < cycles:
        if (now := agent.cycles()) == seen:
            if time.monotonic() - at > _PATIENCE_SECONDS:
                raise RuntimeError(f"cannot go on: no cycle has arrived for {_PATIENCE_SECONDS:g} s")
            time.sleep(0.1)
            continue
        at = time.monotonic()
        if seen < 0 or now // max(1, cycles // _LINES) > seen // max(1, cycles // _LINES):
            samples.append({"cycle": now, **agent.memory()._asdict()})
            print("  ".join(f"{value:>11}" for value in samples[-1].values()), flush=True)
        seen = now


def slopes(samples: list[dict[str, int]]) -> str:
    """How steeply each figure rises, by least squares over all but the first tenth of the cycles."""
    settled = [one for one in samples if one["cycle"] * 10 >= samples[-1]["cycle"]]
    rows = []
    for what in _WHAT:
        values: list[Any] = [one[what] for one in settled]
        slope = linear_regression([one["cycle"] for one in settled], values).slope
        rows.append((what, str(values[0]), str(max(values)), str(values[-1]), f"{slope * 1000:+.1f}"))
    title = f"{samples[-1]['cycle']} cycles, the first tenth left out"
    return table(title, ("KB, or number", "first", "most", "last", "slope per 1,000 cycles"), rows)


if __name__ == "__main__":
    sys.exit(main())
