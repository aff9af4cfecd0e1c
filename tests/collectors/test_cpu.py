from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Cgroup
from falcon_agent.collectors.base import Target
from falcon_agent.collectors.cpu import CpuCollector
from falcon_agent.container import CgroupPaths, Container
from falcon_agent.errors import GoneError, ParseError
from falcon_agent.procfs.process import Process
from tests.cgroupfs.live import BUSY, LiveCgroup, halt, resume, wait_until
from tests.cgroupfs.trees import DOCKER, POD, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from falcon_agent.collectors.base import Collector

NO_QUOTA = "no CPU quota is set, so nothing can be throttled"
POD_QUOTA = "the CPU quota is that of a parent cgroup, and the kernel counts throttling only there"


class Clock:
    """Stands still unless it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def target(tree: Tree, pid: int) -> Target:
    paths = tree.paths(pid)
    container = Container(id="c", name="c", runtime="test", pid=pid, starttime=1, cgroup=paths)
    return Target(container, Process(tree.proc, pid), Cgroup(tree.hierarchies, paths))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[tuple[Tree, Target]]:
    """The container with limits of its own, in a v2 tree that may be changed."""
    tree = Tree.copy("v2", tmp_path)
    found = target(tree, DOCKER["v2"])
    yield tree, found
    found.process.close()


def cycle(collector: CpuCollector, of: Target) -> dict[str, float]:
    collector.begin([of])
    return {metric.name.removeprefix("container.cpu."): value for metric, value, _ in collector.collect(of)}


def reasons(collector: CpuCollector, of: Target) -> dict[str, str]:
    found = {metric.name: collector.absent(metric, of) for metric in collector.metrics}
    return {name.removeprefix("container.cpu."): why for name, why in found.items() if why is not None}


def two_cycles(layout: str, pid: int, tmp_path: Path) -> tuple[CpuCollector, Target, dict[str, float]]:
    tree = Tree.copy(layout, tmp_path)
    clock = Clock()
    collector = CpuCollector(tree.proc, clock)
    of = target(tree, pid)
    cycle(collector, of)
    clock.now += tree.advance()
    tree.hierarchies.new_cycle()
    samples = cycle(collector, of)
    of.process.close()
    return collector, of, samples


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        # (26632354 - 23632850) us in 5.99 s are 0.50075 cores; of the 0.5 that is 100.15 %.
        ("v2", {
            "limit.cores": 0.5, "cores": 0.5008, "busy": 100.150, "user": 67.400, "system": 32.750,
            "throttled.percent": 100.0, "throttled.time": 24_923_300,
        }),
        # (22171159212 - 19043421290) ns in 6.22 s; user 971 - 769 and system 1246 - 1135 ticks.
        ("v1-comounted", {
            "limit.cores": 0.5, "cores": 0.5029, "busy": 100.570, "user": 64.952, "system": 35.691,
            "throttled.percent": 100.0, "throttled.time": 23_850_293,
        }),
        # (20341321663 - 17190164836) ns in 6.22 s; user 949 - 736 and system 1084 - 983 ticks.
        ("v1-separate", {
            "limit.cores": 0.5, "cores": 0.5066, "busy": 101.323, "user": 68.489, "system": 32.476,
            "throttled.percent": 100.0, "throttled.time": 23_988_772,
        }),
        # (2551231575 - 1524512515) ns in 4.13 s; user 148 - 91 and system 106 - 60 ticks.
        ("hybrid", {
            "limit.cores": 0.25, "cores": 0.2486, "busy": 99.440, "user": 55.206, "system": 44.552,
            "throttled.percent": 100.0, "throttled.time": 7_405_983,
        }),
    ],
)  # fmt: skip
def test_a_container_with_a_quota(layout: str, expected: dict[str, float], tmp_path: Path) -> None:
    collector, of, samples = two_cycles(layout, DOCKER[layout], tmp_path)
    assert samples == pytest.approx(expected, rel=1e-9)
    assert not reasons(collector, of)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        # (25517013 - 19674876) us in 5.99 s, of the one CPU of the cpuset: less than the pod's quota of 1.5.
        ("v2", {"limit.cores": 1.0, "cores": 0.9753, "busy": 97.532, "user": 64.107, "system": 33.425}),
        # (20466702431 - 14322469560) ns in 6.22 s; user 1361 - 944 and system 686 - 488 ticks.
        (
            "v1-separate",
            {"limit.cores": 1.0, "cores": 0.9878, "busy": 98.782, "user": 67.042, "system": 31.833},
        ),
    ],
)
def test_a_container_in_a_pod_with_a_quota(layout: str, expected: dict[str, float], tmp_path: Path) -> None:
    collector, of, samples = two_cycles(layout, POD[layout], tmp_path)
    assert samples == pytest.approx(expected, rel=1e-9)
    assert reasons(collector, of) == {"throttled.percent": POD_QUOTA, "throttled.time": POD_QUOTA}


def test_the_first_cycle_has_no_rates(docker: tuple[Tree, Target], clock: Clock) -> None:
    tree, of = docker
    collector = CpuCollector(tree.proc, clock)
    assert cycle(collector, of) == {"limit.cores": 0.5, "throttled.time": 22_020_813}
    needs_two = "a rate needs two samples"
    assert reasons(collector, of) == dict.fromkeys(
        ("busy", "user", "system", "cores", "throttled.percent"), needs_two
    )


def test_a_counter_that_went_back_is_no_sample_but_the_next_base(
    docker: tuple[Tree, Target], clock: Clock
) -> None:
    tree, of = docker
    stat = tree.directory(DOCKER["v2"], "cpu") / "cpu.stat"
    form = "usage_usec {0}\nuser_usec {0}\nsystem_usec 0\nnr_periods {1}\nnr_throttled 0\nthrottled_usec 0\n"
    collector = CpuCollector(tree.proc, clock)
    cycle(collector, of)
    stat.write_text(form.format(1_000_000, 10))
    clock.now += 10
    # Of what is there, system time fell too: 15606052 us to 0.
    assert cycle(collector, of) == {"limit.cores": 0.5, "throttled.time": 0}
    assert set(reasons(collector, of).values()) == {"the counter went back"}
    stat.write_text(form.format(2_000_000, 10))
    clock.now += 10
    assert cycle(collector, of) == {
        "limit.cores": 0.5, "cores": 0.1, "busy": 20.0, "user": 20.0, "system": 0.0,
        "throttled.percent": 0.0, "throttled.time": 0,  # no period passed: it did not run against the quota
    }  # fmt: skip


def test_no_time_between_two_samples_is_no_rate(docker: tuple[Tree, Target], clock: Clock) -> None:
    tree, of = docker
    collector = CpuCollector(tree.proc, clock)
    cycle(collector, of)
    assert cycle(collector, of) == {
        "limit.cores": 0.5,
        "throttled.percent": 0.0,
        "throttled.time": 22_020_813,
    }
    assert reasons(collector, of)["busy"] == "no time has passed since the last sample"


def test_without_any_limit_the_host_is_the_base(docker: tuple[Tree, Target], clock: Clock) -> None:
    tree, of = docker
    (tree.directory(DOCKER["v2"], "cpu") / "cpu.max").write_bytes(b"max 100000\n")
    (tree.directory(DOCKER["v2"], "cpu") / "cpuset.cpus.effective").write_bytes(b"0-7\n")
    collector = CpuCollector(tree.proc, clock)
    assert cycle(collector, of) == {"limit.cores": 2}
    assert reasons(collector, of)["throttled.time"] == NO_QUOTA


def test_the_quota_of_a_pod_is_the_base_if_it_is_the_smallest(tmp_path: Path, clock: Clock) -> None:
    tree = Tree.copy("v2", tmp_path)
    for file in (tree.root / "sys/fs/cgroup/kubepods.slice").rglob("cpuset.cpus.effective"):
        file.write_bytes(b"0-1\n")
    of = target(tree, POD["v2"])
    assert cycle(CpuCollector(tree.proc, clock), of) == {"limit.cores": 1.5}
    of.process.close()


def test_a_changed_quota_counts_at_once(docker: tuple[Tree, Target], clock: Clock) -> None:
    tree, of = docker
    collector = CpuCollector(tree.proc, clock)
    assert cycle(collector, of)["limit.cores"] == 0.5
    (tree.directory(DOCKER["v2"], "cpu") / "cpu.max").write_bytes(b"150000 100000\n")
    assert cycle(collector, of)["limit.cores"] == 1.5


def test_without_a_cpu_account_only_the_limit_is_known(docker: tuple[Tree, Target], clock: Clock) -> None:
    tree, of = docker
    (tree.directory(DOCKER["v2"], "cpu") / "cpu.stat").unlink()
    collector = CpuCollector(tree.proc, clock)
    assert cycle(collector, of) == {"limit.cores": 0.5}
    assert set(reasons(collector, of).values()) == {"the kernel keeps no CPU account of this cgroup"}


def test_missing_lines_are_missing_metrics(docker: tuple[Tree, Target], clock: Clock) -> None:
    tree, of = docker
    (tree.directory(DOCKER["v2"], "cpu") / "cpu.stat").write_bytes(b"usage_usec 5\n")
    collector = CpuCollector(tree.proc, clock)
    cycle(collector, of)
    clock.now += 10
    assert cycle(collector, of) == {"limit.cores": 0.5, "cores": 0.0, "busy": 0.0}
    why = reasons(collector, of)
    assert why["user"] == "the kernel does not tell user and system time apart"
    assert why["throttled.percent"] == why["throttled.time"] == "the kernel does not count throttling"
    (tree.directory(DOCKER["v2"], "cpu") / "cpu.stat").write_bytes(b"usage_usec 5\nuser_usec 5\n")
    clock.now += 10
    cycle(collector, of)
    assert reasons(collector, of)["user"] == "a rate needs two samples"


def test_without_cgroups_nothing_is_invented(tmp_path: Path, clock: Clock) -> None:
    tree = Tree("v2")
    paths = CgroupPaths({}, None)
    of = Target(
        Container(id="c", name="c", runtime="test", pid=99, starttime=1, cgroup=paths),
        Process(tree.proc, 99),
        Cgroup(tree.hierarchies, paths),
    )
    assert cycle(CpuCollector(tree.proc, clock), of) == {"limit.cores": 2}
    of.process.close()


def test_a_base_that_is_not_known_is_not_guessed(docker: tuple[Tree, Target], clock: Clock) -> None:
    tree, of = docker
    for name in ("cpu.max", "cpuset.cpus.effective"):
        for file in (tree.root / "sys/fs/cgroup").rglob(name):
            file.unlink()
    collector = CpuCollector(tree.proc, clock)
    list(collector.collect(of))  # the host's CPUs were not counted
    clock.now += 10
    assert [(metric.name, value) for metric, value, _ in collector.collect(of)] == [
        ("container.cpu.cores", 0.0)
    ]
    assert reasons(collector, of)["busy"] == reasons(collector, of)["limit.cores"]


def test_a_host_that_does_not_tell_its_cpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GoneError):
        CpuCollector(str(tmp_path)).begin([])
    (tmp_path / "stat").write_bytes(b"cpu  1\n")
    with pytest.raises(ParseError):
        CpuCollector(str(tmp_path)).begin([])


def test_forgotten_containers_start_anew(docker: tuple[Tree, Target], clock: Clock) -> None:
    tree, of = docker
    collector = CpuCollector(tree.proc, clock)
    cycle(collector, of)
    collector.forget(of)
    collector.forget(of)
    assert not reasons(collector, of)
    clock.now += 10
    assert "busy" not in cycle(collector, of)


def test_it_is_a_collector_of_containers() -> None:
    collector: Collector = CpuCollector()
    assert (collector.name, collector.scope) == ("cpu", "container")
    assert not list(collector.collect(None))
    assert [metric.name for metric in collector.metrics] == [
        "container.cpu.busy",
        "container.cpu.user",
        "container.cpu.system",
        "container.cpu.cores",
        "container.cpu.limit.cores",
        "container.cpu.throttled.percent",
        "container.cpu.throttled.time",
    ]


def throttled(of: Target) -> int:
    stat = of.cgroup.cpu()
    return (stat and stat.nr_throttled) or 0


@pytest.mark.real
def test_a_real_process_against_the_schedulers_own_account() -> None:
    ticks: list[float] = []

    def clock() -> float:
        ticks.append(time.monotonic())
        return ticks[-1]

    with LiveCgroup("falcon-agent-test-cpu-collector") as live:
        live.limit(cores=0.1)  # which a busy machine has to give
        pid = live.start(BUSY).pid
        paths = live.paths(pid)
        if paths is None:
            raise AssertionError("the process is in its cgroup")
        container = Container(id="c", name="c", runtime="test", pid=pid, starttime=1, cgroup=paths)
        of = Target(container, Process("/proc", pid), live.open(pid))
        collector = CpuCollector(clock=clock)
        # Stopped, both accounts stand still and can be compared.
        ran = -halt(pid)
        cycle(collector, of)
        before = throttled(of)
        resume(pid)
        wait_until(lambda: throttled(of) > before + 40, "throttling")
        ran += halt(pid)
        samples = cycle(collector, of)
        of.process.close()
    cores = ran / 1e9 / (ticks[1] - ticks[0])
    assert samples["limit.cores"] == 0.1
    assert samples["cores"] == pytest.approx(cores, rel=0.02)
    assert samples["busy"] == pytest.approx(cores / 0.1 * 100, rel=0.02)
    assert samples["user"] + samples["system"] == pytest.approx(samples["busy"], rel=0.1)
    assert 0 < samples["throttled.percent"] <= 100
    assert samples["throttled.time"] > 0
