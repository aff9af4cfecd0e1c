from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from falcon_agent.errors import DeniedError, KernelFileError
from falcon_agent.netlink import linkevents
from falcon_agent.netlink.linkevents import LinkChanges, LinkEvents
from falcon_agent.netlink.rtnetlink import namespace_id
from falcon_agent.netlink.wire import NETLINK_ROUTE, open_netlink
from tests.namespaces.lab import (
    Netns,
    become_nobody,
    descriptors,
    eventually,
    in_child,
    netns,
    run,
    veth,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real


@pytest.fixture
def home() -> Iterator[Netns]:
    """A host of the test's own: on the machine's others make interfaces too."""
    with netns() as made:
        yield made


@pytest.fixture
def box(home: Netns) -> Iterator[Netns]:
    """A container that the host knows, because a veth leads there."""
    with netns() as made:
        veth("v0", made, "eth0", home)
        yield made


@pytest.fixture
def events(home: Netns, box: Netns) -> Iterator[LinkEvents]:
    """Listens on the host; what the kernel still says of the new veth is read."""
    listening = home.inside(LinkEvents)
    for side, name in ((home, "v0"), (box, "eth0")):
        eventually(lambda: "state UP" in side.run("ip", "link", "show", name), "a veth in use")  # noqa: B023
    eventually(lambda: not listening.drain(), "no event is left")
    yield listening
    listening.close()


def rename(box: Netns, old: str, new: str) -> None:
    box.run("ip", "link", "set", old, "name", new)


def change(box: Netns, times: int) -> None:
    commands = "".join(f"link set lo mtu {1500 + n % 2}\n" for n in range(times))
    subprocess.run(
        ["nsenter", f"--net=/proc/{box.pid}/ns/net", "ip", "-batch", "-"],
        input=commands.encode(),
        check=True,
        timeout=120,
    )


def test_nothing_happened(events: LinkEvents) -> None:
    assert events.drain() == LinkChanges()
    assert not events.drain()


def test_a_new_name_in_a_container_is_told_with_its_namespace(
    home: Netns, box: Netns, events: LinkEvents
) -> None:
    nsid = home.inside(lambda: namespace_id(box.pid))
    assert nsid is not None
    rename(box, "eth0", "lan0")
    assert events.drain() == LinkChanges(elsewhere=frozenset({nsid}))
    assert not events.drain()


def test_the_hosts_own_interfaces_are_told_without(home: Netns, events: LinkEvents) -> None:
    rename(home, "v0", "w0")
    assert events.drain() == LinkChanges(here=True)


def test_a_namespace_without_a_name_here_is_not_heard(events: LinkEvents) -> None:
    with netns() as stranger:
        stranger.run("ip", "link", "add", "a0", "type", "veth", "peer", "name", "b0")
    assert not events.drain()


def test_more_events_than_the_kernel_keeps(box: Netns, events: LinkEvents) -> None:
    change(box, 3000)
    assert events.drain().lost
    assert not events.drain()
    rename(box, "eth0", "lan0")
    assert events.drain().elsewhere


def test_a_container_that_never_stops_cannot_keep_the_reader_busy(
    box: Netns, events: LinkEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linkevents, "MAX_EVENTS", 5)
    change(box, 12)
    for _ in range(2):
        assert events.drain().lost
    # Only now has nothing been left unread.
    assert events.drain().lost
    assert not events.drain()
    change(box, 2)
    assert events.drain().elsewhere


def test_what_is_dropped_while_an_overrun_is_read_is_not_missed(
    box: Netns, events: LinkEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(box, 3000)
    monkeypatch.setattr(linkevents, "MAX_EVENTS", 5)
    assert events.drain().lost
    rename(box, "eth0", "lan0")  # the kernel drops this event and says nothing
    monkeypatch.undo()
    assert events.drain().lost
    assert not events.drain()


def test_what_somebody_else_sends_is_no_event(home: Netns, events: LinkEvents) -> None:
    hostile = home.inside(lambda: open_netlink(NETLINK_ROUTE))
    with hostile:
        hostile.sendto(bytes(64), events._socket.getsockname())
        hostile.sendto(bytes(64), (events._socket.getsockname()[0], 1))
    assert not events.drain()


def test_the_namespaces_that_are_heard_are_not_held(home: Netns, events: LinkEvents) -> None:
    with netns() as second:
        veth("v1", second, "eth0", home)
        second.run("ip", "link", "set", "lo", "mtu", "1400")
        # Its events wait unread while it ends.
    eventually(lambda: "v1" not in home.run("ip", "link"), "the veth of an ended container is gone")
    assert events.drain()


def test_without_the_privilege(home: Netns) -> None:
    assert "CAP_NET_BROADCAST" in in_child(LinkEvents, before=become_nobody)
    assert in_child(LinkEvents, before=become_nobody).startswith(DeniedError.__name__)


def test_a_socket_that_cannot_be_read(events: LinkEvents) -> None:
    events.close()
    with pytest.raises(KernelFileError, match="Bad file descriptor"):
        events.drain()
    events.close()


def test_one_descriptor_until_nobody_needs_it(home: Netns) -> None:
    before = descriptors()
    listening = home.inside(LinkEvents)
    assert len(descriptors() - before) == 1
    del listening
    assert descriptors() <= before


def test_the_machines_own_events() -> None:
    name = f"fv{os.getpid()}ev"
    events = LinkEvents()
    run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    try:
        assert socket.if_nametoindex(name)
        assert events.drain().here
    finally:
        run("ip", "link", "delete", name)
        events.close()
