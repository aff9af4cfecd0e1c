from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors.pressure import PressureCollector
from falcon_agent.errors import KernelFileError
from tests.cgroupfs.live import ROOT, V2
from tests.cgroupfs.trees import DOCKER, Tree
from tests.collectors import opened
from tests.collectors.opened import DOCKER_IO, Clock, cycle, of_host, of_tree, reasons
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from falcon_agent.collectors.base import Collector, Target
    from tests.real.engine import Engine

ALL = tuple(
    f"pressure.{resource}.{line}" for resource in ("cpu", "memory", "io") for line in ("some", "full")
)
NEEDS_TWO = "a rate needs two samples"
CAPTURED_APART = 4.89
"""Seconds between the two captures of `*.pressure`, by the uptimes in `v1-io`."""


def pressure_file(tree: Tree, resource: str) -> Path:
    return Path(tree.directory(DOCKER[tree.layout], "pressure")) / f"{resource}.pressure"


@pytest.mark.parametrize("layout", ["hybrid", "v2"])
def test_a_captured_container(layout: str, tmp_path: Path) -> None:
    tree = Tree.copy(layout, tmp_path)
    clock = Clock()
    collector = PressureCollector(tree.proc, clock)
    with of_tree(tree, DOCKER[layout]) as target:
        assert cycle(collector, target) == {}
        assert reasons(collector, target) == dict.fromkeys(ALL, NEEDS_TWO)
        tree.advance()
        clock.now += CAPTURED_APART
        # In 4.89 s: 2183215 - 642935, 2135448 - 602018, 41082 - 14824 and 779 - 348 us.
        assert cycle(collector, target) == {
            "pressure.cpu.some": 31.499, "pressure.cpu.full": 31.358, "pressure.memory.some": 0.0,
            "pressure.memory.full": 0.0, "pressure.io.some": 0.537, "pressure.io.full": 0.009,
        }  # fmt: skip
        assert not reasons(collector, target)


