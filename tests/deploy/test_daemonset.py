"""The DaemonSet as pods of a real containerd: its own mounts, arguments, environment and privileges."""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.collectors import DEFAULTS
from tests.cli.programs import until
from tests.deploy.kubelet import workload

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.deploy.conftest import Cluster
    from tests.deploy.manifests import Manifest

pytestmark = pytest.mark.real

# What listens, below a directory that is closed even to root without CAP_DAC_READ_SEARCH.
SERVER = "busybox chown 1000 /data/closed; busybox chmod 700 /data/closed; exec nc -ll -p 9000 -e cat"

STATES = {
    f"container.tcp.{name}"
    for name in ("closewait", "finwait", "listen", "listen.backlog", "listen.max", "orphan", "synrecv")
}
ROOM = {
    f"container.df.{what}" for what in ("bytes.total", "bytes.used", "bytes.used.percent", "bytes.free")
} | {f"container.df.inodes.{what}" for what in ("total", "used", "used.percent", "free")}
ROOT, CLOSED = "mount=/", "mount=/data/closed/volume"
PROCESSES = {f"container.{what}" for what in ("proc.count", "threads", "fds", "fds.max.percent")}


@pytest.fixture
def served(cluster: Cluster) -> Iterator[Cluster]:
    """A node on which a pod runs that is called as its namespace, with the container `server`."""
    with cluster.node.pod(cluster.namespace, cluster.namespace, workload("server", SERVER)):
        yield cluster


def test_the_records_of_other_pods_arrive(served: Cluster) -> None:
    got, pod = served.transfer, {"pod": served.namespace, "namespace": served.namespace}
    with served.node.pod("agent", "falcon-agent", served.spec) as agent:
        until(
            lambda: got.values("container.cpu.cores", name="server", **pod), "the rates of the second cycle"
        )
        until(lambda: got.values("container.tcp.listen", **pod)[-1:] == [1], "the server to listen")
        until(lambda: got.values("container.net.if.in.bytes", iface="eth0", **pod), "the traffic")
        for mount in ("/", "/data/closed/volume"):
            room = {"name": "server", "mount": mount}
            until(lambda of=room: got.values("container.df.bytes.total", **of, **pod), f"room on {mount}")  # type: ignore[misc]
            assert got.values("container.df.bytes.total", **room, **pod)[-1] > 0
        status = served.node.exec(agent["falcon-agent"], "cat", "/proc/self/status").stdout
        served.node.stop(agent["falcon-agent"], served.spec["terminationGracePeriodSeconds"])
        # Not 137: it ended by itself.
        assert served.node.exit_code(agent["falcon-agent"]) == 0
    assert got.values("container.mem.memused", name="server", **pod)[-1] > 0
    assert {item["endpoint"] for item in got.items} == {"node-7"}
    # CAP_DAC_READ_SEARCH, CAP_NET_BROADCAST, CAP_SYS_PTRACE and CAP_SYS_ADMIN (linux/capability.h).
    capabilities = 1 << 2 | 1 << 11 | 1 << 19 | 1 << 21
    assert re.search(rf"^CapEff:\s{capabilities:016x}$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s2$", status, re.MULTILINE)


def test_it_can_write_nowhere_but_to_its_spool(cluster: Cluster) -> None:
    with cluster.node.pod("agent", "falcon-agent", cluster.spec) as agent:
        for place in (
            "/",
            "/etc",
            "/host/proc/1",
            "/host/sys/fs/cgroup",
            "/host/run",
            "/opt/falcon-agent/bin",
        ):
            said = cluster.node.exec(agent["falcon-agent"], "touch", f"{place}/comm").stderr
            assert "Read-only file system" in said, place
        assert cluster.node.exec(agent["falcon-agent"], "touch", "/var/lib/falcon-agent/comm").returncode == 0


def test_what_was_measured_outlives_the_pod(cluster: Cluster) -> None:
    (agent,) = cluster.spec["containers"]
    away = f"http://127.0.0.1:{cluster.port + 1}/api/push"
    agent["env"].append({"name": "FALCON_AGENT__TRANSFER__ADDRESSES", "value": away})
    with cluster.node.pod("first", "falcon-agent", cluster.spec) as running:

        def waiting() -> list[int]:
            said = cluster.node.exec(running["falcon-agent"], "falcon-agent", "spool", "export").stdout
            items = [item for line in said.splitlines() for item in json.loads(line)]
            return [item["timestamp"] for item in items if item["metric"] == "agent.alive"]

        until(lambda: len(waiting()) >= 3, "three cycles to wait")
        waited = waiting()
    agent["env"].pop()
    with cluster.node.pod("second", "falcon-agent", cluster.spec):
        until(lambda: len(cluster.transfer.values("agent.alive")) > len(waited) + 1, "what waited, and more")
    stamps = [item["timestamp"] for item in cluster.transfer.items if item["metric"] == "agent.alive"]
    assert stamps[: len(waited)] == waited
    assert stamps == sorted(set(stamps))


