from __future__ import annotations

import socket
import struct
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import KernelFileError, ParseError
from falcon_agent.netlink.sock_diag import (
    MAX_LISTEN_PORTS,
    ListenQueue,
    TcpSockets,
    TcpStates,
    _Queues,
    tally,
    tcp_sockets,
)
from falcon_agent.netlink.wire import NETLINK_ROUTE, NETLINK_SOCK_DIAG, open_netlink, parse_datagram
from tests.namespaces.lab import Netns, Pair, become_nobody, eventually, in_child

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from falcon_agent.netlink.wire import Span

V6 = socket.AF_INET6
CAPTURED = (Path(__file__).parents[1] / "fixtures" / "net" / "netlink" / "tcpdiag_getsock").read_bytes()
OF_SS = {
    "established": "established",
    "syn_sent": "syn-sent",
    "syn_recv": "syn-recv",
    "fin_wait1": "fin-wait-1",
    "fin_wait2": "fin-wait-2",
    "close_wait": "close-wait",
    "last_ack": "last-ack",
    "listen": "listening",
    "closing": "closing",
}


def ask() -> TcpSockets:
    with open_netlink(NETLINK_SOCK_DIAG, 60) as sock:
        return tcp_sockets(sock)


def answer(messages: Sequence[bytes]) -> list[tuple[bytes, list[Span]]]:
    """The messages as those of two datagrams, with something else between and after them."""
    between = bytes(16)
    datagrams = []
    for part in (messages[::2], messages[1::2]):
        spans, at = [], 0
        for message in part:
            spans.append((at, at + len(message)))
            at += len(message) + len(between)
        datagrams.append((b"".join(message + between for message in part), spans))
    return datagrams


def count() -> TcpStates:
    return ask().states


def host_orphans(side: Netns) -> int:
    words = side.read("net/sockstat").split()
    return int(words[words.index(b"orphan") + 1])


def sock(state: int, timer: int = 0, inode: int = 0) -> bytes:
    return struct.pack("=4B48x16xI", 2, state, timer, 0, inode)


def listening(port: int, backlog: int = 0, limit: int = 128) -> bytes:
    return (
        struct.pack("=4B", 2, 10, 0, 0)
        + struct.pack(">H", port)
        + struct.pack("=50xIIII", backlog, limit, 0, 9)
    )


def test_captured_dump() -> None:
    spans, _, _ = parse_datagram(CAPTURED, "test")
    assert tally([(CAPTURED, spans)], "test") == TcpSockets(
        TcpStates(
            established=2, fin_wait1=2, fin_wait2=1, close_wait=1, listen=2, orphan=2, fin_wait2_small=1
        ),
        (ListenQueue(8000, 0, 50), ListenQueue(8001, 0, 50)),
    )


@pytest.mark.parametrize("state", [4, 5, 9, 11])
def test_an_orphan_has_no_inode_and_is_closing(state: int) -> None:
    assert tally(answer([sock(state)]), "test").states.orphan == 1
    assert tally(answer([sock(state, inode=77)]), "test").states.orphan == 0


@pytest.mark.parametrize("state", [1, 2, 3, 8, 10])
def test_no_inode_alone_makes_no_orphan(state: int) -> None:
    assert tally(answer([sock(state)]), "test").states.orphan == 0


def test_a_small_socket_is_no_orphan() -> None:
    assert tally(answer([sock(5, timer=3)]), "test").states == TcpStates(fin_wait2=1, fin_wait2_small=1)