def test_before_linux_5_13_the_cpu_is_never_short_for_all(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    clock = Clock()
    collector = PressureCollector(tree.proc, clock)
    line = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
    with of_tree(tree, DOCKER["v2"]) as target:
        for total in (0, 1_000_000):
            pressure_file(tree, "cpu").write_text(line.format(total))
            samples = cycle(collector, target)
            clock.now += 10
            assert (
                reasons(collector, target)["pressure.cpu.full"]
                == "the kernel does not tell when all tasks waited"
            )
        assert samples["pressure.cpu.some"] == 10.0
        assert "pressure.cpu.full" not in samples


@pytest.mark.parametrize(
    ("before", "now", "seconds", "expected"),
    [
        (100, 99, 10, "the counter went back"),
        (100, 200, 0, "no time has passed since the last sample"),
        (0, 10_000_500, 10, 100.0),  # the clock is read a little later than the file
        (0, 0, 10, 0.0),
    ],
)
def test_what_no_rate_can_be(
    before: int, now: int, seconds: float, expected: float | str, tmp_path: Path
) -> None:
    tree = Tree.copy("v2", tmp_path)
    clock = Clock()
    collector = PressureCollector(tree.proc, clock)
    lines = (
        "some avg10=0.00 avg60=0.00 avg300=0.00 total={0}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={0}\n"
    )
    with of_tree(tree, DOCKER["v2"]) as target:
        pressure_file(tree, "io").write_text(lines.format(before))
        cycle(collector, target)
        clock.now += seconds
        pressure_file(tree, "io").write_text(lines.format(now))
        found = cycle(collector, target)
        for name in ("pressure.io.some", "pressure.io.full"):
            assert found.get(name, reasons(collector, target).get(name)) == expected


def test_a_host_without_accounts_costs_no_reading(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    (tree.root / "proc/pressure/cpu").unlink()
    collector = PressureCollector(tree.proc, Clock())
    with of_tree(tree, DOCKER["v2"]) as target:
        pressure_file(tree, "cpu").write_bytes(b"not to be read")
        assert not cycle(collector, target)
        assert set(reasons(collector, target)) == set(ALL)
        assert "boot it with psi=1" in reasons(collector, target)["pressure.cpu.some"]


def test_an_account_that_is_switched_off_at_boot_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A kernel booted with psi=0 is another kernel than the one at hand, so its answer has to be played.
    def refuse(path: str) -> bytes:
        raise KernelFileError(path, "Operation not supported")

    monkeypatch.setattr("falcon_agent.collectors.pressure.read_to_eof", refuse)
    tree = Tree.copy("v2", tmp_path)
    collector = PressureCollector(tree.proc, Clock())
    with of_tree(tree, DOCKER["v2"]) as target:
        assert not cycle(collector, target)
        assert "Operation not supported; boot it with psi=1" in reasons(collector, target)["pressure.io.full"]


def test_v1_and_another_cgroup_of_v2_have_no_account() -> None:
    # The process in `v1-io` is elsewhere in v2; its tree has no /proc/pressure, which that of `hybrid` has.
    for layout, pid in (("v1-io", DOCKER_IO), ("v1-comounted", DOCKER["v1-comounted"])):
        tree = Tree(layout)
        collector = PressureCollector(Tree("hybrid").proc, Clock())
        with of_tree(tree, pid) as target:
            assert not cycle(collector, target)
            assert set(reasons(collector, target)) == set(ALL)
            assert "it takes cgroup v2" in reasons(collector, target)["pressure.cpu.some"]


def test_after_a_gap_it_begins_anew(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    clock = Clock()
    collector = PressureCollector(tree.proc, clock)
    with of_tree(tree, DOCKER["v2"]) as target:
        cycle(collector, target)
        content = pressure_file(tree, "cpu").read_bytes()
        pressure_file(tree, "cpu").unlink()
        clock.now += 10
        assert not cycle(collector, target)
        pressure_file(tree, "cpu").write_bytes(content)
        clock.now += 10
        assert not cycle(collector, target)
        assert reasons(collector, target) == dict.fromkeys(ALL, NEEDS_TWO)
        clock.now += 10
        assert set(cycle(collector, target)) == set(ALL)
        collector.forget(target)
        collector.forget(target)
        assert not reasons(collector, target)
        assert not cycle(collector, target)


def test_it_is_a_collector_of_containers() -> None:
    collector: Collector = PressureCollector()
    assert (collector.name, collector.scope) == ("pressure", "container")
    assert not list(collector.collect(None))
    assert tuple(metric.name.removeprefix("container.") for metric in collector.metrics) == ALL


def total(target: Target) -> int:
    """Microseconds that tasks of a container have waited for a CPU, as the kernel says now."""
    file = Path(f"{ROOT if V2 else ROOT / 'unified'}{target.cgroup.paths.v2}/cpu.pressure")
    match = re.search(r"some .* total=(\d+)", file.read_text())
    if match is None:
        raise AssertionError("the kernel keeps pressure accounts")
    return int(match[1])


@pytest.mark.real
def test_a_real_container_whose_processes_wait_for_one_cpu(docker_engine: Engine) -> None:
    clock = Clock()
    collector = PressureCollector(clock=clock)
    loop = "while :; do :; done"
    with (
        docker_engine.container("--cpuset-cpus", "0", command=("sh", "-c", f"{loop} & {loop}")) as container,
        of_host(docker_engine.pid(container)) as target,
    ):
        before = total(target)
        opened.cycle(collector, target)
        between = total(target)
        wait_until(lambda: total(target) > between + 200_000, "its processes have waited for each other")
        clock.now += 60
        least = total(target) - between
        samples = cycle(collector, target)
        most = total(target) - before
        assert least <= samples["pressure.cpu.some"] / 100 * 60_000_000 + 300  # rounded to 0.001 %
        assert samples["pressure.cpu.some"] / 100 * 60_000_000 - 300 <= most
        assert set(samples) == set(ALL)
