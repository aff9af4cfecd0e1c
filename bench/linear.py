"""Whether a container costs the same among thousands: steady cycles over captured trees of several sizes."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import calls
from bench.apart import Apart
from bench.netns import go_inside
from bench.report import progress
from bench.rounds import alternate
from bench.show import linear_table
from bench.steady import MEASURED, Steady, containers_of, settings_with
from bench.tree import build, capture
from falcon_agent.selfstat import SelfStat

if TYPE_CHECKING:
    from collections.abc import Callable


SIZES = (100, 1000, 3000)
_TMPFS = "/dev/shm"  # noqa: S108  a disk's file system would be measured otherwise


def main() -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.linear", description=__doc__)
    parser.add_argument("--engine", default="unix:///var/run/docker.sock", metavar="URL")
    parser.add_argument("--netns", default="", metavar="FILE", help="enter this network namespace first")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N")
    parser.add_argument("--json", metavar="FILE", help="write JSON there instead")
    options = parser.parse_args()
    go_inside(options.netns, "bench.linear")
    with tempfile.TemporaryDirectory(prefix="falcon-bench-", dir=_TMPFS) as directory:
        figures = measure(options.engine, sorted(options.sizes), options.rounds, Path(directory))
    if options.json:
        Path(options.json).write_text(json.dumps(figures) + "\n")
    else:
        print(linear_table(figures))
    return 0


def measure(engine: str, sizes: list[int], rounds: int, directory: Path) -> dict[str, Any]:
    """CPU nanoseconds of each round, by how many containers the tree has."""
    chosen = settings_with(
        directory / "one",
        {"discovery": {"runtimes": ["docker"], "docker": engine}, "collectors": {"enabled": list(MEASURED)}},
    )
    with containers_of(chosen) as snapshot:
        one = next(container for container in snapshot() if container.labels.get("load", "0") == "0")
        first = Steady(chosen, lambda _: [one], SelfStat())
        read = calls.files_read(calls.traced(partial(_twice, first.cycle)))
        first.close()
        captured = capture(one, [path for path in read if Path(path).exists()])
    progress(f"making a tree of {sizes[-1]} containers")
    root = directory / "tree"
    copies = build(root, captured, sizes[-1])
    with contextlib.ExitStack() as stack:
        passes, left_out = {}, {}
        for size in sizes:
            try:
                agent = Apart(directory / str(size), _sections(root), copies[:size])
            except RuntimeError as error:
                left_out[str(size)] = str(error)
                continue
            stack.callback(agent.close)
            passes[str(size)] = agent.run
        done = alternate(passes, rounds)
    return {
        "sizes": [int(name) for name in done],
        "left_out": left_out,
        "cpu_ns": {name: [one.cpu_ns for one in found] for name, found in done.items()},
    }


def _sections(root: Path) -> dict[str, dict[str, object]]:
    """The configuration for a tree."""
    return {
        "discovery": {"runtimes": ["docker"]},  # never asked: the copies are given
        "paths": {"proc": f"{root}/proc", "cgroup": f"{root}/sys/fs/cgroup"},
        "collectors": {"enabled": list(MEASURED)},
    }


def _twice(work: Callable[[], None]) -> None:
    work()
    work()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
