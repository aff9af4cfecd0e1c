"""The agent in a container: containers bear the names that they have on the host, the agent's own one too."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from demo import throwaway
from tests.cgroupfs.live import V2
from tests.cli.programs import run_by
from tests.real.inside import HOST_FILES, ROOTS, docker_socket, falcon_agent_inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def other(docker_engine: Engine) -> Iterator[str]:
    with docker_engine.container(f"--name={docker_engine.name}-other") as container:
        yield container


def rows(engine: Engine, *options: str, runtime: str) -> dict[str, Any]:
    """The containers that the agent lists inside, by id; its own one is called `agent`."""
    answer = falcon_agent_inside(
        engine,
        *("containers", "--json", *ROOTS),
        options=[*HOST_FILES, docker_socket(engine), "--name=agent", *options],
        DISCOVERY__RUNTIMES=runtime,
    )
    found = {row["id"]: row for row in json.loads(answer.stdout)["containers"]}
    left_out = {one["id"][:12]: one["reason"] for one in json.loads(answer.stdout)["left_out"]}
    return {**left_out, **found}


@pytest.mark.parametrize("cgroupns", ["private", "host"])
@pytest.mark.parametrize("pid", [[], ["--pid=host"]])
@pytest.mark.parametrize("runtime", ["docker", "cgroups"])
def test_every_container_is_found_under_its_path_on_the_host(
    cgroupns: str, pid: list[str], runtime: str, other: str, docker_engine: Engine
) -> None:
    """Without the host's PID namespace too, where `cgroup.procs` lists none of them."""
    answer = run_by(
        docker_engine.nsenter_argv(),
        *("containers", "--json"),
        DISCOVERY__RUNTIMES=runtime,
        DISCOVERY__DOCKER=docker_engine.url,
    )
    expected = next(row for row in json.loads(answer.stdout)["containers"] if row["id"] == other[:12])
    assert expected["cgroup"] == docker_engine.cgroup(other)
    inside = rows(docker_engine, f"--cgroupns={cgroupns}", *pid, runtime=runtime)
    for key in ("name", "pid", "cgroup", "cgroup_version", "netns"):
        assert inside[other[:12]][key] == expected[key]
    ours = [
        row
        for row in inside.values()
        if isinstance(row, dict)
        and row["runtime"] == "docker"
        and os.path.dirname(row["cgroup"]) == os.path.dirname(expected["cgroup"])
    ]
    assert len(ours) > 1  # the agent's own container is one of them
    assert not any(row["host_network"] for row in ours)


@pytest.mark.parametrize("pid", [[], ["--pid=host"]])
def test_a_container_of_no_known_form(pid: list[str], docker_engine: Engine) -> None:
    with throwaway.running(throwaway.start("unheard-of", 41, busy=0.1)) as (made,):
        inside = rows(docker_engine, "--cgroupns=private", *pid, runtime="cgroups")
    found = inside["unheard-of"]
    assert found["pid"] == made.pid
    assert found["cgroup"].endswith("/unheard-of")
    assert ".." not in found["cgroup"]


def test_where_only_its_own_cgroup_is_mounted_the_rest_is_measured(other: str, docker_engine: Engine) -> None:
    # Named by its mount points, v1's own hierarchies are all that is below.
    answer = falcon_agent_inside(
        docker_engine,
        *("explain", other[:12], "container.mem.memused", "--json", "--proc", "/host/proc"),
        options=[HOST_FILES[0], docker_socket(docker_engine), "--cgroupns=private"],
        DISCOVERY__RUNTIMES="docker",
    )
    said = json.loads(answer.stdout)
    where = "/sys/fs/cgroup" if V2 else "/sys/fs/cgroup/memory"
    own = os.path.basename(docker_engine.cgroup(other))
    assert said["values"] == []
    assert said["reason"].startswith(f"{where} does not show its cgroup /../{own}")
    assert "docker run -v /sys:/host/sys:ro" in said["reason"]
    listed = falcon_agent_inside(
        docker_engine,
        *("explain", other[:12], "container.tcp.inuse", "--json", "--proc", "/host/proc"),
        options=[HOST_FILES[0], docker_socket(docker_engine), "--cgroupns=private"],
        DISCOVERY__RUNTIMES="docker",
    )
    assert json.loads(listed.stdout)["values"] == [{"value": 0, "tags": ""}]
