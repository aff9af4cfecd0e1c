from __future__ import annotations

import json
import shutil
import socket
import struct
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from falcon_agent.collectors.base import Target
from falcon_agent.collectors.tcpext import RETRANS_PERCENT, TcpextCollector
from falcon_agent.container import CgroupPaths, Container
from falcon_agent.errors import GoneError, ParseError
from falcon_agent.kernelfile import recording
from falcon_agent.procfs.process import Process
from tests.namespaces.lab import Netns, Pair, become_nobody, eventually, in_child, netns, target

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY = Path(__file__).parents[1] / "fixtures" / "net" / "busy"
V4, V6 = socket.AF_INET, socket.AF_INET6
COUNTERS = [metric for metric in TcpextCollector.metrics if metric.counter_type == "COUNTER"]


def collect(collector: TcpextCollector, of: Target) -> dict[str, float]:
    collector.begin([of])
    return {metric.name.removeprefix("container."): value for metric, value, _ in collector.collect(of)}


def nstat(box: Netns) -> dict[str, int]:
    """What nstat counts in the namespace, under our names; UDP of both IP versions added."""
    kernel = json.loads(box.run("nstat", "-asz", "--json"))["kernel"]
    told = {}
    for metric in COUNTERS:
        group, field = metric.name.split(".")[-2:]
        told[metric.name.removeprefix("container.")] = kernel[group + field]
        if group == "Udp":
            told[f"snmp.Udp.{field}"] += kernel[f"Udp6{field}"]
    return told


def same_as_nstat(box: Netns, of: Target, **at_least: int) -> dict[str, float]:
    """Every counter becomes what nstat says, and those named by their last part reach a number."""
    collector = TcpextCollector()
    seen: list[dict[str, float]] = []

    def same() -> bool:
        before, found, after = nstat(box), collect(collector, of), nstat(box)
        seen[:] = [found]
        by_field = {name.rpartition(".")[2]: value for name, value in found.items()}
        return before == found == after and all(by_field[name] >= least for name, least in at_least.items())

    eventually(same, f"{at_least}, and nstat's {nstat(box)} in {seen}")
    return seen[0]


def captured(tmp_path: Path, *, leave_out: str = "") -> Target:
    """The captured namespace as a process directory."""
    net = tmp_path / "77" / "net"
    net.mkdir(parents=True)
    for name in ("netstat", "snmp", "snmp6"):
        if name != leave_out:
            shutil.copy(BUSY / name, net / name)
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


def connect(pair: Pair, port: int, *, times: int = 1) -> list[socket.socket]:
    """Begin connections from the far side to a port of the near side, waiting for none."""
    begun = []
    for _ in range(times):
        made = pair.keep(pair.far.socket())
        made.setblocking(False)  # noqa: FBT003  its only argument
        made.connect_ex((pair.V4[0], port))
        begun.append(made)
    return begun


def listener(pair: Pair, port: int, backlog: int) -> socket.socket:
    made = pair.keep(pair.near.socket())
    made.bind(("", port))
    made.listen(backlog)
    return made


def datagrams(pair: Pair, side: Netns, family: socket.AddressFamily) -> socket.socket:
    return pair.keep(side.inside(partial(socket.socket, family, socket.SOCK_DGRAM)))


def test_every_metric_says_what_it_is() -> None:
    names = [metric.name for metric in TcpextCollector.metrics]
    assert len(names) == len(set(names)) == 34
    for metric in TcpextCollector.metrics:
        assert metric.help.endswith(".")
        assert metric.formula
        assert metric.sources
        assert not metric.needs
        assert metric.name.startswith(("container.TcpExt.", "container.snmp.")) or metric is RETRANS_PERCENT


@pytest.mark.real
def test_a_quiet_namespace_counts_nothing_of_what_others_do(pair: Pair, box: Netns) -> None:
    pair.connection(9001)
    with target(box) as of:
        found = same_as_nstat(box, of)
    assert len(found) == 33
    assert set(found.values()) == {0}
    with target(pair.near) as of:
        assert collect(TcpextCollector(), of)["snmp.Tcp.OutSegs"] > 0


