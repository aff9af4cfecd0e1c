from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import GoneError, KernelFileError, ParseError
from falcon_agent.netlink import rtnetlink
from falcon_agent.netlink.rtnetlink import (
    Link,
    LinkStats,
    link_stats,
    links,
    namespace_id,
    namespace_id_of,
    parse_link,
    parse_namespace_id,
    parse_stats,
    read_stats,
)
from falcon_agent.netlink.wire import InterruptedDumpError, attribute, parse_datagram
from falcon_agent.procfs.net_dev import parse_net_dev
from tests.collectors.traffic import host_name
from tests.namespaces.lab import Netns, become_nobody, eventually, in_child, netns, veth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NETLINK = Path(__file__).parents[1] / "fixtures" / "net" / "netlink"
PARSERS: tuple[Callable[[memoryview], object], ...] = (parse_link, parse_stats, parse_namespace_id)


def captured(name: str) -> list[memoryview]:
    raw = memoryview((NETLINK / name).read_bytes())
    return [raw[start:end] for start, end in parse_datagram(bytes(raw), name)[0]]


def test_captured_links() -> None:
    found = [parse_link(payload) for payload in captured("rtm_getlink")]
    assert found == [
        Link(1, "lo", "", None, None),
        Link(2, "ifb0", "ifb", None, None),
        Link(3, "ifb1", "ifb", None, None),
        Link(4, "eth0", "", None, None),
        Link(9, "fpcap0", "veth", 3, 0),
    ]


def test_captured_stats(monkeypatch: pytest.MonkeyPatch) -> None:
    slowly = dict(parse_stats(payload) for payload in captured("rtm_getstats"))
    monkeypatch.delattr(rtnetlink, "parse_stats")  # not needed for what has the usual form
    raw = (NETLINK / "rtm_getstats").read_bytes()
    found = read_stats([(raw, parse_datagram(raw, "test")[0])])
    assert found == slowly
    assert sorted(found) == [1, 2, 3, 4, 9]
    assert found[4] == LinkStats(
        rx_packets=9545,
        tx_packets=6361,
        rx_bytes=319834774,
        tx_bytes=597565,
        rx_errors=0,
        tx_errors=0,
        rx_dropped=0,
        tx_dropped=0,
    )


HEAD = struct.pack("=4xII", 7, 1)
COUNTERS = struct.pack("=8Q", *range(8))


@pytest.mark.parametrize(
    "message",
    [
        HEAD + attribute(1, COUNTERS),
        HEAD + attribute(1, COUNTERS + bytes(17 * 8)),
        HEAD + attribute(1 | 1 << 15, COUNTERS),
        HEAD + attribute(0, b"") + attribute(1, COUNTERS),
        HEAD + attribute(3, b"other") + attribute(1, COUNTERS),
        HEAD + attribute(1, COUNTERS) + attribute(3, b"other"),
    ],
)
def test_counters_in_other_forms(message: bytes) -> None:
    between = b"\xff" * 40
    raw = between + message + between + message + between
    first, second = len(between), 2 * len(between) + len(message)
    found = read_stats([(raw, [(first, first + len(message)), (second, second + len(message))])])
    assert found == {7: LinkStats(*range(8))}


@settings(deadline=None)
@given(
    st.sampled_from([bytes(payload) for payload in captured("rtm_getstats")]),
    st.integers(0, 40) | st.integers(0, 300),
    st.integers(0, 40) | st.integers(0, 300),
    st.binary(max_size=20),
)
def test_counters_are_read_alike_in_both_ways(raw: bytes, cut: int, left_out: int, garbage: bytes) -> None:
    content = raw[:cut] + garbage + raw[cut + left_out :]
    for behind in (b"", bytes(300)):
        answer = [(content + behind, [(0, len(content))])]
        try:
            slowly = dict([parse_stats(memoryview(content))])
        except ParseError:
            with pytest.raises(ParseError):
                read_stats(answer)
        else:
            assert read_stats(answer) == slowly


def test_captured_namespace_id() -> None:
    (payload,) = captured("rtm_getnsid")
    assert parse_namespace_id(payload) == 0
    unassigned = bytes(payload)[:-4] + b"\xff\xff\xff\xff"
    assert parse_namespace_id(memoryview(unassigned)) is None


@settings(deadline=None)
@given(
    st.sampled_from(captured("rtm_getlink") + captured("rtm_getstats") + captured("rtm_getnsid")),
    st.integers(0, 1500),
    st.binary(max_size=40),
)
def test_cut_or_garbled_messages(payload: memoryview, cut: int, garbage: bytes) -> None:
    raw = bytes(payload)
    for content in (raw[:cut], raw[:cut] + garbage + raw[cut:], garbage):
        for parse in PARSERS:
            with contextlib.suppress(ParseError):
                parse(memoryview(content))


