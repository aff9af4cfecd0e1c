"""TCP sockets by state, and listen queues, from the kernel's socket tables (sock_diag(7), linux/inet_diag.h)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from falcon_agent.errors import ParseError
from falcon_agent.netlink.wire import MAX_ANSWER_BYTES, ask_in_bulk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from falcon_agent.netlink.wire import NetlinkSocket, Span

_TCPDIAG_GETSOCK = 18
"""The older request. It answers IPv4 and IPv6 in one walk over the host's socket table; SOCK_DIAG_BY_FAMILY
takes a walk for each, and the walk is what costs."""

# include/net/tcp_states.h
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 1, 2, 3, 4, 5, 6
CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 7, 8, 9, 10, 11
_STATES = (ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING)
_MASK = sum(1 << state for state in _STATES)
"""Not TIME_WAIT: there may be tens of thousands, and sockstat counts them."""
_CLOSED_BY_US = frozenset({FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING})

_ANY_SOCKET = bytes(48)
# struct inet_diag_req: family, src_len, dst_len, ext; the socket id; states; dbs
_REQUEST = struct.pack("=4B48sII", 0, 0, 0, 0, _ANY_SOCKET, _MASK, 0)
# struct inet_diag_msg: family, state, timer, retrans; the socket id; expires, rqueue, wqueue, uid; inode
_MESSAGE = struct.Struct("=x B B x 48x 16x I")
_PORT = struct.Struct(">H")  # the first field of the socket id
_PORT_AT = 4
_QUEUE = struct.Struct("=II")  # of a listening socket: accept queue now, and its limit
_QUEUE_AT = 56
_TIMER_TIMEWAIT = 3

MAX_LISTEN_PORTS = 32
"""How many ports' queues are kept: whoever is in the namespace may listen on all 65,535."""


class TcpStates(NamedTuple):
    """TCP sockets of one network namespace, IPv4 and IPv6 together, as `ss -Htan state ...` counts them.

    Attributes:
        established: data may flow both ways.
        syn_sent: we asked for a connection and wait.
        syn_recv: somebody asked and has not confirmed yet.
        fin_wait1: we closed; not yet confirmed.
        fin_wait2: we closed, confirmed; the peer has not closed.
        close_wait: the peer closed and the program has not: where it stays, the program leaks connections.
        last_ack: both closed; not yet confirmed.
        listen: waiting for connections.
        closing: both closed at once.
        orphan: sockets that no program holds any more and the kernel still closes. The kernel's own notion
            (`orphan` of sockstat, which is of the whole host): inode 0, in FIN_WAIT1, FIN_WAIT2, CLOSING or
            LAST_ACK, but not the small sockets below. A connection that waits for accept() has inode 0 too,
            but none of these states.
        fin_wait2_small: of `fin_wait2`, orphans that the kernel has replaced by a small socket, which it
            does at once where net.ipv4.tcp_fin_timeout is 60 seconds or less; sockstat counts them in `tw`.
    """

    established: int = 0
    syn_sent: int = 0
    syn_recv: int = 0
    fin_wait1: int = 0
    fin_wait2: int = 0
    close_wait: int = 0
    last_ack: int = 0
    listen: int = 0
    closing: int = 0
    orphan: int = 0
    fin_wait2_small: int = 0


class ListenQueue(NamedTuple):
    """Connections that are established and wait for accept(), as `ss -ltn` shows them.

    A port may have several listening sockets (addresses, IP versions, SO_REUSEPORT), each with a queue of its
    own. This is the fullest of them: what it holds and what it may hold are of the same socket.

    Attributes:
        port: TCP port.
        backlog: connections in the queue; one more than `limit` fits in (Recv-Q of ss).
        limit: what listen() asked for, but not more than net.core.somaxconn (Send-Q of ss).
    """

    port: int
    backlog: int
    limit: int


class TcpSockets(NamedTuple):
    """The TCP sockets of one network namespace.

    Attributes:
        states: how many are in which state.
        queues: listen queues of the lowest ports, in order of port.
        unlisted: listening sockets of other ports.
    """

    states: TcpStates
    queues: tuple[ListenQueue, ...] = ()
    unlisted: int = 0


