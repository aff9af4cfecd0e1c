"""Every way in which a container gets its interfaces: each mapped, or named with the reason why not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors.network import NetworkCollector
from falcon_agent.collectors.runner import namespace_owners
from tests.collectors.traffic import (
    Clock,
    both_ends_agree,
    collect,
    counts_exactly,
    host_name,
    same_as_own,
    with_address,
)
from tests.namespaces.lab import Box, Netns, inside, netns, run, target, veth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.engine import Engine

pytestmark = pytest.mark.real

ONLY_LOOPBACK = "it has no network interface but loopback"


@pytest.fixture
def home() -> Iterator[Netns]:
    """A host of the test's own, for bridges that need a name."""
    with netns() as made:
        yield made


@pytest.fixture
def box() -> Iterator[Netns]:
    """A container whose IPv6 says nothing by itself, so that its bytes can be counted."""
    with netns() as made:
        made.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        yield made


# Docker's own


@contextmanager
def on_network(engine: Engine, *options: str) -> Iterator[str]:
    """A user-defined network, by name."""
    name = host_name()
    engine.cli("network", "create", *options, name)
    try:
        yield name
    finally:
        engine.cli("network", "rm", name)


def mapped_and_exact(engine: Engine, container: str, *names: str) -> dict[str, str]:
    """Check it where the engine's veths are; the map."""
    box = Box(engine.pid(container))
    collector = NetworkCollector()

    def look() -> dict[str, str]:
        with target(box) as of:
            both_ends_agree(collector, box, of, *names)
            for name in names:
                counts_exactly(collector, box, of, name)
            both_ends_agree(collector, box, of, *names)
            return collector.veths(of)

    return inside(str(engine.netns), look)


def test_docker_bridge(docker_engine: Engine) -> None:
    with docker_engine.container() as container:
        found = mapped_and_exact(docker_engine, container, "eth0")
    assert found["eth0"].startswith("veth")


def test_docker_user_network(docker_engine: Engine) -> None:
    with (
        on_network(docker_engine) as network,
        docker_engine.container("--network", network) as container,
    ):
        mapped_and_exact(docker_engine, container, "eth0")


def test_docker_several_networks(docker_engine: Engine) -> None:
    with (
        on_network(docker_engine) as first,
        on_network(docker_engine) as second,
        docker_engine.container() as container,
    ):
        docker_engine.cli("network", "connect", first, container)
        docker_engine.cli("network", "connect", second, container)
        found = mapped_and_exact(docker_engine, container, "eth0", "eth1", "eth2")
        assert len(set(found.values())) == 3
        docker_engine.rm(container)


def test_docker_network_none(docker_engine: Engine) -> None:
    with docker_engine.container("--network", "none") as container:
        collector = NetworkCollector()

        def look() -> None:
            with target(Box(docker_engine.pid(container))) as of:
                assert collect(collector, of) == [{}]
                assert collector.absent(collector.metrics[0], of) == ONLY_LOOPBACK
                assert (collector.veths(of), collector.unmapped(of)) == ({}, {})

        inside(str(docker_engine.netns), look)


def test_docker_network_host(docker_engine: Engine) -> None:
    with docker_engine.container("--network", "host") as container:
        box = Box(docker_engine.pid(container))
        assert box.inode == docker_engine.netns.stat().st_ino
        with target(box, host_network=True) as of:
            assert namespace_owners([of]) == []
            collector = NetworkCollector()
            collector.begin([])
            assert (collector.veths(of), collector.unmapped(of)) == ({}, {})


def test_docker_network_of_another_container(docker_engine: Engine) -> None:
    with (
        docker_engine.container() as owner,
        docker_engine.container("--network", f"container:{owner}") as joined,
    ):
        boxes = [Box(docker_engine.pid(one)) for one in (owner, joined)]
        assert boxes[0].inode == boxes[1].inode
        with target(boxes[0], "owner") as first, target(boxes[1], "joined", network_of="owner") as second:
            assert namespace_owners([second, first]) == [first]
            collector = NetworkCollector()

            def look() -> None:
                both_ends_agree(collector, boxes[0], first, "eth0")
                assert (collector.veths(second), collector.unmapped(second)) == ({}, {})

            inside(str(docker_engine.netns), look)


