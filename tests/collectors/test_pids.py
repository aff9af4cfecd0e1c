from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Cgroup, Hierarchies
from falcon_agent.collectors.pids import PidsCollector
from falcon_agent.container import CgroupPaths
from tests.cgroupfs.trees import DOCKER, Tree
from tests.collectors.opened import DOCKER_IO, cycle, of_host, of_tree, reasons
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from falcon_agent.collectors.base import Collector
    from tests.real.engine import Engine

ALL = ("pids.current", "pids.limit", "pids.used.percent", "pids.denied")
FORK = """
import os, sys
with open(sys.argv[1], "w") as procs:
    procs.write("0")
refused = 0
for _ in range(3):
    try:
        if os.fork() == 0:
            os._exit(0)
    except BlockingIOError:
        refused += 1
print(refused)
"""
"""Joins a cgroup, which no limit forbids, and says how often it was not allowed to fork there."""

NO_LIMIT = "no limit of tasks is set, here or in a parent cgroup"


@pytest.mark.parametrize(
    ("layout", "pid", "expected"),
    [
        ("v2", DOCKER["v2"], (3, 4, 75.0, 5)),
        ("v1-io", DOCKER_IO, (12, 12, 100.0, 20)),  # the limit is that of /docker
    ],
)
def test_captured_containers(layout: str, pid: int, expected: tuple[float, ...]) -> None:
    tree = Tree(layout)
    collector = PidsCollector()
    with of_tree(tree, pid) as target:
        assert cycle(collector, target) == dict(zip(ALL, expected, strict=True))
        assert not reasons(collector, target)


def test_without_a_limit_there_is_no_share(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    directory = tree.directory(DOCKER["v2"], "pids")
    collector = PidsCollector()
    with of_tree(tree, DOCKER["v2"]) as target:
        for place in (directory, directory.parent):
            (place / "pids.max").write_bytes(b"max\n")
        assert cycle(collector, target) == {"pids.current": 3, "pids.denied": 5}
        assert reasons(collector, target) == {"pids.limit": NO_LIMIT, "pids.used.percent": NO_LIMIT}
        (directory / "pids.max").write_bytes(b"0\n")
        tree.hierarchies.new_cycle()
        assert cycle(collector, target) == {"pids.current": 3, "pids.limit": 0, "pids.denied": 5}
        assert reasons(collector, target) == {"pids.used.percent": "the limit is 0 tasks"}


def test_what_the_kernel_does_not_count(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    collector = PidsCollector()
    with of_tree(tree, DOCKER["v2"]) as target:
        (tree.directory(DOCKER["v2"], "pids") / "pids.events").unlink()
        assert "pids.denied" not in cycle(collector, target)
        assert reasons(collector, target) == {"pids.denied": "the kernel does not count what it refuses"}
        (tree.directory(DOCKER["v2"], "pids") / "pids.current").unlink()
        assert not cycle(collector, target)
        assert reasons(collector, target) == dict.fromkeys(
            ALL, "the kernel does not count the tasks of this cgroup"
        )
        target.cgroup = Cgroup(tree.hierarchies, CgroupPaths({}, None))
        assert not cycle(collector, target)
        nothing = "no cgroup hierarchy accounts for pids here"
        assert reasons(collector, target) == dict.fromkeys(ALL, nothing)
        collector.forget(target)
        collector.forget(target)
        assert not reasons(collector, target)


def test_it_is_a_collector_of_containers() -> None:
    collector: Collector = PidsCollector()
    assert (collector.name, collector.scope) == ("pids", "container")
    assert not list(collector.collect(None))
    assert tuple(metric.name.removeprefix("container.") for metric in collector.metrics) == ALL


@pytest.mark.real
def test_a_real_container_at_its_limit(docker_engine: Engine) -> None:
    collector = PidsCollector()
    # Many, for what starts the container has threads of its own in it for a while.
    fill = "for i in $(seq 62); do sleep 86400 & done; wait"
    with (
        docker_engine.container("--pids-limit", "64", command=("sh", "-c", fill)) as container,
        of_host(docker_engine.pid(container)) as target,
    ):
        # docker-init, the shell, and what it has started.
        wait_until(lambda: cycle(collector, target)["pids.current"] == 64, "its processes run")
        start = cycle(collector, target)
        assert start == {"pids.current": 64, "pids.limit": 64, "pids.used.percent": 100.0, "pids.denied": 0}
        at = Hierarchies.find().locate("pids", target.cgroup.paths)
        assert at is not None
        done = subprocess.run(
            [sys.executable, "-c", FORK, f"{at.path}/cgroup.procs"],
            capture_output=True,
            check=False,
            timeout=60,
        )
        refused = int(done.stdout)
        assert refused == 3, done.stderr
        assert cycle(collector, target) == start | {"pids.denied": refused}
        assert docker_engine.inspect(container)["HostConfig"]["PidsLimit"] == start["pids.limit"]
