"""Docker with systemd's cgroup driver, as hosts have it: the program against Docker and the kernel's own files."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.programs import run_by
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

pytestmark = [pytest.mark.guest, pytest.mark.real]

ROOT = Path("/sys/fs/cgroup")
V2 = (ROOT / "cgroup.controllers").exists()
MIB = 1024 * 1024
BUSY = ("sh", "-c", "while :; do :; done")
# What reads without end is killed; the container lives on.
GREEDY = ("sh", "-c", "tail /dev/zero; exec sleep 86400")
FILL = ("sh", "-c", "head -c 20000000 /dev/zero >/tmp/f; exec sleep 86400")
SLICE = "falcontest.slice"
SLICE_UNIT = f"[Slice]\nCPUQuota=5%\nMemoryMax={48 * MIB}\nMemoryLimit={48 * MIB}\n"
# The guest has one CPU; quotas are small so that enough is left for the tests.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "burn": (("--cpus", "0.1", "--memory", "64m"), BUSY),
    "fill": (("--memory", "64m", "--network", "none"), FILL),
    "greedy": (("--memory", "16m", "--network", "none"), GREEDY),
    "nested": (("--cgroup-parent", SLICE, "--network", "none"), BUSY),
    "free": (("--network", "host"), ("sleep", "86400")),
}


@pytest.fixture(scope="module")
def containers(docker_engine: Engine) -> Iterator[dict[str, str]]:
    """Name to id, of one container for each thing to be shown."""
    unit = Path("/run/systemd/system") / SLICE
    unit.write_text(SLICE_UNIT)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(docker_engine.container("--name", name, *options, command=command))
            for name, (options, command) in OPTIONS.items()
        }
    unit.unlink()


def agent(engine: Engine, *args: str, runtime: str = "docker") -> Any:
    """The decoded output of a command, run where the engine's veths are."""
    settings = {"DISCOVERY__RUNTIMES": runtime, "DISCOVERY__DOCKER": engine.url}
    done = run_by(engine.nsenter_argv(), *args, "--json", **settings)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def collect(engine: Engine, name: str) -> dict[str, float]:
    """Metric to value, of one container."""
    items = agent(engine, "collect", "--dry-run")
    return {one["metric"]: one["value"] for one in items if f"name={name}" in one["tags"].split(",")}


def cgroup_path(pid: int, controller: str) -> str:
    """Where the kernel says that a process is accounted for."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return next(path for _, names, path in lines if (names == "" if V2 else controller in names.split(",")))


def cgroup_file(pid: int, controller: str, name: str) -> str:
    top = ROOT if V2 else ROOT / controller
    return (top / cgroup_path(pid, controller)[1:] / name).read_text()


def keyed(content: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in content.splitlines())}


def by_docker(engine: Engine) -> dict[str, dict[str, Any]]:
    """What `docker ps` lists, each as `docker inspect` describes it."""
    return {one["Name"].lstrip("/"): one for one in map(engine.inspect, engine.cli("ps", "-q").split())}


def test_the_engine_uses_the_systemd_driver(docker_engine: Engine) -> None:
    told = docker_engine.cli("info", "--format", "{{.CgroupDriver}} {{.CgroupVersion}}").split()
    assert told == ["systemd", "2" if V2 else "1"]
    assert V2 or (ROOT / "cpu").resolve() == (ROOT / "cpuacct").resolve()


def test_the_list_is_that_of_docker(docker_engine: Engine, containers: dict[str, str]) -> None:
    docker = by_docker(docker_engine)
    listed = {one["name"]: one for one in agent(docker_engine, "containers")["containers"]}
    assert listed.keys() == docker.keys() == containers.keys()
    for name, one in listed.items():
        pid = docker[name]["State"]["Pid"]
        assert one["pid"] == pid, name
        assert docker[name]["Id"].startswith(one["id"]), name
        assert one["cgroup"] == cgroup_path(pid, "memory"), name
        assert one["cgroup"].endswith(f"/docker-{containers[name]}.scope"), name
        assert one["cgroup_version"] == ("v2" if V2 else "hybrid"), name
    assert listed["burn"]["cgroup"].startswith("/system.slice/")
    assert listed["nested"]["cgroup"].startswith(f"/{SLICE}/")
    assert listed["free"]["host_network"]
    assert set(listed["burn"]["veth"]) == {"eth0"}


def test_a_quota_and_its_throttling(docker_engine: Engine, containers: dict[str, str]) -> None:
    pid = docker_engine.pid(containers["burn"])
    wait_until(lambda: keyed(cgroup_file(pid, "cpu", "cpu.stat"))["nr_throttled"] > 0, "the quota is used up")
    before = keyed(cgroup_file(pid, "cpu", "cpu.stat"))
    found = collect(docker_engine, "burn")
    after = keyed(cgroup_file(pid, "cpu", "cpu.stat"))
    assert found["container.cpu.limit.cores"] == 0.1
    name, unit = ("throttled_usec", 1) if V2 else ("throttled_time", 1000)
    assert before[name] // unit <= found["container.cpu.throttled.time"] <= after[name] // unit
    assert after[name] > before[name]
    assert found["container.cpu.throttled.percent"] > 0
    assert found["container.cpu.busy"] == pytest.approx(found["container.cpu.cores"] / 0.1 * 100, abs=0.1)


def test_cpu_time_is_that_of_the_cgroup(docker_engine: Engine, containers: dict[str, str]) -> None:
    """Within the window, as the cgroup's own counter bounds it from both sides."""
    pid = docker_engine.pid(containers["burn"])

    def used_seconds() -> float:
        if V2:
            return keyed(cgroup_file(pid, "cpu", "cpu.stat"))["usage_usec"] / 1e6
        return int(cgroup_file(pid, "cpuacct", "cpuacct.usage")) / 1e9

    before = used_seconds()
    cores = collect(docker_engine, "burn")["container.cpu.cores"]
    # The two samples are at least a second apart, and both lie between the two readings. What never waits gets its
    # quota of 0.1; a tenth of it is enough to tell a wrong unit.
    assert 0.01 < cores <= used_seconds() - before


