"""How many system calls a container costs in a steady cycle: what a cycle costs, without a clock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.calls import Call, by_name, files_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.real.engine import Engine

pytestmark = pytest.mark.real

CONTAINERS = 6
COMMANDS = {"quiet": ("sleep", "86400"), "listening": ("nc", "-ll", "-p", "9000", "-e", "cat")}
MOST = {"quiet": 146, "listening": 164}
"""System calls that a cycle of sockets, cpu, memory and network may cost with so many containers, without TCP
sockets and with a listening one each: 142 and 160 now, and fewer to spare than one read more for each would
take. This is cgroup v1; v2 has a file less to read."""


def told_by(*program: str) -> Any:
    """What a Python program of its own prints, as JSON."""
    done = subprocess.run(
        [sys.executable, *program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def count(engine: Engine, label: str) -> Counter[str]:
    """The calls of a cycle over the containers with a label; of several cycles the fewest by name.

    Other threads may have something to do in one of them: an event of Docker's, the next listing.
    """
    options = ("--engine", engine.url, "--netns", str(engine.netns), "--label", label)
    answer = told_by("-m", "bench.count", *options)
    assert answer["containers"] == CONTAINERS
    cycles = [Counter(calls) for calls in answer["calls"]]
    return Counter({name: min(calls[name] for calls in cycles) for name in set().union(*cycles)})


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_cycle_costs_so_many_system_calls(docker_engine: Engine, kind: str) -> None:
    with ExitStack() as stack:
        for _ in range(CONTAINERS):
            options = ["--label", f"calls-{kind}", "--memory", "64m", "--cpus", "0.5"]
            stack.enter_context(docker_engine.container(*options, command=COMMANDS[kind]))
        calls = count(docker_engine, f"calls-{kind}")
    table = "\n".join(f"{number:6} {name}" for name, number in calls.most_common())
    assert calls.total() <= MOST[kind], f"system calls of a cycle, {calls.total()} in all:\n{table}"


ALONE = """
import json
from pathlib import Path
from bench.calls import traced

kept = Path("/proc/stat").open("rb", buffering=0)

def reading(*paths):
    for path in paths:
        Path(path).read_bytes()

print(json.dumps(traced(lambda: {work})))
"""


def seen_of(work: str) -> Sequence[Call]:
    """The calls of a process that does nothing else; in the tests' own there may be threads of earlier ones."""
    return [Call(*one) for one in told_by("-c", ALONE.replace("{work}", work))]


def test_every_read_of_a_kernel_file_is_seen() -> None:
    seen = seen_of(f"reading('/proc/uptime', '/proc/loadavg', '/proc/uptime', {__file__!r})")
    assert files_read(seen) == ["/proc/uptime", "/proc/loadavg"]
    assert by_name(seen)["openat"] == 4


def test_the_file_behind_a_kept_descriptor_is_seen() -> None:
    seen = seen_of("kept.readline()")
    assert files_read(seen) == ["/proc/stat"]
    assert by_name(seen)["openat"] == 0


def test_what_is_done_outside_of_the_work_is_not_counted() -> None:
    assert by_name(seen_of("None")) == Counter()
