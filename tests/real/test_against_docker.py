"""The whole program on real containers of a real Docker engine, against the tools that operators trust."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.programs import program, receiver, run_by, until
from tests.real.oracle import at_rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.programs import Receiver
    from tests.real.engine import Engine

pytestmark = pytest.mark.real

HOLD = Path(__file__).with_name("holdsockets.py")
BUSY = ("sh", "-c", "while :; do :; done")
FILL = (
    "sh",
    "-c",
    "head -c 20000000 /dev/zero > /tmp/f; x=$(head -c 8000000 /dev/zero | tr '\\0' x); sleep 86400",
)


def settings(engine: Engine, **more: str) -> dict[str, str]:
    return {"DISCOVERY__RUNTIMES": "docker", "DISCOVERY__DOCKER": engine.url} | more


def collect(engine: Engine, *args: str, **more: str) -> list[dict[str, Any]]:
    """What one `collect --dry-run` prints, run where the engine's veths are."""
    done = run_by(engine.nsenter_argv(), "collect", "--dry-run", "--json", *args, **settings(engine, **more))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def of(items: list[dict[str, Any]], **tags: str) -> dict[str, float]:
    """Metric to value, of the records with these tags."""
    wanted = {f"{key}={value}" for key, value in tags.items()}
    return {item["metric"]: item["value"] for item in items if wanted <= set(item["tags"].split(","))}


@contextlib.contextmanager
def named(
    engine: Engine, name: str, *options: str, command: tuple[str, ...] = ("sleep", "86400")
) -> Iterator[int]:
    """A container for the block; its first process."""
    with engine.container("--name", name, *options, command=command) as container:
        yield engine.pid(container)


def test_cpu_and_memory_equal_docker_stats_in_the_same_window(docker_engine: Engine) -> None:
    with (
        # So little that a busy machine has it to give.
        named(docker_engine, "burn", "--memory", "64m", "--cpus", "0.1", command=BUSY),
        named(docker_engine, "fill", "--memory", "64m", command=FILL),
        receiver(by=docker_engine.nsenter_argv()) as got,
        program(
            "run",
            by=docker_engine.nsenter_argv(),
            env=settings(docker_engine, AGENT__STEP="1", TRANSFER__ADDRESSES=got.url),
        ),
    ):
        until(lambda: len(got.values("container.cpu.cores", name="burn")) >= 2, "two rates")
        # Neither knows the other's window: a pause of one of them, or memory that still grows, spoils it.
        for _ in range(10):
            found = differences(docker_engine, got)
            if not found:
                break
        assert not found
        assert got.values("container.cpu.limit.cores", name="burn")[-1] == 0.1
        for name in ("burn", "fill"):
            assert got.values("container.mem.memtotal", name=name)[-1] == 64 * 1024**2


def differences(engine: Engine, got: Receiver) -> list[str]:
    """In what the agent and `docker stats` do not say the same of some seconds."""
    seen = len(got.values("container.cpu.cores", name="burn"))
    stats = [docker_stats(engine) for _ in range(2)]
    until(lambda: len(got.values("container.cpu.cores", name="burn")) > seen + 2, "the same window")
    cores = got.values("container.cpu.cores", name="burn")[seen:]
    busy = got.values("container.cpu.busy", name="burn")[seen:]
    docker_cores = sum(stat["burn"]["cpu"] for stat in stats) / len(stats) / 100
    throttled = got.values("container.cpu.throttled.percent", name="burn")[-1]
    cache = got.values("container.mem.cache", name="fill")[-1]
    holds = {
        f"cores {cores}, Docker {docker_cores}": mean(cores) == pytest.approx(docker_cores, rel=0.15),
        f"busy {busy}": mean(busy) == pytest.approx(100, abs=15),
        f"throttled {throttled}": throttled > 50,
        f"cache of fill {cache}": cache > 15_000_000,
    }
    for name in ("burn", "fill"):
        used = got.values("container.mem.memused", name=name)[-1]
        percent = got.values("container.mem.memused.percent", name=name)[-1]
        docker_used = stats[-1][name]["mem"]
        holds |= {
            f"{name} uses {used}, Docker {docker_used}": used
            == pytest.approx(docker_used, rel=0.02, abs=300_000),
            f"{name} uses {used}, {percent} %": percent
            == pytest.approx(used / (64 * 1024**2) * 100, abs=0.01),
        }
    return [what for what, so in holds.items() if not so]