@pytest.mark.real
def test_an_overflowed_listen_queue(pair: Pair) -> None:
    listener(pair, 8000, 1)
    connect(pair, 8000, times=6)
    with target(pair.near) as of, target(pair.far, "far") as client:
        found = same_as_nstat(pair.near, of, ListenOverflows=3, ListenDrops=3)
        assert found["snmp.Tcp.PassiveOpens"] == 2
        theirs = same_as_nstat(pair.far, client, TCPSynRetrans=3)
        assert theirs["TcpExt.ListenOverflows"] == 0
        assert theirs["snmp.Tcp.ActiveOpens"] == 6


@pytest.mark.real
def test_lost_segments_are_sent_again(pair: Pair) -> None:
    near, far = pair.connection(9001)
    pair.far.run(
        "iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "9001",
        "-m", "statistic", "--mode", "nth", "--every", "5", "--packet", "0", "-j", "DROP",
    )  # fmt: skip
    sent = bytes(1_000_000)
    got = 0
    with target(pair.near) as of:
        collector = TcpextCollector()
        first = collect(collector, of)
        assert "tcp.retrans.percent" not in first
        assert "two samples" in str(collector.absent(RETRANS_PERCENT, of))
        near.setblocking(False)  # noqa: FBT003  its only argument
        far.settimeout(20)
        while got < len(sent):
            with suppress(BlockingIOError):
                sent = sent[near.send(sent) :] if sent else sent
            got += len(far.recv(1 << 20))
            if got == 1_000_000:
                break
        second = collect(collector, of)
        again, out = (
            second[f"snmp.Tcp.{name}"] - first[f"snmp.Tcp.{name}"] for name in ("RetransSegs", "OutSegs")
        )
        assert again > 0
        assert second["tcp.retrans.percent"] == round(again / (again + out) * 100, 3)
        assert collector.absent(RETRANS_PERCENT, of) is None
        same_as_nstat(pair.near, of, RetransSegs=1)


@pytest.mark.real
def test_a_peer_that_does_not_answer(pair: Pair) -> None:
    near, _ = pair.connection(9001)
    pair.far.run("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "9001", "-j", "DROP")
    with target(pair.near) as of:
        collector = TcpextCollector()
        near.send(b"x")
        collect(collector, of)
        shares: list[float | None] = []

        def nothing_but_retransmits() -> bool:
            shares.append(collect(collector, of).get("tcp.retrans.percent"))
            return shares[-1] is not None

        # None of them is in OutSegs, so a share of OutSegs alone would have no value here.
        eventually(nothing_but_retransmits, "a segment sent again")
        assert shares[-1] == 100.0
        assert shares[:-1] == [None] * (len(shares) - 1)
        # It gives up when it would send again the next time.
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1)
        found = same_as_nstat(pair.near, of, TCPTimeouts=1, TCPAbortOnTimeout=1, RetransSegs=1)
        assert found["snmp.Tcp.EstabResets"] == 1
        collect(collector, of)
        assert "tcp.retrans.percent" not in collect(collector, of)
        assert "no TCP segment was sent" in str(collector.absent(RETRANS_PERCENT, of))


@pytest.mark.real
def test_resets(pair: Pair) -> None:
    with pytest.raises(ConnectionRefusedError):
        pair.keep(pair.near.socket()).connect((pair.V4[1], 7))
    near, far = pair.connection(9001)
    far.send(b"never read")
    near.settimeout(10)
    near.recv(1, socket.MSG_PEEK)
    near.close()
    other, _ = pair.connection(9002)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    connect(pair, 7)
    with target(pair.near) as of:
        found = same_as_nstat(pair.near, of, OutRsts=3)
    assert found["snmp.Tcp.AttemptFails"] == 1
    assert found["TcpExt.TCPAbortOnClose"] == 1
    assert found["TcpExt.TCPAbortOnData"] == 1
    assert found["snmp.Tcp.EstabResets"] == 2
    assert found["snmp.Tcp.OutRsts"] == 3


