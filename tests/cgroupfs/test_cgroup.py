from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Cgroup, CpuQuota, CpuStat, Hierarchies, MemoryStat
from falcon_agent.container import CgroupPaths
from falcon_agent.errors import GoneError, ParseError
from falcon_agent.kernelfile import recording
from tests.cgroupfs.live import BUSY, HOLD, LiveCgroup, halt, resume, wait_until
from tests.cgroupfs.trees import DOCKER, POD, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

ID = "0a1b2c3d4e5f60718293a4b5c6d7e8f900112233445566778899aabbccddeeff"
ID_HYBRID = "5f4e3d2c1b0a99887766554433221100ffeeddccbbaa00112233445566778899"

DOCKER_CPU = {
    "v2": CpuStat(23_632_850_000, 8_026_798_000, 15_606_052_000, 292, 291, 22_020_813_000),
    "v1-comounted": CpuStat(19_043_421_290, 7_690_000_000, 11_350_000_000, 280, 280, 20_867_473_271),
    "v1-separate": CpuStat(17_190_164_836, 7_360_000_000, 9_830_000_000, 262, 261, 20_964_753_203),
    "hybrid": CpuStat(1_524_512_515, 910_000_000, 600_000_000, 62, 60, 4_339_004_924),
}
DOCKER_QUOTA = {"v2": 0.5, "v1-comounted": 0.5, "v1-separate": 0.5, "hybrid": 0.25}
DOCKER_CPUSET = {"v2": 2, "v1-comounted": 2, "v1-separate": 2, "hybrid": 1}
DOCKER_MEMORY = {
    "v2": MemoryStat(22_929_408, 1_871_872, 20_725_760, 1_871_872, 9_682_944, 67_108_864),
    "v1-comounted": MemoryStat(36_483_072, 2_883_584, 30_294_016, 5_824_512, 114_688, 67_108_864),
    "v1-separate": MemoryStat(35_360_768, 2_494_464, 30_191_616, 4_861_952, 266_240, 67_108_864),
    "hybrid": MemoryStat(28_098_560, 4_927_488, 19_062_784, 8_372_224, 0, 49_999_872),
}
DOCKER_OOM_KILLS = {"v2": 1, "v1-comounted": 1, "v1-separate": 1, "hybrid": 0}
POD_MEMORY = {
    "v2": MemoryStat(11_190_272, 229_376, 8_192_000, 2_797_568, 0, 134_217_728),
    "v1-comounted": MemoryStat(9_986_048, 0, 8_187_904, 1_716_224, 0, 134_217_728),
    "v1-separate": MemoryStat(11_235_328, 229_376, 8_187_904, 2_834_432, 0, 134_217_728),
}
READERS: tuple[Callable[[Cgroup], object], ...] = (
    Cgroup.cpu,
    Cgroup.cpu_quota,
    Cgroup.cpuset,
    Cgroup.memory,
    Cgroup.oom_kills,
)


@pytest.mark.parametrize("layout", DOCKER)
def test_a_container_with_limits_of_its_own(layout: str) -> None:
    cgroup = Tree(layout).cgroup(DOCKER[layout])
    assert cgroup.cpu() == DOCKER_CPU[layout]
    assert cgroup.cpu_quota() == CpuQuota(own=DOCKER_QUOTA[layout], smallest=DOCKER_QUOTA[layout])
    assert cgroup.cpuset() == DOCKER_CPUSET[layout]
    assert cgroup.memory() == DOCKER_MEMORY[layout]
    assert cgroup.oom_kills() == DOCKER_OOM_KILLS[layout]


@pytest.mark.parametrize("layout", POD)
def test_a_container_under_the_limits_of_its_pod(layout: str) -> None:
    cgroup = Tree(layout).cgroup(POD[layout])
    assert cgroup.cpu_quota() == CpuQuota(own=None, smallest=1.5)
    assert cgroup.cpuset() == 1
    assert cgroup.memory() == POD_MEMORY[layout]
    assert cgroup.oom_kills() == 0


@pytest.mark.parametrize(
    ("layout", "version", "path"),
    [
        ("v2", "v2", f"/system.slice/docker-{ID}.scope"),
        ("v1-comounted", "v1", f"/docker/{ID}"),
        ("hybrid", "hybrid", f"/system.slice/docker-{ID_HYBRID}.scope"),
    ],
)
def test_describe(layout: str, version: str, path: str) -> None:
    assert Tree(layout).cgroup(DOCKER[layout]).describe() == (version, path)


