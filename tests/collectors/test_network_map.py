from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors import network
from falcon_agent.collectors.network import NetworkCollector
from falcon_agent.netlink.rtnetlink import Link, links
from tests.collectors.traffic import Clock, collect, host_name, same_as_own, send, with_address
from tests.namespaces.lab import (
    Netns,
    netns,
    run,
    target,
    veth,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def box() -> Iterator[Netns]:
    with netns() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Netns]:
    with netns() as made:
        yield made


@pytest.mark.real
def test_the_same_index_in_two_containers_is_not_confused(box: Netns, other: Netns) -> None:
    names = [host_name(), host_name()]
    for name, container in zip(names, (box, other), strict=True):
        veth(name, container, "eth0")
        with_address(container, "eth0", "10.232.0.2")
    assert box.inside(lambda: socket.if_nametoindex("eth0")) == other.inside(
        lambda: socket.if_nametoindex("eth0")
    )
    collector = NetworkCollector()
    with target(box, "a") as a, target(other, "b") as b:
        before = collect(collector, a, b)
        send(box, 10, "10.232.0.255")
        after = collect(collector, a, b)
        grown = [
            now["eth0",]["out.bytes"] - then["eth0",]["out.bytes"]
            for now, then in zip(after, before, strict=True)
        ]
        assert grown[0] >= 10420
        assert grown[1] < 10420
        assert (collector.veths(a), collector.veths(b)) == ({"eth0": names[0]}, {"eth0": names[1]})
        same_as_own(collector, other, b, "eth0")


@pytest.mark.real
def test_two_veths_each_with_its_own_name_on_the_host(box: Netns) -> None:
    first, second = host_name(), host_name()
    veth(first, box, "eth0")
    veth(second, box, "eth1")
    with_address(box, "eth1", "10.232.0.2")
    send(box, 3, "10.232.0.255")
    plain, tagged = NetworkCollector(), NetworkCollector(veth_tag=True)
    with target(box) as of:
        same_as_own(plain, box, of, "eth0", "eth1")
        assert plain.veths(of) == {"eth0": first, "eth1": second}
        assert plain.unmapped(of) == {}
        assert set(collect(tagged, of)[0]) == {("eth0", first), ("eth1", second)}


@pytest.mark.real
def test_a_macvlan_has_no_veth_and_is_read_inside(box: Netns) -> None:
    parent = host_name()
    veth(host_name(), box, "eth0")
    run("ip", "link", "add", parent, "type", "veth", "peer", "name", f"{parent}p")
    try:
        run("ip", "link", "set", parent, "up")
        run("ip", "link", "add", "mac0", "link", parent, "netns", str(box.pid), "type", "macvlan")
        box.run("ip", "link", "set", "mac0", "up")
        with_address(box, "mac0", "10.233.0.2")
        send(box, 3, "10.233.0.255")
        collector = NetworkCollector()
        with target(box) as of:
            same_as_own(collector, box, of, "eth0", "mac0")
            assert list(collector.veths(of)) == ["eth0"]
            assert "macvlan" in collector.unmapped(of)["mac0"]
            (tagged,) = collect(NetworkCollector(veth_tag=True), of)
            assert ("mac0",) in tagged
    finally:
        run("ip", "link", "delete", parent)