def tcp_sockets(sock: NetlinkSocket, what: str = "sock_diag", limit: int = MAX_ANSWER_BYTES) -> TcpSockets:
    """The TCP sockets of the network namespace that `sock` was made in; needs no privilege inside it.

    Args:
        sock: a NETLINK_SOCK_DIAG socket, as `wire.ask` takes it.
        what: names the namespace in errors.
        limit: bytes that the answer may have, about 120 for each TCP socket.

    Raises:
        KernelFileError: the kernel has no `tcp_diag`, did not answer in time or answered more than `limit`.
        ParseError: the answer is not a list of `struct inet_diag_msg`.
    """
    return tally(ask_in_bulk(sock, _TCPDIAG_GETSOCK, _REQUEST, what, limit=limit), what)


def tally(
    answer: Iterable[tuple[bytes, list[Span]]], what: str, most_ports: int = MAX_LISTEN_PORTS
) -> TcpSockets:
    """Count a list of `struct inet_diag_msg`, and keep the listen queues of the `most_ports` lowest ports.

    Raises:
        ParseError: a message is too short, or of a state that was not asked for.
    """
    count = [0] * (CLOSING + 1)
    orphan = small = 0
    queues = _Queues(most_ports)
    unpack, least = _MESSAGE.unpack_from, _MESSAGE.size
    try:
        for datagram, spans in answer:
            for at, end in spans:
                if end - at < least:
                    raise ParseError(what, "a message is no struct inet_diag_msg")
                state, timer, inode = unpack(datagram, at)
                count[state] += 1
                if state == LISTEN:
                    (port,) = _PORT.unpack_from(datagram, at + _PORT_AT)
                    queues.add(port, *_QUEUE.unpack_from(datagram, at + _QUEUE_AT))
                elif inode == 0 and state in _CLOSED_BY_US:
                    if timer == _TIMER_TIMEWAIT:
                        small += 1
                    else:
                        orphan += 1
    except IndexError:
        raise ParseError(what, "a socket in a state that there is not") from None
    (
        none, established, syn_sent, syn_recv, fin_wait1, fin_wait2, time_wait, close, close_wait, last_ack, listen,
        closing,
    ) = count  # fmt: skip
    if none or time_wait or close:
        raise ParseError(what, "a socket in a state that was not asked for")
    states = TcpStates(
        established, syn_sent, syn_recv, fin_wait1, fin_wait2, close_wait, last_ack, listen, closing, orphan, small
    )  # fmt: skip
    lowest, listed = queues.lowest()
    return TcpSockets(states, lowest, listen - listed)


class _Queues:
    """Gathers the fullest listen queue of each port, holding few more ports than are wanted in the end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._fullest: dict[int, ListenQueue] = {}
        self._sockets: dict[int, int] = {}
        self._beyond = 1 << 16
        """Ports from here on are known not to be among the lowest."""

    def add(self, port: int, backlog: int, limit: int) -> None:
        if port >= self._beyond:
            return
        known = self._fullest.get(port)
        if known is None or _fullness(backlog, limit) > _fullness(known.backlog, known.limit):
            self._fullest[port] = ListenQueue(port, backlog, limit)
        self._sockets[port] = self._sockets.get(port, 0) + 1
        if len(self._fullest) > 2 * self._most:
            self._drop_highest()

    def lowest(self) -> tuple[tuple[ListenQueue, ...], int]:
        """The queues of the lowest ports, and how many sockets those have."""
        if len(self._fullest) > self._most:
            self._drop_highest()
        return tuple(sorted(self._fullest.values())), sum(self._sockets.values())

    def _drop_highest(self) -> None:
        for port in sorted(self._fullest)[self._most :]:
            del self._fullest[port], self._sockets[port]
            self._beyond = min(self._beyond, port)


def _fullness(backlog: int, limit: int) -> tuple[float, int]:
    """How near a queue is to where connections are dropped; of two as near, the longer one counts more."""
    return backlog / (limit + 1), backlog
