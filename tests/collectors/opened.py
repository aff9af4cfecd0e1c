"""Targets for collectors of scope `container`: opened as the runner does, and asked for one cycle."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs import Cgroup, Hierarchies, parse_cgroup_paths
from falcon_agent.collectors.base import Target
from falcon_agent.container import Container
from falcon_agent.procfs.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falcon_agent.collectors.base import Collector
    from falcon_agent.container import CgroupPaths
    from tests.cgroupfs.trees import Tree

DOCKER_IO = 24987
"""First process of the container in the tree `v1-io`."""


class Clock:
    """Stands still unless it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def of_tree(tree: Tree, pid: int) -> Iterator[Target]:
    """A container of a captured tree."""
    with _opened(tree.proc, pid, tree.paths(pid), tree.hierarchies) as target:
        yield target


@contextmanager
def of_host(pid: int) -> Iterator[Target]:
    """A container that runs, by its first process."""
    paths = parse_cgroup_paths(Path(f"/proc/{pid}/cgroup").read_bytes())
    with _opened("/proc", pid, paths, Hierarchies.find()) as target:
        yield target


@contextmanager
def _opened(proc: str, pid: int, paths: CgroupPaths, hierarchies: Hierarchies) -> Iterator[Target]:
    container = Container(id=f"c{pid}", name="c", runtime="test", pid=pid, starttime=1, cgroup=paths)
    process = Process(proc, pid)
    try:
        yield Target(container, process, Cgroup(hierarchies, paths))
    finally:
        process.close()


def cycle(collector: Collector, target: Target) -> dict[str, float]:
    """What one cycle says: metric (without `container.`, and its tag values in brackets) to value."""
    collector.begin([target])
    return {
        metric.name.removeprefix("container.") + "".join(f"[{value}]" for _, value in tags): value
        for metric, value, tags in collector.collect(target)
    }


def reasons(collector: Collector, target: Target) -> dict[str, str]:
    """Why metrics had no value in that cycle."""
    found = {metric.name: collector.absent(metric, target) for metric in collector.metrics}
    return {name.removeprefix("container."): why for name, why in found.items() if why is not None}