@pytest.mark.real
@pytest.mark.parametrize(("cookies", "counter"), [("0", "TCPReqQFullDrop"), ("1", "TCPReqQFullDoCookies")])
def test_too_many_half_open_connections(pair: Pair, cookies: str, counter: str) -> None:
    pair.near.run("sysctl", "-qw", f"net.ipv4.tcp_syncookies={cookies}", "net.ipv4.tcp_max_syn_backlog=2")
    pair.drop(pair.near, "--sport", "8000")
    listener(pair, 8000, 2)
    connect(pair, 8000, times=10)
    with target(pair.near) as of:
        found = same_as_nstat(pair.near, of, **{counter: 1})
        assert (found["TcpExt.SyncookiesSent"] > 0) == (cookies == "1")


@pytest.mark.real
def test_syn_cookies(pair: Pair) -> None:
    pair.near.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
    listening = listener(pair, 8000, 10)
    (asked,) = connect(pair, 8000)
    listening.settimeout(10)
    listening.accept()[0].close()
    asked.close()
    # An acknowledgement of nothing, to the listening socket.
    segment = struct.pack(">HHIIBBHHH", 5000, 8000, 1, 1, 5 << 4, 0x10, 1000, 0, 0)
    sender = pair.keep(pair.far.inside(partial(socket.socket, V4, socket.SOCK_RAW, socket.IPPROTO_TCP)))
    pseudo = socket.inet_aton(pair.V4[1]) + socket.inet_aton(pair.V4[0]) + struct.pack(">HH", 6, len(segment))
    total = sum(struct.unpack(f">{(len(pseudo) + len(segment)) // 2}H", pseudo + segment))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    sender.sendto(segment[:16] + struct.pack(">H", checksum) + segment[18:], (pair.V4[0], 8000))
    with target(pair.near) as of:
        found = same_as_nstat(pair.near, of, SyncookiesFailed=1)
    assert (found["TcpExt.SyncookiesSent"], found["TcpExt.SyncookiesRecv"]) == (1, 1)


@pytest.mark.real
def test_datagrams_that_get_lost(pair: Pair) -> None:
    for family, address in ((V4, pair.V4[0]), (V6, pair.V6[0])):
        receiver = datagrams(pair, pair.near, family)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        receiver.bind((address, 5000))
        sender = datagrams(pair, pair.far, family)
        for _ in range(20):
            sender.sendto(bytes(1000), (address, 5000))
        sender.sendto(b"", (address, 5001))
        raw = pair.keep(pair.far.inside(partial(socket.socket, family, socket.SOCK_RAW, socket.IPPROTO_UDP)))
        if family == V6:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, -1)
        raw.sendto(struct.pack(">HHHH", 5002, 5002, 8, 0xBAD), (address, 0))
    with target(pair.near) as of:
        found = same_as_nstat(pair.near, of, RcvbufErrors=20, NoPorts=2, InCsumErrors=2)
        both = json.loads(pair.near.run("nstat", "-asz", "--json"))["kernel"]
        assert both["UdpRcvbufErrors"] > 0
        assert both["Udp6RcvbufErrors"] > 0
    assert found["snmp.Udp.InErrors"] == found["snmp.Udp.RcvbufErrors"] + 2
    assert (found["snmp.Udp.NoPorts"], found["snmp.Udp.InCsumErrors"]) == (2, 2)


@pytest.mark.real
def test_datagrams_that_cannot_be_sent(pair: Pair) -> None:
    shape = ("root", "tbf", "rate", "8kbit", "burst", "1500", "limit", "100000")
    pair.near.run("tc", "qdisc", "add", "dev", "eth0", *shape)
    for family, address in ((V4, pair.V4[1]), (V6, pair.V6[1])):
        sender = datagrams(pair, pair.near, family)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        sender.setblocking(False)  # noqa: FBT003  its only argument
        with suppress(BlockingIOError):
            for _ in range(100):
                sender.sendto(bytes(1000), (address, 5000))
    with target(pair.near) as of:
        assert same_as_nstat(pair.near, of)["snmp.Udp.SndbufErrors"] == 2


@pytest.mark.real
def test_no_privilege_is_needed(pair: Pair) -> None:
    pair.connection(9001)
    with target(pair.near) as of:
        expected = collect(TcpextCollector(), of)
        assert in_child(lambda: collect(TcpextCollector(), of), before=become_nobody) == str(expected)