@pytest.mark.parametrize("raw", [b"", bytes(71), sock(0), sock(6), sock(7), sock(12), sock(255)])
def test_what_is_no_answer_to_our_question(raw: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse sock_diag"):
        tally(answer([raw]), "sock_diag")


def test_of_several_sockets_of_a_port_the_one_that_overflows_first() -> None:
    sockets = [
        listening(80, 0, 4096),
        listening(80, 5, 10),
        listening(80, 20, 4096),
        listening(443, 0, 0),
        listening(443, 1, 0),
        listening(22, 0, 10),
        listening(22, 0, 5),
    ]
    expected = (ListenQueue(80, 5, 10), ListenQueue(443, 1, 0))
    for order in (sockets, sockets[::-1]):
        found = tally(answer(order), "test")
        assert found.queues[1:] == expected
        assert (found.queues[0].port, found.states.listen, found.unlisted) == (22, 7, 0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 65535) | st.integers(0, 20), st.integers(0, 9)), max_size=60),
    st.integers(1, 4),
)
def test_the_lowest_ports_are_kept_in_whatever_order_they_come(
    sockets: list[tuple[int, int]], most: int
) -> None:
    found = tally(answer([listening(port, backlog) for port, backlog in sockets]), "test", most)
    kept = sorted({port for port, _ in sockets})[:most]
    longest = {port: max(backlog for other, backlog in sockets if other == port) for port in kept}
    assert [(queue.port, queue.backlog) for queue in found.queues] == list(longest.items())
    assert found.unlisted == sum(port not in longest for port, _ in sockets)


def test_however_many_ports_are_listened_on_few_are_held() -> None:
    for order in (range(65535, 0, -1), range(1, 65536)):
        held = []
        queues = _Queues(MAX_LISTEN_PORTS)
        for port in order:
            queues.add(port, 0, 1)
            held.append(len(queues._fullest) + len(queues._sockets))
        assert max(held) <= 4 * MAX_LISTEN_PORTS + 2
        assert [queue.port for queue in queues.lowest()[0]] == list(range(1, MAX_LISTEN_PORTS + 1))
    # What is known to be too high is not even looked at.
    assert held[-1] == 2 * MAX_LISTEN_PORTS


@settings(deadline=None)
@given(st.lists(st.binary(max_size=90)))
def test_garbage(messages: list[bytes]) -> None:
    with suppress(ParseError):
        assert tally(answer(messages), "test").states.orphan >= 0


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


class Book:
    """Our own book-keeping of the near side, compared with the dump and with `ss` after each step."""

    def __init__(self, near: Netns) -> None:
        self._near = near
        self._expected = TcpStates()

    def now(self, **changes: int) -> None:
        expected = self._expected = self._expected._replace(**changes)
        eventually(
            lambda: self._near.inside(count) == expected, f"{expected}, and not {self._near.inside(count)}"
        )
        for name, state in OF_SS.items():
            assert self._near.ss(state) == getattr(expected, name), state
        # Of all CPUs one after the other, while other namespaces' orphans come on one and go on another.
        eventually(lambda: expected.orphan <= host_orphans(self._near), "the host has as many orphans")


@pytest.mark.real
def test_connections_while_they_are_closed(pair: Pair) -> None:
    book = Book(pair.near)
    held = [pair.connection(9001), pair.connection(9002, V6)]
    book.now(established=2)
    held[0][1].shutdown(socket.SHUT_WR)
    book.now(established=1, close_wait=1)
    held[1][0].shutdown(socket.SHUT_WR)
    book.now(established=0, fin_wait2=1)

    # Closed, and the peer has not: with the usual tcp_fin_timeout a small socket takes its place at once ...
    small = pair.connection(9003)
    small[0].close()
    book.now(fin_wait2=2, fin_wait2_small=1)
    # ... and with a longer one it stays a whole socket, an orphan.
    pair.near.run("sysctl", "-qw", "net.ipv4.tcp_fin_timeout=120")
    whole = pair.connection(9004)
    whole[0].close()
    book.now(fin_wait2=3, orphan=1)


@pytest.mark.real
def test_connections_whose_peer_does_not_answer(pair: Pair) -> None:
    book = Book(pair.near)
    lost = [pair.connection(9010), pair.connection(9011, V6), pair.connection(9012), pair.connection(9013)]
    lost[2][1].shutdown(socket.SHUT_WR)
    book.now(established=3, close_wait=1)
    pair.drop(pair.near, "--dport", "9010:9020")
    lost[0][0].close()
    lost[1][0].close()
    book.now(established=1, fin_wait1=2, orphan=2)
    lost[2][0].close()
    book.now(close_wait=0, last_ack=1, orphan=3)
    lost[3][0].shutdown(socket.SHUT_WR)
    lost[3][1].shutdown(socket.SHUT_WR)
    book.now(established=0, closing=1)
    lost[3][0].close()
    book.now(orphan=4)