def test_nothing_is_known_where_nothing_is_mounted() -> None:
    cgroup = Cgroup(Hierarchies([]), CgroupPaths({"cpu": "/a"}, None))
    assert cgroup.describe() == ("v1", "/a")
    assert [read(cgroup) for read in READERS] == [None, CpuQuota(None, None), None, None, None]


@pytest.mark.parametrize("layout", DOCKER)
def test_a_cgroup_that_is_gone(layout: str, tmp_path: Path) -> None:
    tree = Tree.copy(layout, tmp_path)
    cgroup = tree.cgroup(DOCKER[layout])
    for controller in ("cpu", "cpuacct", "cpuset", "memory"):
        shutil.rmtree(tree.directory(DOCKER[layout], controller), ignore_errors=True)
    for read in READERS:
        with pytest.raises(GoneError, match="the cgroup was removed"):
            read(cgroup)


@pytest.mark.parametrize("layout", DOCKER)
def test_a_controller_that_is_off(layout: str, tmp_path: Path) -> None:
    tree = Tree.copy(layout, tmp_path)
    for controller in ("cpu", "cpuacct", "cpuset", "memory"):
        for directory in [tree.directory(DOCKER[layout], controller), *_above(tree, controller)]:
            for file in directory.glob("*.*"):
                if file.is_file():
                    file.unlink()
    cgroup = tree.cgroup(DOCKER[layout])
    assert [read(cgroup) for read in READERS] == [None, CpuQuota(None, None), None, None, None]


def _above(tree: Tree, controller: str) -> list[Path]:
    at = tree.hierarchies.locate(controller, tree.paths(DOCKER[tree.layout]))
    return [Path(ancestor) for ancestor in at.ancestors] if at else []


@pytest.mark.parametrize(
    ("layout", "controller", "file", "read", "expected"),
    [
        ("v2", "memory", "memory.swap.current", lambda c: c.memory().swap_bytes, None),
        ("v2", "memory", "memory.stat", lambda c: c.memory().rss_bytes, None),
        ("v2", "memory", "memory.max", lambda c: c.memory().limit_bytes, None),
        ("v2", "cpu", "cpu.max", lambda c: c.cpu_quota(), CpuQuota(None, None)),
        ("v1-separate", "cpuacct", "cpuacct.stat", lambda c: c.cpu().user_ns, None),
        ("v1-separate", "cpu", "cpu.stat", lambda c: c.cpu().nr_periods, None),
        ("v1-separate", "cpu", "cpu.cfs_quota_us", lambda c: c.cpu_quota(), CpuQuota(None, None)),
        ("v1-separate", "cpu", "cpu.cfs_period_us", lambda c: c.cpu_quota(), CpuQuota(None, None)),
        ("v1-separate", "cpuset", "cpuset.effective_cpus", lambda c: c.cpuset(), 2),  # then cpuset.cpus
        ("v1-separate", "memory", "memory.stat", lambda c: c.memory(), None),
    ],
)
def test_one_missing_file(
    layout: str,
    controller: str,
    file: str,
    read: Callable[[Cgroup], object],
    expected: object,
    tmp_path: Path,
) -> None:
    tree = Tree.copy(layout, tmp_path)
    (tree.directory(DOCKER[layout], controller) / file).unlink()
    assert read(tree.cgroup(DOCKER[layout])) == expected


