from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors import network
from falcon_agent.collectors.network import NetworkCollector
from falcon_agent.collectors.vethmap import MAX_INTERFACES
from falcon_agent.errors import GoneError, KernelFileError
from falcon_agent.kernelfile import recording
from tests.collectors.traffic import Clock, collect, exists, host_name, same_as_own, send, with_address
from tests.namespaces.lab import (
    Netns,
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

    from falcon_agent.netlink.rtnetlink import LinkStats


@pytest.fixture
def box() -> Iterator[Netns]:
    with netns() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Netns]:
    with netns() as made:
        yield made


def no_netlink() -> dict[int, LinkStats]:
    raise KernelFileError("RTM_GETSTATS", "Operation not supported")


def test_every_metric_says_what_it_is() -> None:
    names = [metric.name for metric in NetworkCollector.metrics]
    assert len(set(names)) == 8
    for metric in NetworkCollector.metrics:
        assert metric.name.startswith("container.net.if.")
        assert metric.counter_type == "COUNTER"
        assert metric.unit == ("bytes" if metric.name.endswith("bytes") else "packets")
        assert "iface" in metric.tags
        assert not metric.needs


@pytest.mark.real
def test_in_and_out_are_as_the_container_sees_them(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    with_address(box, "eth0", "10.232.0.2")
    collector = NetworkCollector()
    with target(box) as of:
        (before,) = collect(collector, of)
        # More than the kernels of both ends say to each other about IPv6.
        send(box, 100, "10.232.0.255")
        (after,) = collect(collector, of)
        grown = {name: after["eth0",][name] - before["eth0",][name] for name in after["eth0",]}
        assert grown["out.bytes"] >= 100 * 1042
        assert grown["out.packets"] >= 100
        assert grown["in.bytes"] < 100 * 1042
        assert grown["in.packets"] < 100
        assert len(after["eth0",]) == 8
        same_as_own(collector, box, of, "eth0")


@pytest.mark.real
def test_loopback_and_fallback_tunnels_are_left_out(box: Netns) -> None:
    veth(host_name(), box, "tunl0")
    collector = NetworkCollector()
    with target(box) as of:
        assert collect(collector, of) == [{}]
        reason = collector.absent(collector.metrics[0], of)
        assert reason == "it has no network interface but loopback"
        veth(host_name(), box, "eth0")
        assert list(collect(collector, of)[0]) == [("eth0",)]
        assert collector.absent(collector.metrics[0], of) is None


@pytest.mark.real
def test_a_container_that_ends_between_begin_and_collect(box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    collector = NetworkCollector()
    with target(box) as of:
        collect(collector, of)
        collector.begin([of])
        box.end()
        # The host's counters were read while it lived.
        assert {tags for _, _, tags in collector.collect(of)} == {(("iface", "eth0"),)}
        eventually(lambda: not exists(name), "a veth that vanished")
        collector.begin([of])
        with pytest.raises(GoneError):
            list(collector.collect(of))


@pytest.mark.real
def test_a_dead_container_is_not_held(box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    collector = NetworkCollector()
    with target(box) as of:
        assert collect(collector, of)[0]
        box.end()
        eventually(lambda: not exists(name), "a veth that vanished")


@pytest.mark.real
def test_without_netlink_everything_is_read_inside(
    box: Netns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    veth(host_name(), box, "eth0")
    collector = NetworkCollector()
    with target(box) as of, caplog.at_level(logging.WARNING):
        same_as_own(collector, box, of, "eth0")
        with monkeypatch.context() as patched:
            patched.setattr(network, "link_stats", no_netlink)
            for _ in range(3):
                same_as_own(collector, box, of, "eth0")
            assert collector.veths(of) == {}
            assert "Operation not supported" in collector.unmapped(of)[""]
            # Nobody asks which veths these have.
            with target(box, "h", host_network=True) as host, target(box, "j", network_of="c") as joined:
                assert (collector.unmapped(host), collector.unmapped(joined)) == ({}, {})
            assert len(caplog.records) == 1
        same_as_own(collector, box, of, "eth0")
        assert collector.veths(of)
        assert collector.unmapped(of) == {}


@pytest.mark.real
def test_no_privilege_is_needed(box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    with target(box) as of:

        def look() -> tuple[list[str], dict[str, str]]:
            collector = NetworkCollector()
            (found,) = collect(collector, of)
            return sorted(found["eth0",]), collector.veths(of)

        answer = in_child(look, before=become_nobody)
        assert answer == str((sorted(m.name[17:] for m in NetworkCollector.metrics), {"eth0": name}))


@pytest.mark.real
def test_a_container_cannot_make_records_without_end(box: Netns) -> None:
    commands = "".join(f"link add va{n} type veth peer name vb{n}\n" for n in range(50))
    veth(host_name(), box, "eth0")
    box.run("sh", "-c", f"ip -batch - <<'END'\n{commands}END")
    collector = NetworkCollector()
    with target(box) as of:
        (found,) = collect(collector, of)
        assert len(found) == MAX_INTERFACES
        assert ("eth0",) in found
        assert "only 64" in collector.unmapped(of)[""]
        assert len(collector.veths(of) | collector.unmapped(of)) == MAX_INTERFACES + 1


@pytest.mark.real
def test_explain_sees_the_counters_that_were_used(box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    with target(box) as of, recording() as seen:
        (found,) = collect(NetworkCollector(), of)
    reads = dict(seen)
    index = socket.if_nametoindex(name)
    counters = dict(
        line.split() for line in reads[f"RTM_GETSTATS {name} (ifindex {index})"].decode().splitlines()
    )
    assert int(counters["tx_bytes"]) == found["eth0",]["in.bytes"]
    assert b"link_netnsid" in reads[f"RTM_GETLINK {name}"]
    for metric in NetworkCollector.metrics:
        assert {key for source in metric.sources for key in source.keys} <= counters.keys()


@pytest.mark.real
def test_a_thousand_cycles_leave_nothing_open(box: Netns) -> None:
    clock = Clock()
    veth(host_name(), box, "eth0")
    collector = NetworkCollector(clock=clock)
    with target(box) as of:
        collect(collector, of)
        before = open_descriptors()
        for _ in range(1000):
            clock.now += 30
            collect(collector, of)
        assert open_descriptors() <= before
