from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Cgroup
from falcon_agent.collectors.base import Target
from falcon_agent.collectors.memory import MemoryCollector
from falcon_agent.container import CgroupPaths, Container
from falcon_agent.errors import GoneError, ParseError
from falcon_agent.procfs.process import Process
from tests.cgroupfs.live import HOLD, LiveCgroup, wait_until
from tests.cgroupfs.trees import DOCKER, POD, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falcon_agent.collectors.base import Collector

HOST_BYTES = 608296 * 1024
"""MemTotal of the machine on which the v2 tree was captured."""


def target(tree: Tree, pid: int) -> Target:
    paths = tree.paths(pid)
    container = Container(id="c", name="c", runtime="test", pid=pid, starttime=1, cgroup=paths)
    return Target(container, Process(tree.proc, pid), Cgroup(tree.hierarchies, paths))


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[tuple[Tree, Target]]:
    """The container with limits of its own, in a v2 tree that may be changed."""
    tree = Tree.copy("v2", tmp_path)
    found = target(tree, DOCKER["v2"])
    yield tree, found
    found.process.close()


def cycle(collector: MemoryCollector, of: Target) -> dict[str, float]:
    collector.begin([of])
    return {metric.name.removeprefix("container.mem."): value for metric, value, _ in collector.collect(of)}


def reasons(collector: MemoryCollector, of: Target) -> dict[str, str]:
    found = {metric.name: collector.absent(metric, of) for metric in collector.metrics}
    return {name.removeprefix("container.mem."): why for name, why in found.items() if why is not None}


@pytest.mark.parametrize(
    ("layout", "pid", "expected"),
    [
        # 22929408 - 1871872 of 67108864
        ("v2", DOCKER["v2"], {
            "memtotal": 67_108_864, "memused": 21_057_536, "memused.percent": 31.378,
            "rss": 20_725_760, "cache": 1_871_872, "swapused": 9_682_944, "oom.kills": 1,
        }),
        # 11190272 - 229376 of the pod's 134217728
        ("v2", POD["v2"], {
            "memtotal": 134_217_728, "memused": 10_960_896, "memused.percent": 8.167,
            "rss": 8_192_000, "cache": 2_797_568, "swapused": 0, "oom.kills": 0,
        }),
        # 36483072 - 2883584
        ("v1-comounted", DOCKER["v1-comounted"], {
            "memtotal": 67_108_864, "memused": 33_599_488, "memused.percent": 50.067,
            "rss": 30_294_016, "cache": 5_824_512, "swapused": 114_688, "oom.kills": 1,
        }),
        # 35360768 - 2494464
        ("v1-separate", DOCKER["v1-separate"], {
            "memtotal": 67_108_864, "memused": 32_866_304, "memused.percent": 48.975,
            "rss": 30_191_616, "cache": 4_861_952, "swapused": 266_240, "oom.kills": 1,
        }),
        # 28098560 - 4927488 of 49999872
        ("hybrid", DOCKER["hybrid"], {
            "memtotal": 49_999_872, "memused": 23_171_072, "memused.percent": 46.342,
            "rss": 19_062_784, "cache": 8_372_224, "swapused": 0, "oom.kills": 0,
        }),
    ],
)  # fmt: skip
def test_captured_containers(layout: str, pid: int, expected: dict[str, float]) -> None:
    tree = Tree(layout)
    of = target(tree, pid)
    collector = MemoryCollector(tree.proc)
    assert cycle(collector, of) == expected
    assert not reasons(collector, of)
    of.process.close()


@pytest.mark.parametrize("limit", [b"max\n", b"%d\n" % (HOST_BYTES + 1)])
def test_without_a_limit_that_means_anything_the_host_is_the_base(
    docker: tuple[Tree, Target], limit: bytes
) -> None:
    tree, of = docker
    (tree.directory(DOCKER["v2"], "memory") / "memory.max").write_bytes(limit)
    samples = cycle(MemoryCollector(tree.proc), of)
    assert samples["memtotal"] == HOST_BYTES
    assert samples["memused.percent"] == 3.381  # 21057536 of 622895104


def test_used_is_never_below_zero(docker: tuple[Tree, Target]) -> None:
    tree, of = docker
    (tree.directory(DOCKER["v2"], "memory") / "memory.current").write_bytes(b"1000\n")
    samples = cycle(MemoryCollector(tree.proc), of)
    assert samples["memused"] == 0
    assert samples["memused.percent"] == 0.0


def test_swap_accounting_may_be_off(docker: tuple[Tree, Target]) -> None:
    tree, of = docker
    (tree.directory(DOCKER["v2"], "memory") / "memory.swap.current").unlink()
    collector = MemoryCollector(tree.proc)
    assert "swapused" not in cycle(collector, of)
    assert reasons(collector, of) == {"swapused": "swap accounting is off in this kernel"}


def test_missing_lines_are_missing_metrics(docker: tuple[Tree, Target]) -> None:
    tree, of = docker
    directory = tree.directory(DOCKER["v2"], "memory")
    (directory / "memory.stat").write_bytes(b"kernel 1\n")
    (directory / "memory.events").write_bytes(b"oom 1\n")
    collector = MemoryCollector(tree.proc)
    assert cycle(collector, of) == {"memtotal": 67_108_864, "swapused": 9_682_944}
    assert reasons(collector, of) == {
        **dict.fromkeys(("memused", "memused.percent", "rss", "cache"), "memory.stat does not have the line"),
        "oom.kills": "the kernel does not count them for this cgroup",
    }