@pytest.mark.real
def test_a_macvlan_that_a_container_gave_to_the_host_is_not_its_veth(box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    given = ("link", "eth0", "netns", str(os.getpid()), "type", "macvlan")
    box.run("ip", "link", "add", f"{name}m", *given)
    collector = NetworkCollector()
    with target(box) as of:
        same_as_own(collector, box, of, "eth0")
        assert collector.veths(of) == {"eth0": name}


@pytest.mark.real
def test_a_veth_between_two_containers_is_read_inside(box: Netns, other: Netns) -> None:
    veth("eth0", box, "eth0", other)
    collector = NetworkCollector()
    with target(box) as of, target(other, "other") as second:
        same_as_own(collector, box, of, "eth0")
        assert collector.veths(of) == {}
        assert "no veth of this host" in collector.unmapped(of)["eth0"]
        same_as_own(collector, other, second, "eth0")


@pytest.mark.real
def test_an_interface_that_is_down_is_read_inside(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    box.run("ip", "link", "set", "eth0", "down")
    collector = NetworkCollector()
    with target(box) as of:
        same_as_own(collector, box, of, "eth0")
        assert "down" in collector.unmapped(of)["eth0"]


@pytest.mark.real
def test_a_veth_that_comes_and_goes_while_running(box: Netns) -> None:
    first, second = host_name(), host_name()
    veth(first, box, "eth0")
    collector = NetworkCollector(clock=Clock())
    with target(box) as of:
        assert set(collect(collector, of)[0]) == {("eth0",)}
        veth(second, box, "eth1")
        assert set(collect(collector, of)[0]) == {("eth0",), ("eth1",)}
        assert collector.veths(of) == {"eth0": first, "eth1": second}
        run("ip", "link", "delete", first)
        assert set(collect(collector, of)[0]) == {("eth1",)}


@pytest.mark.real
def test_a_renamed_interface_is_known_by_its_new_name_in_the_end(box: Netns) -> None:
    clock = Clock()
    veth(host_name(), box, "eth0")
    collector = NetworkCollector(clock=clock)
    with target(box) as of:
        assert set(collect(collector, of)[0]) == {("eth0",)}
        box.run("ip", "link", "set", "eth0", "down")
        box.run("ip", "link", "set", "eth0", "name", "lan0")
        box.run("ip", "link", "set", "lan0", "up")
        clock.now += 600
        same_as_own(collector, box, of, "lan0")
        assert list(collector.veths(of)) == ["lan0"]


@pytest.mark.real
def test_a_veth_that_moved_to_another_container_is_the_others_within_a_minute(
    box: Netns, other: Netns
) -> None:
    clock = Clock()
    name = host_name()
    veth(name, box, "eth0")
    collector = NetworkCollector(clock=clock)
    with target(box, "a") as a, target(other, "b") as b:
        first = collect(collector, a, b)
        assert [list(found) for found in first] == [[("eth0",)], []]
        box.run("ip", "link", "set", "eth0", "netns", str(other.pid))
        other.run("ip", "link", "set", "eth0", "up")
        clock.now += 60
        second = collect(collector, a, b)
        assert [list(found) for found in second] == [[], [("eth0",)]]
        assert (collector.veths(a), collector.veths(b)) == ({}, {"eth0": name})


@pytest.mark.real
def test_the_map_is_only_made_when_something_changed(box: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted() -> list[Link]:
        made.append(1)
        return links()

    monkeypatch.setattr(network, "links", counted)
    clock = Clock()
    veth(host_name(), box, "eth0")
    collector = NetworkCollector(clock=clock)
    with target(box) as of:
        for _ in range(5):
            collect(collector, of)
        # Whatever else happens on the host may change its interfaces once or twice.
        assert 1 <= len(made) < 5
        collector.forget(of)
        assert collector.veths(of) == {}
        collect(collector, of)
        assert collector.veths(of) != {}


@pytest.mark.real
def test_pids_of_another_proc_are_never_asked_for(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    collector = NetworkCollector("/nonexistent")
    with target(box) as of:
        same_as_own(collector, box, of, "eth0")
        assert "pid namespace" in collector.unmapped(of)[""]


@pytest.mark.real
def test_many_containers_at_once() -> None:
    with ExitStack() as stack:
        boxes = [stack.enter_context(netns()) for _ in range(8)]
        names = [host_name() for _ in boxes]
        for name, container in zip(names, boxes, strict=True):
            veth(name, container, "eth0")
        targets = [stack.enter_context(target(c, str(n))) for n, c in enumerate(boxes)]
        collector = NetworkCollector()
        collect(collector, *targets)
        assert [collector.veths(of) for of in targets] == [{"eth0": name} for name in names]