def test_a_list_that_changes_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def unsteady(*_: object, **__: object) -> Iterator[memoryview]:
        attempts.append(1)
        if len(attempts) < 3:
            raise InterruptedDumpError("test", "it changed")
        return iter(captured("rtm_getlink"))

    monkeypatch.setattr(rtnetlink, "ask", unsteady)
    assert len(links()) == 5


def test_a_list_that_never_holds_still(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsteady(*_: object, **__: object) -> Iterator[memoryview]:
        raise InterruptedDumpError("test", "it changed")

    monkeypatch.setattr(rtnetlink, "ask", unsteady)
    with pytest.raises(KernelFileError, match="changed"):
        links()


@pytest.fixture
def home() -> Iterator[Netns]:
    """A host of the test's own: on the machine's others make interfaces too, while they are listed."""
    with netns() as made:
        yield made


@pytest.fixture
def box() -> Iterator[Netns]:
    with netns() as made:
        yield made


@pytest.mark.real
def test_a_veth_names_the_namespace_and_index_of_its_other_end(home: Netns, box: Netns) -> None:
    assert home.inside(lambda: namespace_id(box.pid)) is None
    veth("v0", box, "eth7", home)
    nsid = home.inside(lambda: namespace_id(box.pid))
    assert nsid is not None
    (found,) = [link for link in home.inside(links) if link.name == "v0"]
    index = box.inside(lambda: socket.if_nametoindex("eth7"))
    assert found == Link(home.inside(lambda: socket.if_nametoindex("v0")), "v0", "veth", index, nsid)


@pytest.mark.real
def test_macvlan_and_bridge_say_what_they_are(box: Netns) -> None:
    box.run("ip", "link", "add", "br0", "type", "bridge")
    box.run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
    box.run("ip", "link", "add", "mv", "link", "va", "type", "macvlan")
    kinds = {link.name: link for link in box.inside(links)}
    assert kinds["br0"].kind == "bridge"
    assert kinds["mv"].kind == "macvlan"
    assert kinds["mv"].link == kinds["va"].ifindex
    assert (kinds["va"].kind, kinds["va"].link, kinds["va"].link_netnsid) == (
        "veth",
        kinds["vb"].ifindex,
        None,
    )


@pytest.mark.real
def test_counters_are_those_of_net_dev(box: Netns) -> None:
    with box.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.sendto(b"x" * 100, ("127.0.0.1", 9))
    # The answer to the packet, that nobody listens there, comes when the kernel has time.
    for _ in range(100):
        lo = parse_net_dev(box.read("net/dev"))["lo"]
        found = box.inside(link_stats)[1]
        if parse_net_dev(box.read("net/dev"))["lo"] == lo:
            break
    assert lo.rx_bytes > 100
    assert (found.rx_bytes, found.tx_bytes, found.rx_packets, found.tx_packets) == (
        lo.rx_bytes,
        lo.tx_bytes,
        lo.rx_packets,
        lo.tx_packets,
    )


@pytest.mark.real
def test_nothing_of_this_needs_a_privilege(home: Netns, box: Netns) -> None:
    veth("v0", box, "eth0", home)

    def answers() -> tuple[int | None, list[int | None], bool]:
        return (
            namespace_id(box.pid),
            [link.link_netnsid for link in links() if link.name == "v0"],
            socket.if_nametoindex("v0") in link_stats(),
        )

    answer = home.inside(lambda: in_child(answers, before=become_nobody))
    nsid = home.inside(lambda: namespace_id(box.pid))
    assert answer == f"({nsid}, [{nsid}], True)"


@pytest.mark.real
def test_a_process_that_is_not_there() -> None:
    with netns() as box:
        pass
    eventually(lambda: not Path(f"/proc/{box.pid}").exists(), "an ended process")
    with pytest.raises(GoneError):
        namespace_id(box.pid)


@pytest.mark.real
def test_an_open_namespace_has_the_id_of_its_processes(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    with open(f"/proc/{box.pid}/ns/net", "rb") as opened, netns() as stranger:
        assert namespace_id_of(opened.fileno(), "test") == namespace_id(box.pid) is not None
        with open(f"/proc/{stranger.pid}/ns/net", "rb") as other:
            assert namespace_id_of(other.fileno(), "test") is None


@pytest.mark.real
def test_a_descriptor_on_something_else() -> None:
    with open("/dev/null", "rb") as opened, pytest.raises(KernelFileError, match="RTM_GETNSID of test"):
        namespace_id_of(opened.fileno(), "test")