# What the table in docs/kubernetes.md says.


def without_capability(name: str) -> Callable[[Manifest], object]:
    return lambda spec: spec["containers"][0]["securityContext"]["capabilities"]["add"].remove(name)


def without(field: str) -> Callable[[Manifest], object]:
    return lambda spec: spec.pop(field)


def without_mount(spec: Manifest, name: str) -> None:
    mounts = spec["containers"][0]["volumeMounts"]
    mounts.remove(next(mount for mount in mounts if mount["name"] == name))


def idle(spec: Manifest, **variables: str) -> Manifest:
    """The agent's pod with nothing running, for commands."""
    changed = copy.deepcopy(spec)
    (agent,) = changed["containers"]
    agent |= {"command": ["sleep", "86400"], "args": []}
    agent["env"] += [{"name": f"FALCON_AGENT__{name}", "value": value} for name, value in variables.items()]
    changed["terminationGracePeriodSeconds"] = 0
    return changed


def told(served: Cluster, spec: Manifest, *command: str) -> subprocess.CompletedProcess[str]:
    with served.node.pod("agent", "falcon-agent", spec) as running:
        return served.node.exec(running["falcon-agent"], "falcon-agent", *command)


def measured(served: Cluster, spec: Manifest) -> set[tuple[str, ...]]:
    """Metric, and the mount where it has one, of all that the agent measures."""
    answer = told(served, spec, "collect", "--dry-run", "--json")
    assert answer.returncode == 0, answer.stderr
    return {
        (record["metric"], *(tag for tag in record["tags"].split(",") if tag.startswith("mount=")))
        for record in json.loads(answer.stdout)
    }


@pytest.fixture(scope="module")
def with_all() -> dict[str, set[tuple[str, ...]]]:
    """What the unchanged pod measures; asked once."""
    return {}


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        pytest.param(without_capability("SYS_ADMIN"), {(metric,) for metric in STATES}, id="SYS_ADMIN"),
        pytest.param(
            without_capability("SYS_PTRACE"),
            {(metric,) for metric in STATES} | {(metric, at) for metric in ROOM for at in (ROOT, CLOSED)},
            id="SYS_PTRACE",
        ),
        pytest.param(
            without_capability("DAC_READ_SEARCH"), {(metric, CLOSED) for metric in ROOM}, id="DAC_READ_SEARCH"
        ),
        pytest.param(without("hostPID"), {(metric,) for metric in PROCESSES}, id="hostPID"),
    ],
)
def test_what_goes_missing(
    change: Callable[[Manifest], object],
    missing: set[tuple[str, ...]],
    served: Cluster,
    with_all: dict[str, set[tuple[str, ...]]],
) -> None:
    # Whether a container has read from a disk depends on what the page cache holds.
    collectors = ({*DEFAULTS} - {"diskio"}) | {"processes"}
    # And nothing may be missing because a busy machine is slow.
    patient = {"FILESYSTEM__TIMEOUT": "10", "DISCOVERY__TIMEOUT": "60"}
    spec = idle(served.spec, COLLECTORS__ENABLED=",".join(sorted(collectors)), **patient)
    if not with_all:
        with_all["series"] = measured(served, spec)
    change(spec)
    assert with_all["series"] - measured(served, spec) == missing


def test_without_the_host_s_network(served: Cluster) -> None:
    """Traffic is read inside the containers then; the host's ends have no names."""
    spec = idle(served.spec)

    def server() -> Any:
        (row,) = json.loads(told(served, spec, "containers", "--json").stdout)["containers"]
        return row

    assert list(server()["veth"]) == ["eth0"]
    without("hostNetwork")(spec)
    assert "not in the host's network namespace" in server()["unmapped"]["eth0"]


def test_without_the_runtimes_sockets(served: Cluster) -> None:
    """Then containers are called by their id, pods by their host name, and namespaces have no names."""
    spec = idle(served.spec)
    (agent,) = spec["containers"]
    agent["env"] = [each for each in agent["env"] if each.get("value") != served.namespace]
    without_mount(spec, "run")
    rows = json.loads(told(served, spec, "containers", "--json").stdout)["containers"]
    (server,) = [row for row in rows if row["pod"] == served.namespace]
    assert server["name"] == server["id"]
    assert server["netns"]


@pytest.mark.parametrize("name", ["proc", "cgroup"])
def test_without_the_kernel_s_file_systems(name: str, served: Cluster) -> None:
    spec = idle(served.spec)
    without_mount(spec, name)
    answer = told(served, spec, "collect", "--dry-run")
    assert answer.returncode == 1
    assert re.search("cannot read /host/.*; mount the host's .*there", answer.stderr)
