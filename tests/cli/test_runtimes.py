"""Every runtime that runs here at once: the program agrees with each one's own view."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from cri_api.v1 import api_pb2 as cri

from tests.cli.programs import falcon_agent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.containerd import Containerd
    from tests.real.engine import Engine
    from tests.real.lxc import Lxc
    from tests.real.podman import Podman

pytestmark = pytest.mark.real

MIB = 1024 * 1024


@pytest.fixture
def lives(
    docker_engine: Engine, podman: Podman, containerd: Containerd, own_lxc: Lxc
) -> Iterator[dict[str, str]]:
    """A container of each, by name: its full id."""
    ct = own_lxc.create("every")
    own_lxc.start(ct)
    with (
        docker_engine.container("--name", "every-docker") as by_docker,
        podman.container("--name", "every-podman") as by_podman,
        containerd.pod("every-pod", "shop", labels={"app": "every"}) as sandbox,
    ):
        first = containerd.run_container(sandbox, "every-first")
        second = containerd.run_container(sandbox, "every-second")
        yield {
            "every-docker": by_docker,
            "every-podman": by_podman,
            "every-first": first,
            "every-second": second,
            ct: ct,
        }


@pytest.fixture
def chosen(docker_engine: Engine, podman: Podman, containerd: Containerd) -> dict[str, str]:
    return {
        "DISCOVERY__DOCKER": docker_engine.url,
        "DISCOVERY__PODMAN": podman.url,
        "DISCOVERY__CRI": containerd.url,
        # Each of them may be slow on a busy machine.
        "DISCOVERY__TIMEOUT": "30",
        # Whatever else runs on this machine is none of this test's business.
        "DISCOVERY__INCLUDE__NAME": "every*",
    }


def listed(chosen: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    done = falcon_agent("containers", "--json", **chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    rows = {row["name"]: row for row in document["containers"]}
    assert len(rows) == len(document["containers"]), "no container twice"
    return rows, document


def test_auto_lists_what_every_runtime_lists(
    lives: dict[str, str],
    chosen: dict[str, str],
    docker_engine: Engine,
    podman: Podman,
    containerd: Containerd,
    own_lxc: Lxc,
) -> None:
    rows, document = listed(chosen)
    assert rows.keys() == lives.keys()
    tasks = containerd.tasks()
    ct = next(name for name, one in lives.items() if name == one)
    pids = {
        "every-docker": docker_engine.pid(lives["every-docker"]),
        "every-podman": podman.inspect(lives["every-podman"])["State"]["Pid"],
        "every-first": tasks[lives["every-first"]],
        "every-second": tasks[lives["every-second"]],
        ct: own_lxc.pid(ct),
    }
    assert {name: row["pid"] for name, row in rows.items()} == pids
    assert {name: row["runtime"] for name, row in rows.items()} == {
        "every-docker": "docker",
        "every-podman": "podman",
        "every-first": "containerd",
        "every-second": "containerd",
        ct: "lxc",
    }
    for name, row in rows.items():
        assert row["netns"] == os.stat(f"/proc/{pids[name]}/ns/net").st_ino
        assert lives[name] in row["cgroup"], row["cgroup"]
    assert rows["every-first"]["netns"] == rows["every-second"]["netns"]
    assert rows["every-first"]["pod"] == "shop/every-pod"
    states = {one["name"]: (one["present"], one["ok"]) for one in document["runtimes"]}
    assert states == dict.fromkeys(("docker", "podman", "containerd", "cgroups"), (True, True))
    reasons = {one["reason"] for one in document["left_out"] if one["name"] == "every-pod"}
    assert reasons == {"pause: it only holds the namespaces of pod every-pod"}


def test_the_numbers_are_the_runtimes_own(
    lives: dict[str, str], chosen: dict[str, str], podman: Podman, containerd: Containerd, own_lxc: Lxc
) -> None:
    before = told_of_memory(lives, podman, containerd)
    done = falcon_agent("collect", "--dry-run", "--json", "--samples", "1", **chosen)
    after = told_of_memory(lives, podman, containerd)
    assert done.returncode == 0, done.stderr
    used: dict[str, float] = {}
    of_pod = set()
    for record in json.loads(done.stdout):
        tags = dict(tag.split("=") for tag in record["tags"].split(",") if tag)
        if record["metric"] == "container.mem.memused":
            used[tags["name"]] = record["value"]
        if tags.get("pod") == "every-pod" and "name" not in tags:
            assert tags["namespace"] == "shop"
            of_pod.add(record["metric"])
    assert used.keys() == lives.keys()
    for name in before:
        low, high = sorted((before[name], after[name]))
        assert low - MIB <= used[name] <= high + MIB, name
    assert {"container.tcp.establish", "container.net.if.in.bytes"} <= of_pod, "once, and of the pod"


def told_of_memory(lives: dict[str, str], podman: Podman, containerd: Containerd) -> dict[str, float]:
    """Bytes in use by container, as the runtimes that tell it do."""
    stats = json.loads(podman.cli("stats", "--no-stream", "--format", "json"))
    [of_podman] = [one for one in stats if one["name"] == "every-podman"]
    kib = {"kB": 1000, "MB": 1000**2, "B": 1}
    amount = of_podman["mem_usage"].split(" / ")[0]
    unit = next(unit for unit in kib if amount.endswith(unit))
    told = {"every-podman": float(amount.removesuffix(unit)) * kib[unit]}
    for name in ("every-first", "every-second"):
        request = cri.ContainerStatsRequest(container_id=lives[name])
        answer = containerd.runtime.ContainerStats(request, timeout=30)
        told[name] = answer.stats.memory.working_set_bytes.value
    return told


def test_one_that_hangs_does_not_keep_the_others_back(
    lives: dict[str, str], chosen: dict[str, str], docker_engine: Engine, containerd: Containerd
) -> None:
    with docker_engine.hanging():
        done = falcon_agent("containers", "--json", **chosen | {"DISCOVERY__TIMEOUT": "8"})
    assert done.returncode == 1
    document = json.loads(done.stdout)
    names = {row["name"] for row in document["containers"]}
    assert names == lives.keys() - {"every-docker"}
    [held] = [one for one in document["left_out"] if one["id"] == lives["every-docker"]]
    assert held["reason"] == "docker, which would tell its name, does not answer"


def test_with_no_runtime_to_ask_they_are_all_found(lives: dict[str, str]) -> None:
    done = falcon_agent("containers", "--json", DISCOVERY__RUNTIMES="cgroups")
    found = {row["id"] for row in json.loads(done.stdout)["containers"]}
    assert {one[:12] if len(one) == 64 else one for one in lives.values()} <= found
    only = json.loads(falcon_agent("containers", "--json", DISCOVERY__RUNTIMES="lxc").stdout)
    assert {row["runtime"] for row in only["containers"]} == {"lxc"}
