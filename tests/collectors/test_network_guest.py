"""Interfaces of kinds that not every kernel has: run in a guest machine whose kernel has them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors.network import NetworkCollector
from tests.collectors.traffic import collect, same_as_own, send, with_address
from tests.namespaces.lab import netns, target, veth

if TYPE_CHECKING:
    from tests.namespaces.lab import Netns

pytestmark = pytest.mark.guest


def kernel_has(home: Netns, kind: str) -> bool:
    """Whether the kernel can make an interface of this kind on top of another."""
    attempt = ["ip", "link", "add", "probe", "link", "parent", "type", kind]
    enter = ["nsenter", f"--net=/proc/{home.pid}/ns/net"]
    if subprocess.run([*enter, *attempt], check=False, capture_output=True, timeout=30).returncode != 0:
        return False
    home.run("ip", "link", "delete", "probe")
    return True


@pytest.mark.parametrize("kind", ["macvlan", "ipvlan"])
def test_it_has_no_veth_and_is_read_inside(kind: str) -> None:
    with netns() as home, netns() as box:
        home.run("ip", "link", "add", "parent", "type", "veth", "peer", "name", "outside")
        home.run("ip", "link", "set", "parent", "up")
        home.run("ip", "link", "set", "outside", "up")
        assert kernel_has(home, kind)
        veth("v0", box, "eth0", home)
        home.run("ip", "link", "add", "moved", "link", "parent", "type", kind)
        home.run("ip", "link", "set", "moved", "netns", str(box.pid))
        box.run("ip", "link", "set", "moved", "name", "net1")
        with_address(box, "net1", "10.233.0.2")
        box.run("ip", "link", "set", "net1", "up")
        collector = NetworkCollector()

        def look() -> None:
            with target(box) as of:
                (before,) = collect(collector, of)
                send(box, 10, "10.233.0.255")
                same_as_own(collector, box, of, "eth0", "net1")
                (after,) = collect(collector, of)
                assert after["net1",]["out.packets"] - before["net1",]["out.packets"] >= 10
                assert collector.veths(of) == {"eth0": "v0"}
                assert list(collector.unmapped(of)) == ["net1"]
                assert kind in collector.unmapped(of)["net1"]

        home.inside(look)
