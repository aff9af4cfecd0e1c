"""The agent in a container: it finds and measures what an agent on the host does, with the same numbers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cgroupfs.live import CONTROLLERS, ROOT, V2
from tests.cli.programs import AGENT, run_by
from tests.real.engine import wait_until
from tests.real.inside import ENTERING, HOST_FILES, ROOTS, docker_socket, falcon_agent_inside, program_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

pytestmark = pytest.mark.real

ID_INSIDE = "5ca1ab1e" * 8
COUNTERS = ("container.cpu.cores", "container.mem.memused")


@pytest.fixture(scope="module")
def frozen(docker_engine: Engine) -> Iterator[str]:
    """A container that has worked and is frozen now, so that its counters stand still."""
    work = ("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 86400")
    options = ("--memory=64m", "--cpus=0.5", f"--name={docker_engine.name}-frozen")
    with docker_engine.container(*options, command=work) as container:
        done = ("sh", "-c", "pidof sleep || true")
        wait_until(lambda: docker_engine.exec(container, *done), "its work is done")
        docker_engine.cli("pause", container)
        yield container
        docker_engine.cli("unpause", container)


@pytest.fixture(scope="module")
def serving(docker_engine: Engine) -> Iterator[str]:
    """A container that listens on a TCP port."""
    options = (f"--name={docker_engine.name}-serving",)
    with docker_engine.container(*options, command=("nc", "-ll", "-p", "9000", "-e", "cat")) as container:

        def listens() -> bool:
            return ":2328 " in docker_engine.exec(container, "cat", "/proc/net/tcp6", "/proc/net/tcp")

        wait_until(listens, "it listens")
        yield container


def explain(answer: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert answer.returncode == 0, answer.stderr + answer.stdout
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


def read_files(document: dict[str, Any]) -> dict[str, list[str]]:
    """What was read, by the file's path below where the hierarchies are mounted."""
    return {
        read["file"].removeprefix("/host"): read["now"]
        for read in document["reads"]
        if "/sys/fs/cgroup/" in read["file"]
    }


@pytest.mark.parametrize("cgroupns", ["private", "host"])
@pytest.mark.parametrize("metric", COUNTERS)
def test_the_counters_are_those_that_the_host_reads(
    cgroupns: str, metric: str, frozen: str, docker_engine: Engine
) -> None:
    def read_on_host() -> dict[str, Any]:
        return explain(
            run_by(
                docker_engine.nsenter_argv(),
                *("explain", frozen[:12], metric, "--json"),
                DISCOVERY__RUNTIMES="docker",
                DISCOVERY__DOCKER=docker_engine.url,
            )
        )

    def read_inside() -> dict[str, Any]:
        return explain(
            falcon_agent_inside(
                docker_engine,
                *("explain", frozen[:12], metric, "--json", *ROOTS),
                options=[*HOST_FILES, docker_socket(docker_engine), f"--cgroupns={cgroupns}"],
                DISCOVERY__RUNTIMES="docker",
            )
        )

    # The kernel itself may go on with its pages, and counts some of what happened later.
    for _ in range(20):
        on_host, inside, after = read_on_host(), read_inside(), read_on_host()
        if read_files(after) == read_files(on_host):
            break
    assert read_files(inside) == read_files(on_host)
    assert any(frozen in file for file in read_files(inside))
    assert inside["values"] == on_host["values"]


@pytest.mark.parametrize("pid", [[], ["--pid=host"]])
@pytest.mark.parametrize("network", [[], ["--network=host"]])
def test_with_and_without_the_host_s_other_namespaces(
    pid: list[str], network: list[str], serving: str, docker_engine: Engine
) -> None:
    options = [*HOST_FILES, docker_socket(docker_engine), "--cgroupns=private", *ENTERING, *pid, *network]
    inside = falcon_agent_inside(
        docker_engine,
        *("collect", "--dry-run", "--json", "--container", serving[:12], *ROOTS),
        options=options,
        DISCOVERY__RUNTIMES="docker",
    )
    assert inside.returncode == 0, inside.stderr
    values = {record["metric"]: record["value"] for record in json.loads(inside.stdout)}
    # To know the state of its sockets the agent goes into the container's network namespace and back.
    assert values["container.tcp.listen"] == 1
    assert values["container.tcp.inuse"] == 1
    assert values["container.mem.memused"] > 0
    assert "container.cpu.cores" in values
    assert "container.net.if.in.bytes" in values


def test_the_host_s_end_of_a_veth_is_seen_only_in_its_network(serving: str, docker_engine: Engine) -> None:
    def ask(*options: str) -> Any:
        answer = falcon_agent_inside(
            docker_engine,
            *("containers", "--json", *ROOTS),
            options=[*HOST_FILES, docker_socket(docker_engine), *ENTERING, *options],
            DISCOVERY__RUNTIMES="docker",
        )
        return next(row for row in json.loads(answer.stdout)["containers"] if row["id"] == serving[:12])

    with_host, without = ask("--network=host"), ask()
    assert list(with_host["veth"]) == ["eth0"]
    assert with_host["unmapped"] == {}
    assert without["veth"] == {}
    assert "not in the host's network namespace" in without["unmapped"]["eth0"]


