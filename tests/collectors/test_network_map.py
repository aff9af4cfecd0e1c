from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors import network, vethmap
from falcon_agent.collectors.network import NetworkCollector
from falcon_agent.netlink.rtnetlink import Link, links
from tests.collectors.traffic import Clock, collect, host_name, same_as_own, send, with_address
from tests.namespaces.lab import (
    Netns,
    netns,
    run,
    target,
    veth,
    without_capability,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CAP_NET_BROADCAST = 11


@pytest.fixture
def box() -> Iterator[Netns]:
    with netns() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Netns]:
    with netns() as made:
        yield made


@pytest.fixture
def home() -> Iterator[Netns]:
    """A host of the test's own: the machine's list of interfaces may change by itself, and be read again for that."""
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
def test_where_the_host_s_end_has_no_counters_the_container_s_own_are_read(
    box: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    veth(host_name(), box, "eth0")
    collector = NetworkCollector()
    with target(box) as of:
        (before,) = collect(collector, of)
        # As if the veth had come between the two questions; the kernel cannot be made to do so.
        monkeypatch.setattr(network, "link_stats", dict)
        (after,) = collect(collector, of)
        assert collector.veths(of)
        assert after.keys() == before.keys()
        assert after["eth0",]["in.bytes"] >= before["eth0",]["in.bytes"]


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


def rename(box: Netns, old: str, new: str) -> None:
    box.run("ip", "link", "set", old, "name", new)


def renamable(host: str, container: Netns, name: str, peer: Netns | None = None) -> None:
    """A veth pair that is down, as it has to be to get a new name before Linux 6.2."""
    veth(host, container, name, peer)
    container.run("ip", "link", "set", name, "down")
    if peer is not None:
        peer.run("ip", "link", "set", host, "down")


@pytest.mark.real
def test_a_renamed_interface_is_known_by_its_new_name_in_the_next_cycle(box: Netns) -> None:
    name = host_name()
    renamable(name, box, "eth0")
    collector = NetworkCollector(clock=Clock())
    with target(box) as of:
        assert set(collect(collector, of)[0]) == {("eth0",)}
        rename(box, "eth0", "lan0")
        assert set(collect(collector, of)[0]) == {("lan0",)}
        assert collector.veths(of) == {"lan0": name}


@pytest.mark.real
def test_a_hosts_end_that_is_renamed_is_known_by_its_new_name_in_the_next_cycle(
    box: Netns, home: Netns
) -> None:
    collector = NetworkCollector(veth_tag=True, clock=Clock())
    with target(box) as of:
        renamable("v0", box, "eth0", home)
        assert set(home.inside(lambda: collect(collector, of))[0]) == {("eth0", "v0")}
        rename(home, "v0", "w0")
        assert set(home.inside(lambda: collect(collector, of))[0]) == {("eth0", "w0")}


@pytest.mark.real
def test_two_interfaces_that_swap_names_swap_their_counters(box: Netns) -> None:
    first, second = host_name(), host_name()
    renamable(first, box, "eth0")
    renamable(second, box, "eth1")
    collector = NetworkCollector(clock=Clock())
    with target(box) as of:
        collect(collector, of)
        assert collector.veths(of) == {"eth0": first, "eth1": second}
        for old, new in (("eth0", "spare"), ("eth1", "eth0"), ("spare", "eth1")):
            rename(box, old, new)
        collect(collector, of)
        assert collector.veths(of) == {"eth0": second, "eth1": first}


@pytest.mark.real
def test_a_renamed_interface_is_known_in_the_end_without_the_privilege(box: Netns, home: Netns) -> None:
    clock = Clock()
    renamable("v0", box, "eth0", home)
    collector = NetworkCollector(clock=clock)

    def look() -> None:
        with target(box) as of:
            assert set(collect(collector, of)[0]) == {("eth0",)}
            rename(box, "eth0", "lan0")
            assert set(collect(collector, of)[0]) == {("eth0",)}
            clock.now += 600
            assert set(collect(collector, of)[0]) == {("lan0",)}

    home.inside(lambda: without_capability(CAP_NET_BROADCAST, look))


def move(name: str, box: Netns, other: Netns) -> None:
    box.run("ip", "link", "set", name, "netns", str(other.pid))
    other.run("ip", "link", "set", name, "up")


@pytest.mark.real
def test_a_veth_that_moved_to_another_container_is_the_others_in_the_next_cycle(
    box: Netns, other: Netns
) -> None:
    name = host_name()
    veth(name, box, "eth0")
    collector = NetworkCollector(clock=Clock())
    with target(box, "a") as a, target(other, "b") as b:
        first = collect(collector, a, b)
        assert [list(found) for found in first] == [[("eth0",)], []]
        move("eth0", box, other)
        second = collect(collector, a, b)
        assert [list(found) for found in second] == [[], [("eth0",)]]
        assert (collector.veths(a), collector.veths(b)) == ({}, {"eth0": name})


@pytest.mark.real
def test_a_veth_that_moved_is_the_others_within_a_minute_without_the_privilege(
    box: Netns, other: Netns
) -> None:
    clock = Clock()
    name = host_name()
    veth(name, box, "eth0")
    collector = NetworkCollector(clock=clock)

    def look() -> None:
        with target(box, "a") as a, target(other, "b") as b:
            collect(collector, a, b)
            assert (collector.veths(a), collector.veths(b)) == ({"eth0": name}, {})
            move("eth0", box, other)
            clock.now += 60
            collect(collector, a, b)
            assert (collector.veths(a), collector.veths(b)) == ({}, {"eth0": name})

    without_capability(CAP_NET_BROADCAST, look)


@pytest.mark.real
def test_an_interface_made_inside_is_seen_in_the_next_cycle(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    collector = NetworkCollector(clock=Clock())
    with target(box) as of:
        assert set(collect(collector, of)[0]) == {("eth0",)}
        box.run("ip", "link", "add", "br0", "type", "bridge")
        assert set(collect(collector, of)[0]) == {("eth0",), ("br0",)}
        assert list(collector.unmapped(of)) == ["br0"]


@pytest.mark.real
def test_an_interface_made_where_no_veth_leads_is_seen_at_once(box: Netns) -> None:
    collector = NetworkCollector(clock=Clock())
    with target(box) as of:
        assert collect(collector, of) == [{}]
        box.run("ip", "link", "add", "br0", "type", "bridge")
        assert set(collect(collector, of)[0]) == {("br0",)}
        collect(collector, of)
        assert list(collector.unmapped(of)) == ["br0"]


@pytest.mark.real
def test_a_container_that_floods_events_delays_nobody(box: Netns, other: Netns) -> None:
    veth(host_name(), box, "eth0")
    renamable(host_name(), other, "eth0")
    flood = "".join(f"link set lo mtu {1500 + n % 2}\n" for n in range(2000))
    collector = NetworkCollector(clock=Clock())
    with target(box, "a") as a, target(other, "b") as b:
        collect(collector, a, b)
        box.run("sh", "-c", f"ip -batch - <<'END'\n{flood}END")
        rename(other, "eth0", "lan0")
        assert set(collect(collector, a, b)[1]) == {("lan0",)}


@pytest.mark.real
def test_when_events_can_no_more_be_read_age_decides_again(box: Netns, home: Netns) -> None:
    clock = Clock()
    renamable("v0", box, "eth0", home)
    collector = NetworkCollector(clock=clock)

    def look() -> None:
        with target(box) as of:
            collect(collector, of)
            assert collector._map._events is not None
            rename(box, "eth0", "lan0")
            collector._map._events.close()
            # What was not heard may have been anything.
            assert set(collect(collector, of)[0]) == {("lan0",)}
            rename(box, "lan0", "wan0")
            assert set(collect(collector, of)[0]) == {("lan0",)}
            clock.now += 600
            assert set(collect(collector, of)[0]) == {("wan0",)}

    home.inside(look)


@pytest.mark.real
def test_the_map_is_only_made_when_something_changed(
    box: Netns, home: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted() -> list[Link]:
        made.append(1)
        return links()

    monkeypatch.setattr(vethmap, "links", counted)
    clock = Clock()
    renamable("v0", box, "eth0", home)
    collector = NetworkCollector(clock=clock)

    def look() -> None:
        with target(box) as of:
            for _ in range(10):
                collect(collector, of)
            # What the kernel says of a link that has just gone down may come a little later.
            assert 1 <= len(made) < 5
            collector.forget(of)
            assert collector.veths(of) == {}
            collect(collector, of)
            assert collector.veths(of) != {}

    home.inside(look)


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