def test_without_a_memory_account_nothing_is_invented(docker: tuple[Tree, Target]) -> None:
    tree, of = docker
    of.cgroup = Cgroup(tree.hierarchies, CgroupPaths({}, None))
    collector = MemoryCollector(tree.proc)
    assert not cycle(collector, of)
    assert reasons(collector, of)["memtotal"] == "no cgroup hierarchy accounts for memory here"


def test_a_total_that_is_not_known_or_zero_is_no_base(docker: tuple[Tree, Target]) -> None:
    tree, of = docker
    limit = tree.directory(DOCKER["v2"], "memory") / "memory.max"
    collector = MemoryCollector(tree.proc)
    limit.write_bytes(b"max\n")
    names = {metric.name for metric, _, _ in collector.collect(of)}  # the host's memory was not read
    assert not names & {"container.mem.memtotal", "container.mem.memused.percent"}
    limit.write_bytes(b"0\n")
    samples = cycle(collector, of)
    assert samples["memtotal"] == 0
    assert reasons(collector, of) == {"memused.percent": "the limit is 0 bytes"}


@pytest.mark.parametrize(
    ("layout", "file", "key", "changes"),
    [
        ("v2", "memory.current", "", {"memused", "memused.percent"}),
        ("v2", "memory.stat", "anon", {"rss"}),
        ("v2", "memory.max", "", {"memtotal", "memused.percent"}),
        ("v2", "memory.swap.current", "", {"swapused"}),
        ("v2", "memory.events", "oom_kill", {"oom.kills"}),
        ("v1-separate", "memory.usage_in_bytes", "", {"memused", "memused.percent"}),
        ("v1-separate", "memory.stat", "total_rss", {"rss"}),
        ("v1-separate", "memory.stat", "hierarchical_memory_limit", {"memtotal", "memused.percent"}),
        ("v1-separate", "memory.oom_control", "oom_kill", {"oom.kills"}),
    ],
)
def test_whatever_changes_shows_in_the_next_cycle_and_nothing_else(
    tmp_path: Path, layout: str, file: str, key: str, changes: set[str]
) -> None:
    tree = Tree.copy(layout, tmp_path)
    of = target(tree, DOCKER[layout])
    collector = MemoryCollector(tree.proc)
    before = cycle(collector, of)
    assert cycle(collector, of) == before
    path = tree.directory(DOCKER[layout], "memory") / file
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    for words in lines:
        if words[0] == key or not key:
            words[-1] = str(int(words[-1]) + 4096)
    path.write_text("".join(" ".join(words) + "\n" for words in lines))
    after = cycle(collector, of)
    assert {name for name, value in after.items() if value != before[name]} == changes
    of.process.close()


def test_a_host_that_gets_more_memory_is_seen(docker: tuple[Tree, Target]) -> None:
    tree, of = docker
    (tree.directory(DOCKER["v2"], "memory") / "memory.max").write_bytes(b"max\n")
    collector = MemoryCollector(tree.proc)
    assert cycle(collector, of)["memtotal"] == HOST_BYTES
    (Path(tree.proc) / "meminfo").write_text(f"MemTotal: {HOST_BYTES // 1024 + 4} kB\n")
    assert cycle(collector, of)["memtotal"] == HOST_BYTES + 4096


def test_a_host_that_does_not_tell_its_memory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GoneError):
        MemoryCollector(str(tmp_path)).begin([])
    (tmp_path / "meminfo").write_bytes(b"MemFree: 1 kB\n")
    with pytest.raises(ParseError):
        MemoryCollector(str(tmp_path)).begin([])


def test_forgotten_containers_leave_nothing(docker: tuple[Tree, Target]) -> None:
    tree, of = docker
    of.cgroup = Cgroup(tree.hierarchies, CgroupPaths({}, None))
    collector = MemoryCollector(tree.proc)
    cycle(collector, of)
    collector.forget(of)
    collector.forget(of)
    assert not reasons(collector, of)


def test_it_is_a_collector_of_containers() -> None:
    collector: Collector = MemoryCollector()
    assert (collector.name, collector.scope) == ("memory", "container")
    assert not list(collector.collect(None))
    assert [metric.name for metric in collector.metrics] == [
        "container.mem.memtotal",
        "container.mem.memused",
        "container.mem.memused.percent",
        "container.mem.rss",
        "container.mem.cache",
        "container.mem.swapused",
        "container.mem.oom.kills",
    ]


@pytest.mark.real
def test_a_real_container_against_the_files() -> None:
    with LiveCgroup("falcon-agent-test-memory-collector") as live:
        live.limit(memory=96 << 20)
        process = live.start(HOLD.format(size=40_000_000))
        if process.stdout is None:
            raise AssertionError("its output is a pipe")
        assert process.stdout.readline() == b"ready\n"
        paths = live.paths(process.pid)
        if paths is None:
            raise AssertionError("the process is in its cgroup")
        container = Container(id="c", name="c", runtime="test", pid=process.pid, starttime=1, cgroup=paths)
        of = Target(container, Process("/proc", process.pid), live.open(process.pid))

        def all_counted() -> bool:
            samples = cycle(MemoryCollector(), of)
            assert samples["memtotal"] == 96 << 20
            assert samples["memused.percent"] == round(samples["memused"] / (96 << 20) * 100, 3)
            assert samples["oom.kills"] == 0
            return 40_000_000 <= samples["rss"] <= samples["memused"] <= 96 << 20

        # Of memory.stat the kernel keeps back what each CPU has counted lately, for two seconds at most.
        wait_until(all_counted, f"40 MB in {cycle(MemoryCollector(), of)}")
        of.process.close()
