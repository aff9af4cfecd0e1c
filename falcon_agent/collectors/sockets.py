"""Sockets of each network namespace: how many, and in which TCP state."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from falcon_agent.errors import DeniedError, FalconAgentError, GoneError
from falcon_agent.kernelfile import is_recording, note, read_error
from falcon_agent.metric import Metric, Source
from falcon_agent.namespaces.enter import NetworkNamespaces
from falcon_agent.netlink.sock_diag import TcpStates, count_tcp_states
from falcon_agent.netlink.wire import NETLINK_SOCK_DIAG, open_netlink
from falcon_agent.procfs.snmp import parse_snmp
from falcon_agent.procfs.sockstat import Sockstat6, parse_sockstat, parse_sockstat6

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample

log = logging.getLogger(__name__)

_NEEDS = "CAP_SYS_ADMIN and CAP_SYS_PTRACE"
_SOCKSTAT = "net/sockstat"
_SOCK_DIAG = "sock_diag"


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

_ONLY_BY_DUMP = (ORPHAN, CLOSEWAIT, SYNRECV, FINWAIT, LISTEN)
_NO_SOCKETS = TcpStates()


class SocketsCollector:
    """Collector `sockets`, asked once per network namespace.

    The cheap counters come from /proc/PID/net/sockstat; the states from a sock_diag dump inside the
    namespace, because no file gives them exactly at a bearable price: `orphan` of sockstat is the whole
    host's, CurrEstab of snmp counts CLOSE_WAIT too, and reading /proc/PID/net/tcp and tcp6 costs ten times
    as much. A namespace without any TCP socket is not asked: every state is 0 there.

    Args:
        proc: where /proc is mounted.
    """

    name = "sockets"
    scope: Scope = "netns"
    metrics: tuple[Metric, ...] = (
        ESTABLISH, INUSE, TIMEWAIT, ORPHAN, TOTAL, CLOSEWAIT, SYNRECV, FINWAIT, LISTEN, UDP_INUSE, USED,
    )  # fmt: skip

    def __init__(self, proc: str = "/proc") -> None:
        self._namespaces = NetworkNamespaces(proc)
        self._reasons: dict[str, str] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Nothing is cheaper at once here."""

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """Count the sockets of one namespace; see `Collector.collect`."""
        if target is None:
            return
        sockstat = parse_sockstat(target.process.read(_SOCKSTAT))
        sockstat6 = _read_sockstat6(target)
        inuse = sockstat.tcp_inuse + sockstat6.tcp6_inuse
        tw = sockstat.tcp_tw
        # A connection in SYN_RECV is not in `inuse`, but its listening socket is.
        states = self._states(target) if inuse or tw else _NO_SOCKETS
        yield USED, sockstat.sockets_used, ()
        yield INUSE, inuse, ()
        yield TOTAL, inuse + tw, ()
        yield UDP_INUSE, sockstat.udp_inuse + sockstat6.udp6_inuse, ()
        if states is None:
            yield TIMEWAIT, tw, ()
            if parse_snmp(target.process.read("net/snmp")).tcp_curr_estab == 0:
                yield ESTABLISH, 0, ()
            return
        # The two were not read in the same instant.
        yield TIMEWAIT, max(0, tw - states.fin_wait2_small), ()
        yield ESTABLISH, states.established, ()
        yield ORPHAN, states.orphan, ()
        yield CLOSEWAIT, states.close_wait, ()
        yield SYNRECV, states.syn_recv, ()
        yield FINWAIT, states.fin_wait1 + states.fin_wait2, ()
        yield LISTEN, states.listen, ()

    def forget(self, target: Target) -> None:
        """Drop the reason kept for the container."""
        self._reasons.pop(target.container.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why a state was not counted in the last cycle; only those that need the dump can be absent."""
        reason = self._reasons.get(target.container.key)
        if reason is None or (metric is not ESTABLISH and metric not in _ONLY_BY_DUMP):
            return None
        return f"TCP states can only be counted inside the network namespace: {reason}"

    def _states(self, target: Target) -> TcpStates | None:
        """The dump, or None and a reason where it cannot be had: the other numbers stand without it."""
        key = target.container.key
        process = target.process
        try:
            states = self._namespaces.run(_dump, process.fd, process.path, target.container.netns)
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
        self._reasons.pop(key, None)
        if is_recording():
            _note(states, process.namespace_inode("net"))
        return states


def _dump() -> TcpStates:
    """Runs inside the namespace; the socket, which keeps the namespace alive, is closed before it returns."""
    with open_netlink(NETLINK_SOCK_DIAG) as sock:
        return count_tcp_states(sock)


def _note(states: TcpStates, inode: int) -> None:
    lines = (f"{name} {getattr(states, name)}" for name in TcpStates.__slots__)
    note(f"{_SOCK_DIAG} of netns {inode}", "\n".join((*lines, "")).encode())


def _read_sockstat6(target: Target) -> Sockstat6:
    """The namespace's IPv6 sockets: none where the kernel has no IPv6 and so no such file."""
    process = target.process
    try:
        return parse_sockstat6(process.read("net/sockstat6"))
    except GoneError:
        try:
            os.stat(_SOCKSTAT, dir_fd=process.fd)
        except OSError as error:
            raise read_error(f"{process.path}/{_SOCKSTAT}", error) from None
        return Sockstat6(tcp6_inuse=0, udp6_inuse=0)
