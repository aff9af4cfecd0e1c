"""Sockets of each network namespace: how many, in which TCP state, and what waits to be accepted."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

from falcon_agent.errors import DeniedError, FalconAgentError, GoneError
from falcon_agent.kernelfile import is_recording, note, read_error
from falcon_agent.metric import Metric, Source
from falcon_agent.namespaces.enter import NetworkNamespaces
from falcon_agent.netlink.sock_diag import MAX_LISTEN_PORTS, TcpSockets, TcpStates, tcp_sockets
from falcon_agent.netlink.wire import NETLINK_SOCK_DIAG, open_netlink
from falcon_agent.procfs.snmp import parse_snmp
from falcon_agent.procfs.sockstat import Sockstat6, parse_sockstat, parse_sockstat6

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample
    from falcon_agent.netlink.sock_diag import ListenQueue
    from falcon_agent.netlink.wire import NetlinkSocket

log = logging.getLogger(__name__)

_NEEDS = "CAP_SYS_ADMIN and CAP_SYS_PTRACE"
_SOCKSTAT = "net/sockstat"
_SOCK_DIAG = "sock_diag"
_BUFFER_BYTES = 64 * 1024
"""Twice the largest datagram of a dump."""
_MAX_PORTS_EVER = 4 * MAX_LISTEN_PORTS
"""Ports of one container that ever become a series: it may listen on others in every cycle."""


def _gauge(name: str, meaning: str, formula: str, *sources: Source, needs: str = "") -> Metric:
    return Metric(f"container.{name}", "GAUGE", "sockets", meaning, formula, sources, needs=needs)


def _state(name: str, meaning: str, *fields: str) -> Metric:
    return _gauge(name, meaning, " + ".join(fields), Source(_SOCK_DIAG, fields), needs=_NEEDS)


_TCP = (Source(_SOCKSTAT, ("TCP",)), Source("net/sockstat6", ("TCP6",)))
_UDP = (Source(_SOCKSTAT, ("UDP",)), Source("net/sockstat6", ("UDP6",)))

USED = _gauge(
    "sockets.used",
    "Sockets of any kind in the container's network namespace, unix and netlink ones included.",
    "sockets used",
    Source(_SOCKSTAT, ("sockets",)),
)
INUSE = _gauge(
    "tcp.inuse",
    "TCP sockets of IPv4 and IPv6 in any state but TIME_WAIT, listening ones included.",
    "TCP inuse + TCP6 inuse",
    *_TCP,
)
TOTAL = _gauge(
    "tcp.total",
    "TCP sockets of IPv4 and IPv6 in any state, time-wait included.",
    "TCP inuse + TCP6 inuse + TCP tw (tw covers both families)",
    *_TCP,
)
TIMEWAIT = _gauge(
    "tcp.timewait",
    "TCP sockets of IPv4 and IPv6 in TIME_WAIT.",
    "TCP tw - fin_wait2_small (orphans in FIN_WAIT2 that the kernel keeps among the time-wait sockets); "
    "without sock_diag TCP tw",
    Source(_SOCKSTAT, ("TCP",)),
    Source(_SOCK_DIAG, ("fin_wait2_small",)),
)
UDP_INUSE = _gauge(
    "udp.inuse", "UDP sockets of IPv4 and IPv6 that are bound to a port.", "UDP inuse + UDP6 inuse", *_UDP
)
ESTABLISH = _gauge(
    "tcp.establish",
    "TCP connections of IPv4 and IPv6 in ESTABLISHED.",
    "established; without sock_diag only where Tcp CurrEstab is 0, because it counts CLOSE_WAIT too",
    Source(_SOCK_DIAG, ("established",)),
    Source("net/snmp", ("Tcp:",)),
    needs=_NEEDS,
)
ORPHAN = _state(
    "tcp.orphan", "TCP sockets that no program of the container holds and the kernel still closes.", "orphan"
)
CLOSEWAIT = _state(
    "tcp.closewait",
    "TCP sockets in CLOSE_WAIT: the peer has closed, the container's program has not.",
    "close_wait",
)
SYNRECV = _state("tcp.synrecv", "TCP connections in SYN_RECV: asked for and not confirmed yet.", "syn_recv")
FINWAIT = _state(
    "tcp.finwait",
    "TCP sockets in FIN_WAIT1 or FIN_WAIT2: closed here, not by the peer.",
    "fin_wait1",
    "fin_wait2",
)
LISTEN = _state("tcp.listen", "TCP sockets that wait for connections.", "listen")


def _queue(name: str, meaning: str, formula: str) -> Metric:
    return Metric(
        f"container.tcp.listen.{name}",
        "GAUGE",
        "connections",
        f"{meaning}; of the port's listening sockets the one whose queue is fullest, the {MAX_LISTEN_PORTS} lowest "
        "ports at most.",
        formula,
        (Source(_SOCK_DIAG, ("backlog",)),),
        tags=("port",),
        needs=_NEEDS,
    )


BACKLOG = _queue(
    "backlog",
    "Connections that are established and that the program listening on the port has not accepted yet",
    "idiag_rqueue of the listening socket: Recv-Q of ss -ltn",
)
BACKLOG_MAX = _queue(
    "max",
    "How many connections may wait on the port; those beyond are dropped (container.TcpExt.ListenOverflows)",
    "idiag_wqueue of the listening socket: Send-Q of ss -ltn, the lesser of listen()'s and net.core.somaxconn",
)

_QUEUES = (BACKLOG, BACKLOG_MAX)
_ONLY_BY_DUMP = (ORPHAN, CLOSEWAIT, SYNRECV, FINWAIT, LISTEN, *_QUEUES)
_NOTHING_LISTENS = "nothing in its network namespace listens on a TCP port"
_TOO_MANY = (
    f"the queues of the {MAX_LISTEN_PORTS} lowest ports are reported, and of {_MAX_PORTS_EVER} ports in a "
    "container's life"
)


class SocketsCollector:
    """Collector `sockets`, asked once per network namespace.

    The cheap counters come from /proc/PID/net/sockstat; the states from a sock_diag dump inside the
    namespace, because no file gives them exactly at a bearable price: `orphan` of sockstat is the whole
    host's, CurrEstab of snmp counts CLOSE_WAIT too, and reading /proc/PID/net/tcp and tcp6 costs ten times
    as much. A namespace without any TCP socket is not asked: every state is 0 there. It costs about 0.02 ms of CPU for
    each namespace, 0.15 ms for one with TCP sockets, and as much more as it has thousands of them.

    Args:
        proc: where /proc is mounted.
    """

    name = "sockets"
    scope: Scope = "netns"
    metrics: tuple[Metric, ...] = (
        ESTABLISH, INUSE, TIMEWAIT, ORPHAN, TOTAL, CLOSEWAIT, SYNRECV, FINWAIT, LISTEN, BACKLOG, BACKLOG_MAX,
        UDP_INUSE, USED,
    )  # fmt: skip

    def __init__(self, proc: str = "/proc") -> None:
        self._namespaces = NetworkNamespaces(proc)
        self._reasons: dict[str, str] = {}
        self._ports: dict[str, set[int]] = {}
        self._unlisted: dict[str, str] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Nothing is cheaper at once here."""

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """Count the sockets of one namespace; see `Collector.collect`."""
        if target is None:
            return ()
        sockstat = parse_sockstat(target.process.read_record(_SOCKSTAT))
        sockstat6 = _read_sockstat6(target)
        inuse = sockstat.tcp_inuse + sockstat6.tcp6_inuse
        tw = sockstat.tcp_tw
        samples: list[Sample] = [
            (USED, sockstat.sockets_used, ()),
            (INUSE, inuse, ()),
            (TOTAL, inuse + tw, ()),
            (UDP_INUSE, sockstat.udp_inuse + sockstat6.udp6_inuse, ()),
        ]
        # A connection in SYN_RECV is not in `inuse`, but its listening socket is.
        if not inuse and not tw:
            self._reasons.pop(target.key, None)
            self._unlisted[target.key] = _NOTHING_LISTENS
            samples += _NO_SOCKETS
            return samples
        found = self._dump(target)
        if found is None:
            samples.append((TIMEWAIT, tw, ()))
            if parse_snmp(target.process.read_record("net/snmp")).tcp_curr_estab == 0:
                samples.append((ESTABLISH, 0, ()))
            return samples
        self._reasons.pop(target.key, None)
        samples += _of_states(found.states, tw)
        for queue in self._queues(target, found):
            tags = (("port", str(queue.port)),)
            samples += ((BACKLOG, queue.backlog, tags), (BACKLOG_MAX, queue.limit, tags))
        return samples

    def forget(self, target: Target) -> None:
        """Drop what was kept of the container."""
        for kept in (self._reasons, self._ports, self._unlisted):
            kept.pop(target.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why a number was not there in the last cycle, or which queues; only what needs the dump can be absent."""
        if metric is not ESTABLISH and metric not in _ONLY_BY_DUMP:
            return None
        key = target.key
        reason = self._reasons.get(key)
        if reason is not None:
            return f"TCP states can only be counted inside the network namespace: {reason}"
        return self._unlisted.get(key) if metric in _QUEUES else None

    def _dump(self, target: Target) -> TcpSockets | None:
        """The dump, or None and a reason where it cannot be had: the other numbers stand without it."""
        key = target.key
        process = target.process
        try:
            found = self._ask(target)
        except GoneError:
            raise
        except DeniedError as error:
            # A matter of how the agent is run, not of this cycle: `check` says it.
            self._reasons[key] = f"{error}; the agent needs {_NEEDS}"
            return None
        except FalconAgentError as error:
            if self._reasons.get(key) != str(error):
                log.warning("TCP states of %r: %s", target.container.name, error)
            self._reasons[key] = str(error)
            return None
        if is_recording():
            _note(found, process.namespace_inode("net"))
        return found

    def _ask(self, target: Target) -> TcpSockets:
        """By a socket that stays inside for as long as the container lives; else by one for each question."""
        process = target.process

        def make() -> NetlinkSocket:
            return self._namespaces.run(_open, process.fd, process.path, target.container.netns)

        return process.use_socket(_SOCK_DIAG, make, tcp_sockets)

    def _queues(self, target: Target, found: TcpSockets) -> Iterable[ListenQueue]:
        """The queues to report; that some are left out is said once."""
        key = target.key
        known = self._ports.setdefault(key, set())
        listed = []
        for queue in found.queues:
            if queue.port in known or len(known) < _MAX_PORTS_EVER:
                known.add(queue.port)
                listed.append(queue)
        left_out = found.unlisted + len(found.queues) - len(listed)
        if left_out:
            reason = f"{left_out} listen queues are left out: {_TOO_MANY}"
            if _TOO_MANY not in self._unlisted.get(key, ""):
                log.warning("%r: %s", target.container.name, reason)
            self._unlisted[key] = reason
        elif listed:
            self._unlisted.pop(key, None)
        else:
            self._unlisted[key] = _NOTHING_LISTENS
        return listed


def _of_states(states: TcpStates, tw: int) -> tuple[Sample, ...]:
    return (
        # The two were not read in the same instant.
        (TIMEWAIT, max(0, tw - states.fin_wait2_small), ()),
        (ESTABLISH, states.established, ()),
        (ORPHAN, states.orphan, ()),
        (CLOSEWAIT, states.close_wait, ()),
        (SYNRECV, states.syn_recv, ()),
        (FINWAIT, states.fin_wait1 + states.fin_wait2, ()),
        (LISTEN, states.listen, ()),
    )


_NO_SOCKETS = _of_states(TcpStates(), 0)


def _open() -> NetlinkSocket:
    """Runs inside the namespace, which the socket keeps alive until it is closed."""
    sock = open_netlink(NETLINK_SOCK_DIAG)
    # Whoever is root in there may send to it at any time: room for an answer, and for no hoard of others' words.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    return sock


def _note(found: TcpSockets, inode: int) -> None:
    states = found.states
    lines = [f"{name} {getattr(states, name)}" for name in TcpStates._fields]
    lines += [f"backlog {queue.backlog} max {queue.limit} port {queue.port}" for queue in found.queues]
    if found.unlisted:
        lines.append(f"backlog of {found.unlisted} more sockets left out")
    note(f"{_SOCK_DIAG} of netns {inode}", "\n".join((*lines, "")).encode())


def _read_sockstat6(target: Target) -> Sockstat6:
    """The namespace's IPv6 sockets: none where the kernel has no IPv6 and so no such file."""
    process = target.process
    try:
        return parse_sockstat6(process.read_record("net/sockstat6"))
    except GoneError:
        try:
            os.stat(_SOCKSTAT, dir_fd=process.fd)
        except OSError as error:
            raise read_error(f"{process.path}/{_SOCKSTAT}", error) from None
        return Sockstat6(tcp6_inuse=0, udp6_inuse=0)