def test_docker_macvlan_network(docker_engine: Engine) -> None:
    parent = host_name()
    run(
        *docker_engine.nsenter_argv("ip", "link", "add", parent, "type", "veth", "peer", "name", f"{parent}p")
    )
    run(*docker_engine.nsenter_argv("ip", "link", "set", parent, "up"))
    try:
        with (
            on_network(docker_engine, "--driver", "macvlan", "--opt", f"parent={parent}") as network,
            docker_engine.container("--network", network) as container,
        ):
            collector = NetworkCollector()
            box = Box(docker_engine.pid(container))
            with target(box) as of:
                inside(str(docker_engine.netns), lambda: same_as_own(collector, box, of, "eth0"))
                assert collector.veths(of) == {}
                assert "has its other end there" in collector.unmapped(of)["eth0"]
    finally:
        run(*docker_engine.nsenter_argv("ip", "link", "delete", parent))


def test_docker_connect_and_disconnect_are_seen_in_the_next_cycle(docker_engine: Engine) -> None:
    collector = NetworkCollector(clock=Clock())
    with on_network(docker_engine) as network, docker_engine.container() as container:
        box = Box(docker_engine.pid(container))
        with target(box) as of:

            def look() -> set[tuple[str, ...]]:
                (found,) = collect(collector, of)
                assert {(name,) for name in collector.veths(of)} == set(found)
                return set(found)

            seen = [inside(str(docker_engine.netns), look)]
            docker_engine.cli("network", "connect", network, container)
            seen.append(inside(str(docker_engine.netns), look))
            docker_engine.cli("network", "disconnect", "bridge", container)
            seen.append(inside(str(docker_engine.netns), look))
            assert collector.absent(collector.metrics[0], of) is None
            docker_engine.cli("network", "disconnect", network, container)
            seen.append(inside(str(docker_engine.netns), look))
            assert seen == [{("eth0",)}, {("eth0",), ("eth1",)}, {("eth1",)}, set()]
            assert collector.absent(collector.metrics[0], of) == ONLY_LOOPBACK


# Kubernetes' and others', by the plugins that make them