@pytest.mark.parametrize("cgroupns", ["private", "host"])
def test_without_a_runtime_to_ask(cgroupns: str, frozen: str, docker_engine: Engine) -> None:
    inside = falcon_agent_inside(
        docker_engine,
        *("containers", "--json", *ROOTS),
        options=[*HOST_FILES, "--pid=host", f"--cgroupns={cgroupns}"],
        DISCOVERY__RUNTIMES="cgroups",
    )
    rows = {row["id"]: row for row in json.loads(inside.stdout)["containers"]}
    assert rows[frozen[:12]]["pid"] == docker_engine.pid(frozen)
    assert rows[frozen[:12]]["runtime"] == "docker"


def test_what_is_not_mounted_is_told_with_its_remedy(docker_engine: Engine) -> None:
    without_sys = falcon_agent_inside(
        docker_engine, "containers", *ROOTS, options=[HOST_FILES[0]], DISCOVERY__RUNTIMES="cgroups"
    )
    assert without_sys.returncode != 0
    assert "cannot read /host/sys/fs/cgroup: no cgroup hierarchy is mounted there" in without_sys.stderr
    assert "docker run -v /sys:/host/sys:ro" in without_sys.stderr
    without_proc = falcon_agent_inside(
        docker_engine, "containers", *ROOTS, options=[HOST_FILES[1]], DISCOVERY__RUNTIMES="cgroups"
    )
    assert without_proc.returncode != 0
    assert "cannot read /host/proc/self/mountinfo: " in without_proc.stderr
    assert "mount the host's procfs there" in without_proc.stderr


def runs_in(cgroup: Path, name: str) -> bool:
    """Whether a process in the cgroup has become this program."""
    pids = (cgroup / "cgroup.procs").read_text().split()
    return f"{name}\n" in [Path(f"/proc/{pid}/comm").read_text() for pid in pids]


def test_docker_in_docker(docker_engine: Engine) -> None:
    """Inside the outer container the inner one is seen; on the host the outer one alone."""
    with docker_engine.container(*program_files(), "--cgroupns=private") as outer:
        tops = dict.fromkeys([ROOT] if V2 else [(ROOT / name).resolve() for name in (*CONTROLLERS, "pids")])
        own = docker_engine.cgroup(outer)[1:]
        made = [top / own / "docker" / ID_INSIDE for top in tops]
        for directory in made:
            directory.mkdir(parents=True)
            if directory.is_relative_to(ROOT / "cpuset"):
                for name in ("cpuset.mems", "cpuset.cpus"):
                    for at in (directory.parent, directory):
                        (at / name).write_text((ROOT / "cpuset" / name).read_text())
        join = "; ".join(f"echo 0 >{directory}/cgroup.procs" for directory in made)
        enter = f"nsenter --target {docker_engine.pid(outer)} --pid --net --mount"
        command = f"{join}; exec {enter} unshare -p -n -f sleep 86400"
        inner = subprocess.Popen(["sh", "-ec", command])
        try:
            wait_until(lambda: runs_in(made[0], "sleep"), "the inner one runs")
            seen = json.loads(
                docker_engine.cli(
                    "exec",
                    "--env=FALCON_AGENT__DISCOVERY__RUNTIMES=cgroups",
                    outer,
                    AGENT,
                    "containers",
                    "--json",
                )
            )
            on_host = run_by(
                docker_engine.nsenter_argv(), "containers", "--json", DISCOVERY__RUNTIMES="cgroups"
            )
        finally:
            for pid in (made[0] / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            inner.wait()
    assert [(row["id"], row["runtime"], row["cgroup"]) for row in seen["containers"]] == [
        (ID_INSIDE[:12], "docker", f"/docker/{ID_INSIDE}")
    ]
    ids = [row["id"] for row in json.loads(on_host.stdout)["containers"]]
    assert outer[:12] in ids
    assert ID_INSIDE[:12] not in ids


if not V2:  # there all controllers are in one hierarchy

    @pytest.mark.parametrize(("controller", "metric"), [("memory", "mem.memused"), ("cpuacct", "cpu.cores")])
    def test_a_hierarchy_that_is_not_mounted(
        controller: str, metric: str, serving: str, docker_engine: Engine
    ) -> None:
        """What it accounts for is absent, with a reason; the rest is measured."""
        without = ["unshare", "--mount", "sh", "-ec", f'umount {ROOT}/{controller}; exec "$@"', "sh"]
        settings = {"DISCOVERY__RUNTIMES": "docker", "DISCOVERY__DOCKER": docker_engine.url}
        by = docker_engine.nsenter_argv(*without)
        answer = run_by(by, "collect", "--dry-run", "--json", "--container", serving[:12], **settings)
        assert answer.returncode == 0, answer.stderr
        found = {record["metric"].removeprefix("container.") for record in json.loads(answer.stdout)}
        assert {"mem.memused", "cpu.cores", "tcp.inuse", "net.if.in.bytes"} - found == {metric}
        said = json.loads(
            run_by(by, "explain", serving[:12], f"container.{metric}", "--json", **settings).stdout
        )
        assert said["values"] == []
        assert said["reason"]
