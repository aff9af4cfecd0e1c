from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Cgroup
from falcon_agent.collectors import processes
from falcon_agent.collectors.processes import MOST_SECONDS, ProcessesCollector
from falcon_agent.container import CgroupPaths
from falcon_agent.errors import DeniedError
from tests.cgroupfs.trees import DOCKER, Tree
from tests.collectors.opened import Clock, cycle, of_host, of_tree, reasons
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falcon_agent.collectors.base import Collector, Target
    from tests.real.engine import Engine

ALL = ("proc.count", "threads", "fds", "fds.max.percent")
PID = DOCKER["v2"]
STAT = "{} (a b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 {} 0 12345 0 0\n"
LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max open files            {}                 524288               files     \n"
)


def add(tree: Tree, pid: int, *, threads: int, fds: int, limit: int | str) -> None:
    """A process of the container, made by hand: the trees were captured without any."""
    directory = Path(tree.proc) / str(pid)
    (directory / "fd").mkdir(parents=True)
    for number in range(fds):
        (directory / "fd" / str(number)).touch()
    (directory / "stat").write_text(STAT.format(pid, threads))
    (directory / "limits").write_text(LIMITS.format(limit))
    procs = tree.directory(PID, "pids") / "cgroup.procs"
    procs.write_text((procs.read_text() if procs.exists() else "") + f"{pid}\n")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories of an ordinary file system have a size of their own, unlike those of procfs: count the entries."""
    monkeypatch.setattr(processes, "count_open_files", lambda process: len(os.listdir(f"{process}/fd")))


@pytest.fixture
def made(tmp_path: Path, counted: None) -> Iterator[tuple[Tree, Target]]:
    """A container of two processes."""
    tree = Tree.copy("v2", tmp_path)
    add(tree, PID, threads=3, fds=5, limit=1000)
    add(tree, 200, threads=1, fds=4, limit=16)
    with of_tree(tree, PID) as target:
        yield tree, target


def test_all_processes_together_and_the_fullest(made: tuple[Tree, Target]) -> None:
    tree, target = made
    collector = ProcessesCollector(tree.proc)
    expected = {"proc.count": 2, "threads": 4, "fds": 9, "fds.max.percent": 25.0}
    assert cycle(collector, target) == expected
    assert not reasons(collector, target)
    add(tree, 201, threads=1, fds=7, limit="unlimited")
    add(tree, 202, threads=1, fds=2, limit=0)
    (Path(tree.proc) / "202" / "limits").write_bytes(b"")  # a zombie
    add(tree, 203, threads=1, fds=2, limit=0)
    assert cycle(collector, target) == expected | {"proc.count": 5, "threads": 7, "fds": 20}


def test_a_process_that_ends_meanwhile_is_passed_over(made: tuple[Tree, Target]) -> None:
    tree, target = made
    collector = ProcessesCollector(tree.proc)
    (Path(tree.proc) / "200" / "stat").unlink()
    assert cycle(collector, target) == {"proc.count": 2, "threads": 3, "fds": 5, "fds.max.percent": 0.5}


def test_what_may_not_be_counted_is_absent(
    made: tuple[Tree, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests are root, and this kernel lets everybody count.
    def refuse(process: str) -> int:
        raise DeniedError(f"{process}/fd", "Permission denied")

    tree, target = made
    collector = ProcessesCollector(tree.proc)
    monkeypatch.setattr(processes, "count_open_files", refuse)
    assert cycle(collector, target) == {"proc.count": 2, "threads": 4}
    assert set(reasons(collector, target)) == {"fds", "fds.max.percent"}
    assert "needs CAP_DAC_READ_SEARCH" in reasons(collector, target)["fds"]


def test_it_is_bounded(made: tuple[Tree, Target], monkeypatch: pytest.MonkeyPatch) -> None:
    tree, target = made
    monkeypatch.setattr(processes, "MOST_PROCESSES", 1)
    collector = ProcessesCollector(tree.proc)
    assert not cycle(collector, target)
    assert set(reasons(collector, target)) == set(ALL)
    assert "more than 1 processes" in reasons(collector, target)["fds"]


def test_all_containers_share_one_budget_of_time(made: tuple[Tree, Target]) -> None:
    tree, target = made
    clock = Clock()
    collector = ProcessesCollector(tree.proc, clock)
    collector.begin([target])
    clock.now += MOST_SECONDS
    assert len(list(collector.collect(target))) == len(ALL)
    clock.now += 0.001
    assert not list(collector.collect(target))
    assert set(reasons(collector, target)) == set(ALL)
    assert "longer than 250 ms" in reasons(collector, target)["threads"]
    assert set(cycle(collector, target)) == set(ALL)  # the next cycle has its own


def test_one_container_may_use_it_up(made: tuple[Tree, Target]) -> None:
    tree, target = made
    ticks = iter([0.0, 0.0, 0.1, 1.0])  # begin, the container, its first process, its second
    collector = ProcessesCollector(tree.proc, lambda: next(ticks))
    assert cycle(collector, target) == {"proc.count": 2}
    assert set(reasons(collector, target)) == {"threads", "fds", "fds.max.percent"}


def test_numbers_of_another_pid_namespace_are_not_used(made: tuple[Tree, Target]) -> None:
    tree, target = made
    (tree.directory(PID, "pids") / "cgroup.procs").write_bytes(b"0\n0\n")
    collector = ProcessesCollector(tree.proc)
    assert not cycle(collector, target)
    assert set(reasons(collector, target)) == set(ALL)
    assert "not in the host's PID namespace" in reasons(collector, target)["proc.count"]


def test_without_a_cgroup_nothing_is_known(made: tuple[Tree, Target]) -> None:
    tree, target = made
    target.cgroup = Cgroup(tree.hierarchies, CgroupPaths({}, None))
    collector = ProcessesCollector(tree.proc)
    assert not cycle(collector, target)
    assert set(reasons(collector, target)) == set(ALL)
    collector.forget(target)
    collector.forget(target)
    assert not reasons(collector, target)


def test_it_is_a_collector_of_containers() -> None:
    collector: Collector = ProcessesCollector()
    assert (collector.name, collector.scope) == ("processes", "container")
    assert not list(collector.collect(None))
    assert tuple(metric.name.removeprefix("container.") for metric in collector.metrics) == ALL


@pytest.mark.real
def test_a_real_container_against_docker_top_and_proc(docker_engine: Engine) -> None:
    hold = 'for i in 3 4 5 6 7 8 9; do eval "exec $i</dev/null"; done; sleep 86400 & sleep 86401 & wait'
    collector = ProcessesCollector(clock=Clock())  # so its budget of time is never used up
    with (
        docker_engine.container("--ulimit", "nofile=40:40", command=("sh", "-c", hold)) as container,
        of_host(docker_engine.pid(container)) as target,
    ):

        def listed() -> list[Path]:
            lines = docker_engine.cli("top", container).splitlines()[1:]
            return [Path("/proc", line.split()[1]) for line in lines]

        # docker-init, the shell, and both of its children, which have become what they are to run.
        wait_until(
            lambda: sum("sleep\0" in (one / "cmdline").read_text() for one in listed()) == 2, "it runs"
        )
        found = cycle(collector, target)
        fds = [len(list((one / "fd").iterdir())) for one in listed()]
        assert found["proc.count"] == len(fds) == 4
        assert found["threads"] == sum(len(list((one / "task").iterdir())) for one in listed())
        assert found["fds"] == sum(fds)
        assert found["fds.max.percent"] == max(fds) / 40 * 100 >= 25.0
