"""How many system calls a steady cycle makes, for the containers of an engine that have a label."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench import calls
from bench.netns import go_inside
from bench.steady import MEASURED, Steady, containers_of, settings_with
from falcon_agent.selfstat import SelfStat

_WARM_UP = 3


def main() -> int:
    """Print JSON: for each traced cycle, how many calls by name."""
    parser = argparse.ArgumentParser(prog="python -m bench.count", description=__doc__)
    parser.add_argument("--engine", default="unix:///var/run/docker.sock", metavar="URL")
    parser.add_argument("--netns", default="", metavar="FILE", help="enter this network namespace first")
    parser.add_argument("--label", required=True, metavar="KEY[=VALUE]")
    parser.add_argument("--cycles", type=int, default=5)
    options = parser.parse_args()
    go_inside(options.netns, "bench.count")
    sections = {
        "discovery": {"runtimes": ["docker"], "docker": options.engine},
        "discovery.include": {"label": [options.label]},
        "collectors": {"enabled": MEASURED},
    }
    with tempfile.TemporaryDirectory(prefix="falcon-bench-") as directory:
        chosen = settings_with(Path(directory), sections)
        with containers_of(chosen) as snapshot:
            agent = Steady(chosen, snapshot, SelfStat())
            for _ in range(_WARM_UP):
                agent.run()
            counted = [calls.by_name(calls.traced(agent.cycle)) for _ in range(options.cycles)]
            agent.close()
            print(json.dumps({"containers": len(snapshot()), "calls": counted}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