@pytest.mark.real
def test_a_container_that_ended(box: Netns) -> None:
    collector = TcpextCollector()
    with target(box) as of:
        collect(collector, of)
        box.end()
        with pytest.raises(GoneError):
            collect(collector, of)


@pytest.mark.real
def test_a_container_that_ends_while_it_is_measured(box: Netns) -> None:
    with target(box) as of:
        read = of.process.read

        def end_after(name: str) -> bytes:
            content = read(name)
            if name == "net/snmp":
                box.end()
            return content

        of.process.read = end_after  # type: ignore[method-assign]
        with pytest.raises(GoneError):
            collect(TcpextCollector(), of)


def test_a_kernel_without_ipv6(tmp_path: Path) -> None:
    whole, without = captured(tmp_path / "a"), captured(tmp_path / "b", leave_out="snmp6")
    both, alone = collect(TcpextCollector(), whole), collect(TcpextCollector(), without)
    assert (alone["snmp.Udp.RcvbufErrors"], both["snmp.Udp.RcvbufErrors"]) == (19, 39)
    assert len(alone) == len(both) == 33
    for of in (whole, without):
        of.process.close()


def test_what_an_older_kernel_does_not_count_is_absent(tmp_path: Path) -> None:
    of = captured(tmp_path)
    net = tmp_path / "77/net"
    for name, field in (("netstat", b"TCPRcvQDrop"), ("snmp", b"InCsumErrors"), ("snmp", b"OutSegs")):
        lines = (net / name).read_bytes()
        (net / name).write_bytes(lines.replace(b" " + field, b" Other"))
    collector = TcpextCollector()
    collect(collector, of)
    found = collect(collector, of)
    missing = {metric for metric in collector.metrics if metric.name.removeprefix("container.") not in found}
    assert {metric.name for metric in missing} == {
        "container.TcpExt.TCPRcvQDrop",
        "container.snmp.Udp.InCsumErrors",
        "container.snmp.Tcp.OutSegs",
        "container.tcp.retrans.percent",
    }
    assert {collector.absent(metric, of) for metric in missing} == {"this kernel does not count it"}
    collector.forget(of)
    assert not any(collector.absent(metric, of) for metric in missing)
    of.process.close()


def test_counters_that_went_back_make_no_share(tmp_path: Path) -> None:
    of = captured(tmp_path)
    snmp = tmp_path / "77/net/snmp"
    collector = TcpextCollector()
    collect(collector, of)
    names = b"Tcp: RetransSegs OutSegs\n"
    rest = b"Udp: InErrors\nUdp: 0\n"
    shares = []
    for numbers in (b"Tcp: 0 0\n", b"Tcp: 5 15\n", b"Tcp: 5 16\n", b"Tcp: 2 117\n", b"Tcp: 5 16\n"):
        snmp.write_bytes(names + numbers + rest)
        shares.append(collect(collector, of).get("tcp.retrans.percent"))
    assert shares == [None, 25.0, 0.0, None, None]
    assert collector.absent(RETRANS_PERCENT, of) == "the counter went back"
    of.process.close()


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    of = captured(tmp_path)
    (tmp_path / "77/net/netstat").write_bytes(b"TcpExt: ListenDrops\n")
    with pytest.raises(ParseError, match="cannot parse net/netstat"):
        collect(TcpextCollector(), of)
    of.process.close()


def test_explain_sees_each_number_by_its_name(tmp_path: Path) -> None:
    of = captured(tmp_path)
    with recording() as seen:
        found = collect(TcpextCollector(), of)
    for metric in TcpextCollector.metrics:
        told = 0
        for source in metric.sources:
            lines = [
                line.decode()
                for path, content in seen
                if path.startswith(source.file)
                for line in content.splitlines()
            ]
            for key in source.keys:
                (line,) = [line for line in lines if line.startswith(f"{key} ")]
                told += int(line.removeprefix(key))
        if metric is not RETRANS_PERCENT:
            assert told == found[metric.name.removeprefix("container.")], metric.name
    of.process.close()