def cni(home: Netns, box: Netns, name: str, kind: str, subnet: str, directory: Path, **more: object) -> None:
    """Let a CNI plugin attach the container, as a container runtime does (CNI specification, ADD)."""
    ipam = {"type": "host-local", "dataDir": str(directory), "ranges": [[{"subnet": subnet}]]}
    configuration = {"cniVersion": "0.4.0", "name": host_name(), "type": kind, "ipam": ipam} | more
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{home.pid}/ns/net", f"/usr/lib/cni/{kind}"],
        input=json.dumps(configuration).encode(),
        env={
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": host_name(),
            "CNI_NETNS": f"/proc/{box.pid}/ns/net",
            "CNI_IFNAME": name,
            "CNI_PATH": "/usr/lib/cni",
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_cni_bridge_and_ptp(home: Netns, box: Netns, tmp_path: Path) -> None:
    cni(home, box, "eth0", "bridge", "10.77.0.0/24", tmp_path, bridge="cni0", isGateway=True)
    cni(home, box, "net1", "ptp", "10.78.0.0/24", tmp_path)
    collector = NetworkCollector()

    def look() -> None:
        with target(box) as of:
            both_ends_agree(collector, box, of, "eth0", "net1")
            counts_exactly(collector, box, of, "eth0")
            counts_exactly(collector, box, of, "net1")
            both_ends_agree(collector, box, of, "eth0", "net1")

    home.inside(look)


# What no runtime makes by itself


def test_a_veth_whose_hosts_end_is_in_a_bridge(home: Netns, box: Netns) -> None:
    veth("v0", box, "eth0", home)
    home.run("ip", "link", "add", "br0", "type", "bridge")
    home.run("ip", "link", "set", "v0", "master", "br0")
    with_address(box, "eth0", "10.232.0.2")
    collector = NetworkCollector()
    with target(box) as of:
        home.inside(lambda: both_ends_agree(collector, box, of, "eth0"))
        home.inside(lambda: counts_exactly(collector, box, of, "eth0"))
        assert collector.veths(of) == {"eth0": "v0"}


def test_a_veth_whose_hosts_end_moved_away(home: Netns, box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    collector = NetworkCollector(clock=Clock())
    with target(box) as of:
        both_ends_agree(collector, box, of, "eth0")
        run("ip", "link", "set", name, "netns", str(home.pid))
        home.run("ip", "link", "set", name, "up")
        same_as_own(collector, box, of, "eth0")
        assert collector.veths(of) == {}
        assert "another namespace" in collector.unmapped(of)["eth0"]


def test_an_interface_of_another_kind_is_read_inside(box: Netns) -> None:
    name = host_name()
    veth(host_name(), box, "eth0")
    run("ip", "link", "add", name, "type", "ifb")
    run("ip", "link", "set", name, "netns", str(box.pid))
    box.run("ip", "tuntap", "add", "tap0", "mode", "tap")
    collector = NetworkCollector()
    with target(box) as of:
        same_as_own(collector, box, of, "eth0", name, "tap0")
        assert list(collector.veths(of)) == ["eth0"]
        reasons = collector.unmapped(of)
        assert set(reasons) == {name, "tap0"}
        assert all("no veth of this host" in reason for reason in reasons.values())


def test_an_interface_that_is_down_is_mapped_all_the_same(box: Netns) -> None:
    box.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0")
    name = host_name()
    veth(name, box, "eth0")
    box.run("ip", "link", "set", "eth0", "down")
    assert b"eth0" not in box.read("net/igmp")
    collector = NetworkCollector()
    with target(box) as of:
        both_ends_agree(collector, box, of, "eth0")
        assert collector.veths(of) == {"eth0": name}


def test_an_interface_with_ipv6_alone_is_mapped(box: Netns) -> None:
    box.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0")
    veth(host_name(), box, "eth0")
    box.run("ip", "-6", "address", "add", "fd00:232::2/64", "dev", "eth0")
    collector = NetworkCollector()
    with target(box) as of:
        both_ends_agree(collector, box, of, "eth0")


def test_an_interface_whose_index_shows_nowhere_is_named(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    veth(host_name(), box, "eth1")
    box.run("ip", "link", "set", "eth1", "down", "mtu", "1000")  # too small for IPv6
    collector = NetworkCollector()
    with target(box) as of:
        same_as_own(collector, box, of, "eth0", "eth1")
        assert list(collector.veths(of)) == ["eth0"]
        assert "index is not known" in collector.unmapped(of)["eth1"]


def test_a_container_that_fills_net_igmp_is_mapped_all_the_same(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    with_address(box, "eth0", "10.232.0.2")
    box.run("sysctl", "-qw", "net.ipv4.igmp_max_memberships=2000")
    index = box.inside(lambda: socket.if_nametoindex("eth0"))
    with ExitStack() as stack:
        groups = 0
        while len(box.read("net/igmp")) <= 1024 * 1024:
            member = stack.enter_context(box.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            for _ in range(400):  # more need a larger net.core.optmem_max than kernels had before 6.7
                groups += 1
                group = bytes((239, groups >> 16 & 255, groups >> 8 & 255, groups & 255))
                request = group + bytes(4) + index.to_bytes(4, "little")
                member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        collector = NetworkCollector()
        with target(box) as of:
            collect(collector, of)
            assert list(collector.veths(of)) == ["eth0"]
