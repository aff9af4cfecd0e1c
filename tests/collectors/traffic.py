"""A container's traffic, as the collector tells it and as the container counts it."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import socket
from typing import TYPE_CHECKING

from falcon_agent.procfs.net_dev import NetDev, parse_net_dev
from tests.namespaces.lab import Box, eventually, run

if TYPE_CHECKING:
    from falcon_agent.collectors.base import Target
    from falcon_agent.collectors.network import NetworkCollector

_numbers = itertools.count()
_HEADERS = 42
"""Of Ethernet, IPv4 and UDP."""


def host_name() -> str:
    """A name for the host's end of a veth that nobody else uses."""
    return f"fv{os.getpid()}x{next(_numbers)}"


def exists(name: str) -> bool:
    return name in {known for _, known in socket.if_nameindex()}


def collect(collector: NetworkCollector, *targets: Target) -> list[dict[tuple[str, ...], dict[str, float]]]:
    """For each target: by the values of the tags, the samples by name."""
    collector.begin(targets)
    answers = []
    for of in targets:
        found: dict[tuple[str, ...], dict[str, float]] = {}
        for metric, value, tags in collector.collect(of):
            found.setdefault(tuple(text for _, text in tags), {})[metric.name[17:]] = value
        answers.append(found)
    return answers


def as_samples(row: NetDev) -> dict[str, float]:
    """Bytes and packets as the container itself counts them."""
    return {
        "in.bytes": row.rx_bytes,
        "in.packets": row.rx_packets,
        "out.bytes": row.tx_bytes,
        "out.packets": row.tx_packets,
    }


def same_as_own(collector: NetworkCollector, box: Box, of: Target, *names: str) -> None:
    """What is collected becomes what net/dev inside says: the kernel itself sends a packet now and then."""

    def same() -> bool:
        before = parse_net_dev(box.read("net/dev"))
        (found,) = collect(collector, of)
        if set(found) != {(name,) for name in names}:
            return False
        return all(found[name,].items() >= as_samples(before[name]).items() for name in names)

    eventually(same, f"{collect(collector, of)} and {box.read('net/dev')!r} agree on {names}")


def hosts_counters(name: str) -> dict[str, float]:
    """What `ip -s link` says of the host's end of a veth, as the container would count it."""
    (link,) = json.loads(run("ip", "-s", "-json", "link", "show", "dev", name))
    rx, tx = link["stats64"]["rx"], link["stats64"]["tx"]
    return {
        "in.bytes": tx["bytes"],
        "in.packets": tx["packets"],
        "out.bytes": rx["bytes"],
        "out.packets": rx["packets"],
    }


def both_ends_agree(collector: NetworkCollector, box: Box, of: Target, *names: str) -> None:
    """Exactly these interfaces are there, all mapped, and the collector, `ip -s link` and net/dev inside become
    one: the kernel itself sends a packet now and then."""

    def agree() -> bool:
        (found,) = collect(collector, of)
        hosts = collector.veths(of)
        if set(found) != {(name,) for name in names} or set(hosts) != set(names):
            return False
        own = parse_net_dev(box.read("net/dev"))
        return all(
            found[name,].items() >= as_samples(own[name]).items() == hosts_counters(hosts[name]).items()
            for name in names
        )

    eventually(agree, f"{collect(collector, of)}, {collector.veths(of)} and {box.read('net/dev')!r} agree")
    assert collector.unmapped(of) == {}


def counts_exactly(collector: NetworkCollector, box: Box, of: Target, name: str) -> None:
    """Ten datagrams that the container broadcasts are ten packets of 1042 bytes out; needs a silent IPv6.

    Its kernel may still answer an ARP request meanwhile, but not every time.
    """
    address = broadcast_address(box, name)
    grown: list[tuple[float, float]] = []

    def ten() -> bool:
        (before,) = collect(collector, of)
        send(box, 10, address)
        (after,) = collect(collector, of)
        packets, size = (after[name,][what] - before[name,][what] for what in ("out.packets", "out.bytes"))
        grown.append((packets, size))
        return (packets, size) == (10, 10 * (1000 + _HEADERS))

    assert any(ten() for _ in range(5)), grown


def broadcast_address(box: Box, name: str) -> str:
    (link,) = json.loads(box.run("ip", "-4", "-json", "address", "show", "dev", name))
    (address,) = link["addr_info"]
    return str(ipaddress.ip_interface(f"{address['local']}/{address['prefixlen']}").network.broadcast_address)


def send(box: Box, count: int, address: str) -> None:
    """Send datagrams of 1000 bytes out of the container, to whoever is (not) there."""
    with box.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(count):
            sender.sendto(bytes(1000), (address, 9))


def with_address(box: Box, name: str, address: str) -> None:
    box.run("ip", "address", "add", f"{address}/24", "broadcast", "+", "dev", name)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