def test_the_smallest_limit_counts_wherever_it_is(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    pid = DOCKER["v2"]
    parent = tree.directory(pid, "cpu").parent
    (parent / "cpu.max").write_bytes(b"25000 100000\n")
    (parent / "memory.max").write_bytes(b"1048576\n")
    cgroup = tree.cgroup(pid)
    stat = cgroup.memory()
    assert cgroup.cpu_quota() == CpuQuota(own=0.5, smallest=0.25)
    assert stat is not None
    assert stat.limit_bytes == 1048576


def test_an_empty_cpuset_is_not_zero_cpus(tmp_path: Path) -> None:
    tree = Tree.copy("v1-separate", tmp_path)
    (tree.directory(DOCKER["v1-separate"], "cpuset") / "cpuset.effective_cpus").write_bytes(b"\n")
    assert tree.cgroup(DOCKER["v1-separate"]).cpuset() is None


def test_garbage_is_a_typed_error(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    directory = tree.directory(DOCKER["v2"], "memory")
    for file in directory.iterdir():
        file.write_bytes(b"\x00garbage")
    for read in READERS:
        with pytest.raises(ParseError, match="cannot parse"):
            read(tree.cgroup(DOCKER["v2"]))


def test_a_limit_of_the_pod_that_is_changed_shows_in_the_next_cycle(tmp_path: Path) -> None:
    tree = Tree.copy("v2", tmp_path)
    cgroup = tree.cgroup(POD["v2"])
    pod = tree.directory(POD["v2"], "cpu").parent
    (pod / "cpu.max").write_text("10000 100000\n")
    assert cgroup.cpu_quota().smallest == 0.1
    (pod / "cpu.max").write_text("20000 100000\n")
    assert cgroup.cpu_quota().smallest == 0.1  # one cycle is one look
    tree.hierarchies.new_cycle()
    assert cgroup.cpu_quota().smallest == 0.2


def test_a_second_container_of_the_pod_records_the_shared_limit_too() -> None:
    tree = Tree("v2")
    for _ in range(2):
        with recording() as seen:
            tree.cgroup(POD["v2"]).cpu_quota()
        assert b"150000 100000\n" in [content for _, content in seen]


@pytest.mark.real
def test_cpu_time_is_that_of_the_processes() -> None:
    with LiveCgroup("falcon-agent-test-cpu") as live:
        live.limit(cores=0.1)  # which a busy machine has to give
        pid = live.start(BUSY).pid
        cgroup = live.open(pid)
        ran_before = halt(pid)
        before = cgroup.cpu()
        throttled = _throttled(cgroup)
        resume(pid)
        wait_until(lambda: _throttled(cgroup) > throttled + 20, "the quota to be used up")
        ran_after = halt(pid)
        after = cgroup.cpu()
        assert cgroup.cpu_quota() == CpuQuota(own=0.1, smallest=0.1)
    if before is None or after is None or after.user_ns is None or after.system_ns is None:
        raise AssertionError("the kernel accounts for CPU time")
    assert after.usage_ns - before.usage_ns == pytest.approx(ran_after - ran_before, rel=0.02)
    assert after.user_ns + after.system_ns == pytest.approx(after.usage_ns, abs=30_000_000)
    assert after.throttled_ns


def _throttled(cgroup: Cgroup) -> int:
    stat = cgroup.cpu()
    return (stat and stat.nr_throttled) or 0


@pytest.mark.real
def test_memory_is_that_of_the_processes() -> None:
    size = 30_000_000
    with LiveCgroup("falcon-agent-test-memory") as live:
        live.limit(where="", memory=64 << 20)
        process = live.start(HOLD.format(size=size))
        if process.stdout is None:
            raise AssertionError("its output is a pipe")
        assert process.stdout.readline() == b"ready\n"
        cgroup = live.open(process.pid)

        def all_counted() -> bool:
            stat = cgroup.memory()
            rss = Path(f"/proc/{process.pid}/status").read_text().partition("RssAnon:")[2].split()[0]
            if stat is None or stat.rss_bytes is None or stat.inactive_file_bytes is None:
                raise AssertionError("the kernel accounts for memory")
            assert stat.limit_bytes == 64 << 20
            used = stat.usage_bytes - stat.inactive_file_bytes
            # What the process touched before it joined is charged to where it came from.
            return size <= stat.rss_bytes <= int(rss) * 1024 and stat.rss_bytes <= used <= stat.limit_bytes

        # Of memory.stat the kernel keeps back what each CPU has counted lately, for two seconds at most.
        wait_until(all_counted, f"{size} bytes in {cgroup.memory()}")


@pytest.mark.real
def test_a_kill_for_want_of_memory_is_counted() -> None:
    with LiveCgroup("falcon-agent-test-oom") as live:
        live.limit(memory=16 << 20)
        witness = live.start("import signal; signal.pause()")
        cgroup = live.open(witness.pid)
        assert cgroup.oom_kills() == 0
        live.spawn(HOLD.format(size=64 << 20)).wait(timeout=60)
        assert cgroup.oom_kills() == 1


@pytest.mark.real
def test_a_removed_cgroup_is_gone() -> None:
    with LiveCgroup("falcon-agent-test-gone") as live:
        process = live.start("import signal; signal.pause()")
        cgroup = live.open(process.pid)
        assert cgroup.cpu() is not None
        process.kill()
        process.wait()
        live.remove()
        for read in READERS:
            with pytest.raises(GoneError):
                read(cgroup)
