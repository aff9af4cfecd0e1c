from __future__ import annotations

import logging
import shutil
import socket
import struct
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from falcon_agent.collectors.base import Target
from falcon_agent.collectors.sockets import (
    BACKLOG,
    BACKLOG_MAX,
    CLOSEWAIT,
    ESTABLISH,
    FINWAIT,
    INUSE,
    LISTEN,
    ORPHAN,
    SYNRECV,
    TIMEWAIT,
    TOTAL,
    SocketsCollector,
)
from falcon_agent.container import CgroupPaths, Container
from falcon_agent.errors import GoneError
from falcon_agent.kernelfile import recording
from falcon_agent.netlink.wire import NETLINK_SOCK_DIAG, open_netlink
from falcon_agent.procfs.process import Process
from tests.collectors.traffic import host_name
from tests.namespaces.lab import (
    Netns,
    Pair,
    become_nobody,
    eventually,
    in_child,
    netns,
    open_descriptors,
    target,
    veth,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NET = Path(__file__).parents[1] / "fixtures" / "net" / "pod"
V6 = socket.AF_INET6
QUEUES = (BACKLOG, BACKLOG_MAX)
ONLY_INSIDE = (ORPHAN, CLOSEWAIT, SYNRECV, FINWAIT, LISTEN, *QUEUES)


def collect(collector: SocketsCollector, of: Target) -> dict[str, float]:
    """The samples that are not about a port."""
    collector.begin([of])
    return {
        metric.name.removeprefix("container."): value
        for metric, value, _ in collector.collect(of)
        if metric not in QUEUES
    }


def captured(tmp_path: Path, *, leave_out: str = "") -> Target:
    """The captured namespace as a process directory, with no namespace to enter."""
    net = tmp_path / "77" / "net"
    net.mkdir(parents=True)
    for name in ("sockstat", "sockstat6", "snmp"):
        if name != leave_out:
            shutil.copy(NET / name, net / name)
    (tmp_path / "77" / "stat").write_text("77 (x) S" + " 1" * 40)
    known = Container(id="c", name="c", runtime="test", pid=77, starttime=1, cgroup=CgroupPaths({}, "/"))
    return Target(known, Process(str(tmp_path), 77), cast("Any", None))


@pytest.fixture
def box() -> Iterator[Netns]:
    with netns() as made:
        yield made


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


def test_every_metric_says_what_it_is() -> None:
    names = [metric.name for metric in SocketsCollector.metrics]
    assert len(names) == len(set(names)) == 13
    for metric in SocketsCollector.metrics:
        assert metric.help
        assert metric.formula
        assert metric.sources
        unit, tags = ("connections", ("port",)) if metric in QUEUES else ("sockets", ())
        assert (metric.counter_type, metric.unit, metric.tags) == ("GAUGE", unit, tags)
        assert bool(metric.needs) == (metric in (*ONLY_INSIDE, ESTABLISH))


@pytest.mark.real
def test_every_number_equals_what_ss_counts(pair: Pair) -> None:
    near = pair.near
    pair.connection(9001)
    pair.connection(9002, V6)
    pair.connection(9003)[1].shutdown(socket.SHUT_WR)
    pair.connection(9004)[0].shutdown(socket.SHUT_WR)
    small = pair.connection(9005)
    small[0].close()
    for port, family in ((9006, socket.AF_INET), (9007, V6)):
        waiting = pair.connection(port, family)
        waiting[0].close()
        waiting[1].close()
    orphans = [pair.connection(9010), pair.connection(9011, V6), pair.connection(9012)]
    pair.drop(near, "--dport", "9010:9020")
    for ends in orphans:
        ends[0].close()
    pair.listen(near, 8000)
    pair.listen(near, 8001, V6)
    pair.drop(near, "--sport", "8000", "--tcp-flags", "SYN,ACK", "SYN,ACK")
    asking = pair.keep(pair.far.socket())
    asking.setblocking(False)  # noqa: FBT003  its only argument
    asking.connect_ex((pair.V4[0], 8000))
    datagrams = [
        pair.keep(near.inside(partial(socket.socket, family, socket.SOCK_DGRAM)))
        for family in (socket.AF_INET, V6)
    ]
    for port, made in enumerate(datagrams, 5000):
        made.bind(("", port))

    expected = {
        "tcp.establish": 2,
        "tcp.closewait": 1,
        "tcp.finwait": 1 + 1 + 3,
        "tcp.orphan": 3,
        "tcp.timewait": 2,
        "tcp.synrecv": 1,
        "tcp.listen": 2,
        "tcp.inuse": 2 + 1 + 1 + 3 + 2,
        "tcp.total": 9 + 2 + 1,
        "udp.inuse": 2,
    }
    with target(near) as of:
        collector = SocketsCollector()

        def found() -> dict[str, float]:
            samples = collect(collector, of)
            assert samples.pop("sockets.used") >= 8
            return samples

        eventually(lambda: found() == expected, f"{expected}, and not {found()}")
        assert near.ss("established") == expected["tcp.establish"]
        assert near.ss("time-wait") == expected["tcp.timewait"]
        assert near.ss("close-wait") == expected["tcp.closewait"]
        assert near.ss("syn-recv") == expected["tcp.synrecv"]
        assert near.ss("listening") == expected["tcp.listen"]
        assert near.ss("fin-wait-1") + near.ss("fin-wait-2") == expected["tcp.finwait"]
        assert all(collector.absent(metric, of) is None for metric in collector.metrics)


@pytest.mark.real
def test_orphans_of_one_namespace_are_not_those_of_another(pair: Pair) -> None:
    ends = pair.connection(9010)
    pair.drop(pair.near, "--dport", "9010")
    ends[0].close()
    with target(pair.near) as near, target(pair.far, "far") as far:
        collector = SocketsCollector()
        assert collect(collector, near)["tcp.orphan"] == 1
        assert collect(collector, far)["tcp.orphan"] == 0
        assert b"orphan 0" not in far.process.read("net/sockstat")


@pytest.mark.real
def test_a_namespace_without_tcp_sockets_is_all_zero_and_not_entered(box: Netns) -> None:
    collector = SocketsCollector()
    with target(box) as of:
        of.container = replace(of.container, netns=1)  # entering would fail
        found = collect(collector, of)
        assert "listens on a TCP port" in str(collector.absent(BACKLOG, of))
    assert len(found) == 11
    assert {value for name, value in found.items() if name.startswith("tcp.")} == {0}


def unprivileged(of: Target) -> str:
    def look() -> tuple[dict[str, float], list[str], str | None, str | None]:
        collector = SocketsCollector()
        found = collect(collector, of)
        missing = [metric.name for metric in collector.metrics if metric.name[10:] not in found]
        return found, missing, collector.absent(ORPHAN, of), collector.absent(INUSE, of)

    return in_child(look, before=become_nobody)


@pytest.mark.real
def test_without_privilege_the_states_are_absent_and_it_is_said_why(pair: Pair) -> None:
    pair.connection(9001)
    pair.listen(pair.near, 8000)
    with target(pair.near) as of:
        answer = unprivileged(of)
    assert "'tcp.inuse': 2" in answer
    assert "'tcp.timewait': 0" in answer
    for metric in (*ONLY_INSIDE, ESTABLISH):
        assert f"'{metric.name}'" in answer, answer
    assert "CAP_SYS_ADMIN and CAP_SYS_PTRACE" in answer
    assert answer.endswith(", None)")


@pytest.mark.real
def test_without_privilege_no_connection_is_still_known(pair: Pair) -> None:
    pair.listen(pair.near, 8000)
    with target(pair.near) as of:
        answer = unprivileged(of)
    assert "'tcp.establish': 0" in answer
    assert "'tcp.orphan'" not in answer.split("}", maxsplit=1)[0]


@pytest.mark.real
def test_a_container_in_another_namespace_than_known(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.connection(9001)
    collector = SocketsCollector()
    with target(pair.near) as of, caplog.at_level(logging.WARNING):
        right = of.container
        of.container = replace(right, netns=1)
        for _ in range(3):
            found = collect(collector, of)
        assert found["tcp.inuse"] == 1
        assert "tcp.orphan" not in found
        assert "not in network namespace 1" in str(collector.absent(ORPHAN, of))
        assert len(caplog.records) == 1  # said once, not in every cycle
        of.container = right
        assert collect(collector, of)["tcp.orphan"] == 0
        assert collector.absent(ORPHAN, of) is None
        of.container = replace(right, netns=1)
        collect(collector, of)
        collector.forget(of)
        assert collector.absent(ORPHAN, of) is None


@pytest.mark.real
def test_a_container_that_ended(box: Netns) -> None:
    collector = SocketsCollector()
    with target(box) as of:
        collect(collector, of)
        box.end()
        collector.begin([of])
        with pytest.raises(GoneError):
            list(collector.collect(of))


@pytest.mark.real
def test_a_container_that_ends_while_it_is_measured(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.connection(9001)
    with target(pair.near) as of:
        read = of.process.read_record

        def end_after(name: str) -> bytes:
            content = read(name)
            if name == "net/sockstat6":
                pair.near.end()
            return content

        of.process.read_record = end_after  # type: ignore[method-assign]
        with pytest.raises(GoneError):
            collect(SocketsCollector(), of)
    assert not caplog.records  # nothing is wrong


def test_a_kernel_without_ipv6(tmp_path: Path) -> None:
    of = captured(tmp_path, leave_out="sockstat6")
    (tmp_path / "77/net/sockstat").write_bytes(b"sockets: used 3\nTCP: inuse 0 orphan 5 tw 0\nUDP: inuse 2\n")
    found = collect(SocketsCollector(), of)
    assert (found["udp.inuse"], found["tcp.total"], found["tcp.orphan"]) == (2, 0, 0)
    of.process.close()


def test_ipv6_numbers_of_a_process_that_ended_are_not_zero(tmp_path: Path) -> None:
    of = captured(tmp_path, leave_out="sockstat6")
    read = of.process.read_record

    def die_after(name: str) -> bytes:
        content = read(name)
        (tmp_path / "77/net/sockstat").unlink()
        return content

    of.process.read_record = die_after  # type: ignore[method-assign]
    with pytest.raises(GoneError):
        collect(SocketsCollector(), of)
    of.process.close()


@pytest.mark.real
def test_explain_sees_the_counts_that_were_used(pair: Pair) -> None:
    pair.connection(9001)
    pair.listen(pair.near, 8000)
    with target(pair.near) as of, recording() as seen:
        collect(SocketsCollector(), of)
    reads = dict(seen)
    states = reads[f"sock_diag of netns {pair.near.inode}"].splitlines()
    assert b"established 1" in states
    for metric in SocketsCollector.metrics:
        for source in metric.sources:
            lines = [line for path, content in seen if source.file in path for line in content.splitlines()]
            if source.file != "net/snmp":  # only read where sock_diag is refused
                assert [
                    key for key in source.keys if any(line.startswith(key.encode()) for line in lines)
                ] == list(source.keys), metric.name
    assert TIMEWAIT.sources
    assert TOTAL.sources


@pytest.mark.real
def test_a_thousand_cycles_leave_nothing_open(box: Netns) -> None:
    collector = SocketsCollector()
    listening = box.socket()
    listening.bind(("", 8000))
    listening.listen()
    with listening, target(box) as of:
        collect(collector, of)
        before = open_descriptors()
        for _ in range(1000):
            assert collect(collector, of)["tcp.listen"] == 1
        assert open_descriptors() <= before


@pytest.mark.real
def test_a_socket_that_is_kept_and_that_root_inside_fills(pair: Pair) -> None:
    pair.connection(9001)
    hostile = pair.keep(pair.near.inside(partial(open_netlink, NETLINK_SOCK_DIAG)))
    hostile.setblocking(False)  # noqa: FBT003  its only argument
    collector = SocketsCollector()
    forged_end = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)
    with target(pair.near) as of:
        of.process.keep()
        assert collect(collector, of)["tcp.establish"] == 1
        (kept,) = of.process._sockets.values()
        hostile.sendto(forged_end, kept.getsockname())
        assert collect(collector, of)["tcp.establish"] == 1
        assert list(of.process._sockets.values()) == [kept]
        with suppress(BlockingIOError):
            while True:
                hostile.sendto(forged_end, kept.getsockname())
        # The kernel has no room for an answer; the next question is asked on a socket of its own.
        assert "tcp.establish" not in collect(collector, of)
        assert "No buffer space" in str(collector.absent(ESTABLISH, of))
        assert kept.fileno() == -1
        assert collect(collector, of)["tcp.establish"] == 1


@pytest.mark.real
def test_a_dead_container_is_not_held(box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    listening = box.socket()
    listening.bind(("", 8000))
    listening.listen()
    collector = SocketsCollector()
    with target(box) as of:
        assert collect(collector, of)["tcp.listen"] == 1
        listening.close()
        box.end()
        eventually(lambda: name not in {known for _, known in socket.if_nameindex()}, "a veth that vanished")