@pytest.mark.real
def test_connections_while_they_are_made(pair: Pair) -> None:
    book = Book(pair.near)
    pair.listen(pair.near, 8000)
    pair.listen(pair.near, 8001, V6)
    book.now(listen=2)
    pair.drop(pair.near, "--dport", "9020")
    asking = pair.keep(pair.near.socket())
    asking.setblocking(False)  # noqa: FBT003  its only argument
    asking.connect_ex((pair.V4[1], 9020))
    book.now(syn_sent=1)
    # The last packet of the handshake is lost, again and again. A SYN-ACK that cannot even be sent would not do: the
    # listening side then forgets the request after a second, and hears of it again after another.
    pair.near.run("sysctl", "-qw", "net.ipv4.tcp_synack_retries=10")
    pair.drop(pair.far, "--dport", "8000", "--tcp-flags", "SYN,ACK", "ACK")
    asked = pair.keep(pair.far.socket())
    asked.setblocking(False)  # noqa: FBT003  its only argument
    asked.connect_ex((pair.V4[0], 8000))
    book.now(syn_recv=1)
    waiting = pair.keep(pair.far.socket(V6))
    waiting.connect((pair.V6[0], 8001))
    book.now(established=1)
    waiting.close()
    # Its other end waits for accept(), has no inode and is no orphan.
    book.now(established=0, close_wait=1)


def queues_of_ss(box: Netns) -> list[ListenQueue]:
    """Recv-Q and Send-Q of each listening socket, by port."""
    rows = [line.split() for line in box.run("ss", "-Hltn").splitlines()]
    return sorted(ListenQueue(int(row[3].rpartition(":")[2]), int(row[1]), int(row[2])) for row in rows)


@pytest.mark.real
def test_listen_queues_are_those_of_ss(pair: Pair) -> None:
    pair.near.run("sysctl", "-qw", "net.core.somaxconn=40")
    for port, family, backlog, clients in (
        (8000, socket.AF_INET, 1, 4),
        (8001, V6, 3, 2),
        (8002, V6, 100, 0),
    ):
        made = pair.keep(pair.near.socket(family))
        made.bind(("", port))
        made.listen(backlog)
        for _ in range(clients):
            client = pair.keep(pair.far.socket(family))
            client.setblocking(False)  # noqa: FBT003  its only argument
            client.connect_ex(((pair.V6 if family == V6 else pair.V4)[0], port))
    expected = [ListenQueue(8000, 2, 1), ListenQueue(8001, 2, 3), ListenQueue(8002, 0, 40)]
    eventually(lambda: queues_of_ss(pair.near) == expected, f"{expected}, and not {queues_of_ss(pair.near)}")
    assert pair.near.inside(ask).queues == tuple(expected)


@pytest.mark.real
def test_time_wait_is_not_sent(pair: Pair) -> None:
    near, far = pair.connection(9001)
    near.close()
    far.close()
    eventually(lambda: pair.near.ss("time-wait") == 1, "a socket in TIME_WAIT")
    assert pair.near.inside(count) == TcpStates()


@pytest.mark.real
def test_a_long_answer_is_read_in_pieces(pair: Pair) -> None:
    pair.far.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=0")
    listening = pair.listen(pair.far, 9000)
    ends = []
    for _ in range(400):
        near = pair.keep(pair.near.socket())
        near.connect((pair.V4[1], 9000))
        ends.append(pair.keep(listening.accept()[0]))
    assert pair.near.inside(count) == TcpStates(established=400)
    assert pair.far.inside(count) == TcpStates(established=400, listen=1)

    def limited() -> TcpSockets:
        with open_netlink(NETLINK_SOCK_DIAG) as opened:
            return tcp_sockets(opened, limit=20000)

    with pytest.raises(KernelFileError, match="too large"):
        pair.near.inside(limited)


@pytest.mark.real
def test_no_privilege_is_needed_in_ones_own_namespace() -> None:
    assert in_child(count, before=become_nobody).startswith("TcpStates(")


@pytest.mark.real
def test_a_socket_of_another_protocol_is_refused() -> None:
    # There 18 is RTM_GETLINK, and interfaces are no sockets.
    with open_netlink(NETLINK_ROUTE) as wrong, pytest.raises((KernelFileError, ParseError)):
        tcp_sockets(wrong)