def test_a_limit_and_what_is_used_of_it(docker_engine: Engine, containers: dict[str, str]) -> None:
    pid = docker_engine.pid(containers["fill"])
    cached = "file" if V2 else "total_cache"
    wait_until(
        lambda: keyed(cgroup_file(pid, "memory", "memory.stat"))[cached] >= 20_000_000, "it has written"
    )
    found = collect(docker_engine, "fill")
    stats = json.loads(docker_engine.get(f"/containers/{containers['fill']}/stats?stream=false"))
    memory = stats["memory_stats"]
    inactive = memory["stats"]["inactive_file" if V2 else "total_inactive_file"]
    assert found["container.mem.memtotal"] == 64 * MIB == memory["limit"]
    assert found["container.mem.memused"] == pytest.approx(memory["usage"] - inactive, rel=0.02, abs=300_000)
    assert found["container.mem.cache"] >= 20_000_000
    assert found["container.mem.oom.kills"] == 0


def test_a_kill_for_want_of_memory(docker_engine: Engine, containers: dict[str, str]) -> None:
    pid = docker_engine.pid(containers["greedy"])
    name = "memory.events" if V2 else "memory.oom_control"
    wait_until(lambda: keyed(cgroup_file(pid, "memory", name))["oom_kill"] == 1, "the kill", 60)
    found = collect(docker_engine, "greedy")
    assert found["container.mem.oom.kills"] == 1
    assert found["container.mem.memtotal"] == 16 * MIB


def test_the_limits_of_a_slice_hold_for_what_is_in_it(
    docker_engine: Engine, containers: dict[str, str]
) -> None:
    found = collect(docker_engine, "nested")
    assert found["container.mem.memtotal"] == 48 * MIB
    assert found["container.cpu.limit.cores"] == 0.05
    # The slice is throttled, the container's own counters know nothing of it.
    assert "container.cpu.throttled.percent" not in found
    assert found["container.cpu.cores"] > 0


def test_without_a_limit_the_host_counts(docker_engine: Engine, containers: dict[str, str]) -> None:
    found = collect(docker_engine, "free")
    host = int(Path("/proc/meminfo").read_text().partition("MemTotal:")[2].split()[0]) * 1024
    assert found["container.mem.memtotal"] == host
    assert found["container.cpu.limit.cores"] == 1


def test_without_any_runtime_the_same_containers(docker_engine: Engine, containers: dict[str, str]) -> None:
    def known(runtime: str) -> dict[str, tuple[object, ...]]:
        listed = agent(docker_engine, "containers", runtime=runtime)["containers"]
        return {
            one["id"]: (one["pid"], one["netns"], one["cgroup"], one["veth"], one["runtime"])
            for one in listed
        }

    assert known("cgroups") == known("docker")
    assert len(containers) == len(known("docker"))
