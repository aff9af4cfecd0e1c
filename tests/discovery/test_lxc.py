"""Against real LXC, which has no API: all there is are cgroups and what `lxc-info` reads from its own files."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from falcon_agent.discovery.cgroups import CgroupRuntime
from falcon_agent.kernelfile import read_to_eof
from tests.real.engine import wait_until
from tests.real.lxc import Lxc, lxc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falcon_agent.container import Container

pytestmark = pytest.mark.real

ONLY_LXC = frozenset({"lxc"})


@pytest.fixture
def runtime() -> CgroupRuntime:
    # Were it for polling, nothing would be noticed before the test is over.
    return CgroupRuntime("/proc", "/sys/fs/cgroup", 3600.0, ONLY_LXC)


@pytest.fixture
def host() -> Iterator[Lxc]:
    with lxc() as made:
        yield made


def find(runtime: CgroupRuntime, name: str) -> Container | None:
    return next((one for one in runtime.find().containers if one.id == name), None)


def test_the_same_as_lxc_says(host: Lxc, runtime: CgroupRuntime) -> None:
    name = host.create("web")
    assert find(runtime, name) is None
    host.start(name)
    container = find(runtime, name)
    assert container is not None
    assert (container.name, container.runtime, container.pid) == (name, "lxc", host.pid(name))
    assert set(container.cgroup.v1.values()) | {container.cgroup.v2} == {f"/lxc.payload.{name}"}
    assert container.netns == os.stat(f"/proc/{container.pid}/ns/net").st_ino
    assert not container.host_network
    assert find(runtime, name) == container
    assert {one.runtime for one in runtime.find().containers} == {"lxc"}


def test_stopped_and_started_again(host: Lxc, runtime: CgroupRuntime) -> None:
    name = host.create("web")
    host.start(name)
    first = find(runtime, name)
    assert first is not None
    assert runtime.alive(first)
    host.stop(name)
    assert not runtime.alive(first)
    assert find(runtime, name) is None
    host.start(name)
    second = find(runtime, name)
    assert second is not None
    assert second.pid == host.pid(name)
    assert second.key != first.key
    assert second.name == first.name


def test_start_and_stop_are_noticed_at_once(host: Lxc, runtime: CgroupRuntime) -> None:
    name = host.create("web")
    seen: list[bool] = []
    watcher = threading.Thread(
        target=runtime.watch, args=(lambda _: seen.append(find(runtime, name) is not None),), daemon=True
    )
    watcher.start()
    try:
        wait_until(lambda: seen, "the first look")
        host.start(name)
        wait_until(lambda: seen[-1], "the start is noticed")
        host.stop(name)
        wait_until(lambda: not seen[-1], "the stop is noticed")
    finally:
        runtime.close()
        watcher.join()


def test_its_network(host: Lxc, runtime: CgroupRuntime) -> None:
    # Without a bridge: LXC would look for it in /sys, which shows another network namespace.
    name = host.create(
        "net",
        """
        lxc.net.0.type = veth
        lxc.net.0.veth.pair = port
        lxc.net.0.flags = up
        lxc.net.0.name = eth0
        lxc.net.0.ipv4.address = 169.254.78.2/30
        """,
    )
    host.start(name)
    container = find(runtime, name)
    assert container is not None
    assert host.addresses(name) == ["169.254.78.2"]
    assert b" 169.254.78.2\n" in read_to_eof(f"/proc/{container.pid}/net/fib_trie")
    # The host's side of the pair is in the namespace that LXC was started in.
    assert "port@" in host.outside("ip", "-brief", "link")