def docker_stats(engine: Engine) -> dict[str, dict[str, float]]:
    """`docker stats --no-stream`: CPU percent of one core, and memory in bytes, by container."""
    units = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
    found = {}
    for line in engine.cli("stats", "--no-stream", "--format", "{{json .}}").splitlines():
        row = json.loads(line)
        amount = re.match(r"([\d.]+)([KMG]?i?B)", row["MemUsage"])
        assert amount, row
        found[row["Name"]] = {
            "cpu": float(row["CPUPerc"].rstrip("%")),
            "mem": float(amount[1]) * units[amount[2]],
        }
    return found


def ss(pid: int, *args: str) -> list[str]:
    """The lines that `ss` prints inside a container's network namespace."""
    command = ["nsenter", "--target", str(pid), "--net", "ss", "-Hn", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def picture(pid: int) -> dict[str, int]:
    """How many sockets `ss` finds inside a container's network namespace."""
    tcp = [line.split() for line in ss(pid, "-ta")]
    states = Counter(words[0] for words in tcp)
    # A socket that was closed and waits for its peer has no owner; in TIME-WAIT it is none any more.
    closing = [line for line in ss(pid, "-tanpo") if re.match(r"FIN-WAIT|CLOSING|LAST-ACK", line)]
    orphans = [line for line in closing if "users:" not in line and "timer:(timewait" not in line]
    return {**states, "all": len(tcp), "orphans": len(orphans), "udp": len(ss(pid, "-ua"))}


def test_sockets_equal_ss_in_every_state_and_both_families(docker_engine: Engine) -> None:
    ipv6 = ("--sysctl", "net.ipv6.conf.lo.disable_ipv6=0")
    with named(docker_engine, "sockets", *ipv6) as pid, named(docker_engine, "quiet"):
        inside = ["nsenter", "--target", str(pid), "--net", sys.executable, "-I", str(HOLD)]
        with subprocess.Popen(inside, stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == b"ready\n"
                counted, items = at_rest(
                    lambda: picture(pid), lambda: collect(docker_engine, "--samples", "1")
                )
            finally:
                holder.kill()
    found = of(items, name="sockets")
    assert counted["ESTAB"] > 0 < counted["TIME-WAIT"]
    assert found["container.tcp.establish"] == counted["ESTAB"]
    assert found["container.tcp.timewait"] == counted["TIME-WAIT"]
    assert found["container.tcp.closewait"] == counted["CLOSE-WAIT"] == 2
    assert found["container.tcp.listen"] == counted["LISTEN"] == 3
    assert found["container.tcp.finwait"] == counted.get("FIN-WAIT-1", 0) + counted.get("FIN-WAIT-2", 0)
    assert found["container.tcp.orphan"] == counted["orphans"] >= 1
    assert found["container.tcp.total"] == counted["all"]
    assert found["container.udp.inuse"] == counted["udp"] == 2
    # The host's own number, which sockstat shows in every namespace, must not leak into a quiet container.
    quiet = of(items, name="quiet")
    assert quiet["container.tcp.orphan"] == quiet["container.tcp.establish"] == 0


def own_counters(pid: int) -> dict[str, int]:
    """What a container itself counts on eth0."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    (row,) = [line for line in lines if "eth0:" in line]
    words = [int(word) for word in row.split(":")[1].split()]
    names = ("in.bytes", "in.packets", "out.bytes", "out.packets")
    return dict(zip(names, (*words[:2], *words[8:10]), strict=True))


def test_network_equals_the_containers_own_counters(docker_engine: Engine) -> None:
    with named(docker_engine, "server", command=("nc", "-ll", "-p", "9000", "-e", "cat")) as pid:
        ip = docker_engine.inspect("server")["NetworkSettings"]["IPAddress"]
        with named(docker_engine, "client") as _:
            send = f"head -c 300000 /dev/zero | nc {ip} 9000 | wc -c"
            until(lambda: int(docker_engine.exec("client", "sh", "-c", send)) == 300_000, "all is sent back")
            own, items = at_rest(lambda: own_counters(pid), lambda: collect(docker_engine, "--samples", "1"))
    found = of(items, name="server", iface="eth0")
    assert {name: found[f"container.net.if.{name}"] for name in own} == own
    assert own["in.bytes"] > 300_000 < own["out.bytes"]


def test_a_shared_namespace_is_reported_once_and_the_hosts_not_at_all(docker_engine: Engine) -> None:
    with (
        named(docker_engine, "owner"),
        named(docker_engine, "guest", "--network", "container:owner"),
        named(docker_engine, "on-host", "--network", "host"),
        named(docker_engine, "nowhere", "--network", "none"),
    ):
        items = collect(docker_engine)
        listed = run_by(docker_engine.nsenter_argv(), "containers", "--json", **settings(docker_engine))
    sockets = [item["tags"] for item in items if item["metric"] == "container.tcp.inuse"]
    assert sorted(sockets) == ["name=nowhere", "name=owner"]
    interfaces = [item["tags"] for item in items if item["metric"] == "container.net.if.in.bytes"]
    assert interfaces == ["iface=eth0,name=owner"]
    cpu = {item["tags"] for item in items if item["metric"] == "container.cpu.cores"}
    assert cpu == {"name=owner", "name=guest", "name=on-host", "name=nowhere"}
    document = json.loads(listed.stdout)
    assert {one["name"]: bool(one["veth"]) for one in document["containers"]}["owner"]
    reasons = {one["name"]: one["reason"] for one in document["left_out"]}
    assert "host network" in reasons["on-host"]


def test_odd_labels_become_tags_that_open_falcon_can_store(docker_engine: Engine) -> None:
    odd = {
        "quotes": "a'b\"c",
        "spaces": " a  b\tc ",
        "commas": "a,b=c",
        "lines": "a\nb\r\n",
        "emoji": "\U0001f600 \U0001f4a9",
        "escape": "\x1b[31mred\x1b[0m",
        "long": "x" * 300,
        "chinese": "生产环境",
        "empty": "",
    }
    labels = [option for key, value in odd.items() for option in ("--label", f"odd.{key}={value}")]
    tags = "{" + ", ".join(f'{key} = "{{label:odd.{key}}}"' for key in odd) + "}"
    with named(docker_engine, "odd", *labels), receiver(by=docker_engine.nsenter_argv()) as got:
        done = run_by(
            docker_engine.nsenter_argv(),
            "collect",
            **settings(docker_engine, CONTAINERS__TAGS=tags, TRANSFER__ADDRESSES=got.url),
        )
        assert done.returncode == 0, done.stderr
        until(lambda: got.values("container.cpu.cores"), "the receiver to show what it was sent")
        assert {arrival["fate"] for arrival in got.arrivals} == {"ok"}
    (item,) = [one for one in got.items if one["metric"] == "container.cpu.cores"]
    found = dict(pair.split("=", 1) for pair in item["tags"].split(","))
    assert found["name"] == "odd"
    assert found["chinese"] == "生产环境"
    assert found["quotes"] == "a_b_c"
    assert found["commas"] == "a_b_c"
    assert "empty" not in found
    assert len(item["tags"].encode()) + len(item["metric"]) < 255


def test_a_new_container_needs_no_resync_to_be_measured_and_leaves_at_once(docker_engine: Engine) -> None:
    with (
        receiver(by=docker_engine.nsenter_argv()) as got,
        program(
            "run",
            by=docker_engine.nsenter_argv(),
            # A resync so rare that only events can tell.
            env=settings(
                docker_engine, AGENT__STEP="1", DISCOVERY__RESYNC="3600", TRANSFER__ADDRESSES=got.url
            ),
        ) as agent,
    ):
        until(lambda: len(got.values("agent.alive")) >= 2, "the agent to run")
        with named(docker_engine, "late"):
            until(lambda: got.values("container.mem.memtotal", name="late"), "the new container")
            docker_engine.cli("rename", "late", "later")
            until(lambda: got.values("container.mem.memtotal", name="later"), "the new name")
        removed = time.time()
        cycles = len(got.values("agent.alive"))
        until(lambda: len(got.values("agent.alive")) > cycles + 3, "more cycles")
        late = [item["timestamp"] for item in got.items if "name=later" in item["tags"]]
        assert max(late) <= removed
        assert agent.end()[0] == 0
        assert not any("Traceback" in line for line in agent.log)


def test_collection_goes_on_while_dockerd_hangs_dies_and_comes_back(docker_engine: Engine) -> None:
    with (
        named(docker_engine, "steady"),
        receiver(by=docker_engine.nsenter_argv()) as got,
        program(
            "run",
            by=docker_engine.nsenter_argv(),
            env=settings(
                docker_engine,
                AGENT__STEP="1",
                DISCOVERY__RESYNC="1",
                DISCOVERY__TIMEOUT="1",
                TRANSFER__ADDRESSES=got.url,
            ),
        ) as agent,
    ):

        def measured() -> int:
            return len(got.values("container.cpu.cores", name="steady"))

        until(lambda: measured() >= 2, "the first rates")
        with docker_engine.hanging():
            until(lambda: got.values("falcon_agent.runtime.up")[-1] == 0, "the hang to be noticed")
            before = measured()
            until(lambda: measured() >= before + 3, "three more cycles")
        until(lambda: got.values("falcon_agent.runtime.up")[-1] == 1, "the engine to answer again")
        docker_engine.kill_daemon()
        until(lambda: got.values("falcon_agent.runtime.up")[-1] == 0, "the death to be noticed")
        before = measured()
        until(lambda: measured() >= before + 3, "three more cycles")
        docker_engine.start_daemon()
        until(lambda: got.values("falcon_agent.runtime.up")[-1] == 1, "the engine to be back")
        assert agent.end(signal.SIGTERM)[0] == 0
        assert not any("Traceback" in line for line in agent.log)


def test_containers_that_come_and_go_while_they_are_read_do_no_harm(docker_engine: Engine) -> None:
    with (
        receiver(by=docker_engine.nsenter_argv()) as got,
        program(
            "run",
            by=docker_engine.nsenter_argv(),
            env=settings(docker_engine, AGENT__STEP="1", TRANSFER__ADDRESSES=got.url),
        ) as agent,
    ):
        until(lambda: got.values("agent.alive"), "the agent to run")
        for number in range(8):
            docker_engine.cli("run", "--rm", "--name", f"brief-{number}", "falcon-test/busybox", "true")
        cycles = len(got.values("agent.alive"))
        until(lambda: len(got.values("agent.alive")) > cycles + 1, "another cycle")
        assert agent.end()[0] == 0
        assert got.values("falcon_agent.collect.failed")[-1] == 0
        assert not any(word in line for line in agent.log for word in ("level=error", "Traceback"))


def test_check_says_what_docker_answers(docker_engine: Engine) -> None:
    with named(docker_engine, "one"), receiver(by=docker_engine.nsenter_argv()) as got:
        fine = run_by(
            docker_engine.nsenter_argv(), "check", **settings(docker_engine, TRANSFER__ADDRESSES=got.url)
        )
        with docker_engine.hanging():
            hung = run_by(
                docker_engine.nsenter_argv(),
                "check",
                **settings(docker_engine, DISCOVERY__TIMEOUT="1", TRANSFER__ADDRESSES=got.url),
            )
    assert fine.returncode == 0, fine.stdout
    assert re.search(r"ok +runtime docker: 1 containers", fine.stdout)
    assert hung.returncode == 2
    assert re.search(r"fail +runtime docker: cannot", hung.stdout)
