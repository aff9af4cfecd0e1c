"""Trouble of each network namespace with TCP and UDP, as the kernel counts it: drops, retransmits, resets.

The names are the kernel's own field names, as Open-Falcon's agent sends them for the host, with `container.`
before them. All of these counters are the namespace's own (`net->mib`). Left out is `TCPMemoryPressures`, which the
standard agent sends: TCP's memory limit is the host's, and only the namespace that happens to meet it counts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.errors import GoneError
from falcon_agent.kernelfile import is_recording, note
from falcon_agent.metric import Metric, Source
from falcon_agent.procfs.netstat import parse_tcpext
from falcon_agent.procfs.snmp import parse_tcp, parse_udp
from falcon_agent.procfs.snmp6 import parse_udp6

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample
    from falcon_agent.procfs.mib import Numbers

_NETSTAT = "net/netstat"
_SNMP = "net/snmp"
_SNMP6 = "net/snmp6"

_NEEDS_TWO = "a rate needs two samples"
_WENT_BACK = "the counter went back"
_NOTHING_SENT = "no TCP segment was sent since the last cycle"
_UNKNOWN = "this kernel does not count it"


def _tcpext(field: str, unit: str, meaning: str, *, of_host: bool = False) -> Metric:
    """A counter of net/netstat; `of_host` says that Open-Falcon's agent sends the host's under this name."""
    sent = f"; the standard agent's TcpExt.{field} is the host's" if of_host else ""
    source = Source(_NETSTAT, (f"TcpExt {field}",))
    return Metric(f"container.TcpExt.{field}", "COUNTER", unit, meaning, f"TcpExt {field}{sent}", (source,))


def _tcp(field: str, unit: str, meaning: str) -> Metric:
    source = Source(_SNMP, (f"Tcp {field}",))
    return Metric(f"container.snmp.Tcp.{field}", "COUNTER", unit, meaning, f"Tcp {field}", (source,))


def _udp(field: str, meaning: str) -> Metric:
    return Metric(
        f"container.snmp.Udp.{field}",
        "COUNTER",
        "datagrams",
        f"{meaning}, IPv4 and IPv6.",
        f"Udp {field} + Udp6{field}; the standard agent's snmp.Udp.{field} is the host's, without IPv6",
        (Source(_SNMP, (f"Udp {field}",)), Source(_SNMP6, (f"Udp6 {field}",))),
    )


_TCPEXT = (
    _tcpext(
        "ListenOverflows",
        "connections",
        "Connections dropped because the accept queue of the listening socket was full: its program is too slow, "
        "or its backlog too small.",
        of_host=True,
    ),
    _tcpext(
        "ListenDrops",
        "connections",
        "Connections a listening socket dropped for whatever reason, ListenOverflows included.",
        of_host=True,
    ),
    _tcpext(
        "TCPReqQFullDrop",
        "connections",
        "Connections dropped because too many were half open and SYN cookies are off.",
    ),
    _tcpext(
        "TCPReqQFullDoCookies",
        "connections",
        "Connections answered by a SYN cookie because too many were half open.",
    ),
    _tcpext("SyncookiesSent", "packets", "SYN cookies sent: a SYN flood, or a backlog too small for the load."),
    _tcpext("SyncookiesRecv", "packets", "SYN cookies that came back valid: connections they have saved."),
    _tcpext(
        "SyncookiesFailed", "packets", "SYN cookies that came back invalid, or none that was ever sent."
    ),
    _tcpext(
        "TCPBacklogDrop",
        "packets",
        "Packets dropped because a socket's program held it too long while more came in.",
        of_host=True,
    ),
    _tcpext(
        "TCPRcvQDrop", "packets", "Packets dropped because a receive queue or TCP's memory was at its limit."
    ),
    _tcpext(
        "PruneCalled",
        "times",
        "Times that a receive buffer was over its limit and had to be squeezed: a program reads too slowly.",
        of_host=True,
    ),
    _tcpext(
        "TCPTimeouts",
        "times",
        "Times that no answer came and the retransmission timer had to fire: loss, or a peer that is gone.",
        of_host=True,
    ),
    _tcpext(
        "TCPSynRetrans",
        "segments",
        "SYN and SYN-ACK segments sent again: connections that nobody answers, or are answered too late.",
    ),
    _tcpext("TCPFastRetrans", "segments", "Segments sent again at once, because the peer told of a gap.", of_host=True),
    _tcpext(
        "TCPLostRetransmit", "segments", "Segments sent again that were lost once more.", of_host=True
    ),
    _tcpext(
        "TCPAbortOnTimeout",
        "connections",
        "Connections given up because the peer did not answer any more.",
        of_host=True,
    ),
    _tcpext(
        "TCPAbortOnMemory",
        "connections",
        "Connections of this namespace given up because the host had too many orphans or TCP's memory was full.",
        of_host=True,
    ),
    _tcpext(
        "TCPAbortOnData",
        "connections",
        "Connections reset because data came after the program had closed, or because it asked for that by "
        "SO_LINGER.",
    ),
    _tcpext("TCPAbortOnClose", "connections", "Connections reset because the program closed with data unread."),
    _tcpext(
        "TCPTimeWaitOverflow",
        "connections",
        "Connections that ended without TIME_WAIT because there were net.ipv4.tcp_max_tw_buckets already.",
    ),
)  # fmt: skip
_TCP = (
    _tcp("RetransSegs", "segments", "Segments sent again."),
    _tcp("OutSegs", "segments", "Segments sent, without those sent again."),
    _tcp("InSegs", "segments", "Segments received, faulty ones included."),
    _tcp("InErrs", "segments", "Segments received that were faulty."),
    _tcp("OutRsts", "segments", "Resets sent: connections refused or aborted here."),
    _tcp(
        "EstabResets",
        "connections",
        "Established connections that ended without a FIN from here: a reset of either side, or a silent peer.",
    ),
    _tcp(
        "AttemptFails",
        "connections",
        "Connections that ended before they were established: refused by a reset, from either side.",
    ),
    _tcp("ActiveOpens", "connections", "Connections that the container began."),
    _tcp("PassiveOpens", "connections", "Connections that others began with the container."),
)
_UDP = (
    _udp("InErrors", "Datagrams received and not delivered, RcvbufErrors and InCsumErrors included"),
    _udp("RcvbufErrors", "Datagrams dropped because the socket's receive buffer was full"),
    _udp("SndbufErrors", "Datagrams not sent because the socket's send buffer was full"),
    _udp("NoPorts", "Datagrams to a port on which nothing listens"),
    _udp("InCsumErrors", "Datagrams with a wrong checksum"),
)

RETRANS_PERCENT = Metric(
    "container.tcp.retrans.percent",
    "GAUGE",
    "percent",
    "Share of the TCP segments sent since the last cycle that were sent again.",
    "delta RetransSegs / (delta OutSegs + delta RetransSegs) x 100; the kernel does not count a segment sent "
    "again in OutSegs",
    (Source(_SNMP, ("Tcp RetransSegs", "Tcp OutSegs")),),
)


def _fields(metrics: tuple[Metric, ...]) -> tuple[str, ...]:
    return tuple(metric.name.rpartition(".")[2] for metric in metrics)


_TCPEXT_FIELDS = _fields(_TCPEXT)
_TCP_FIELDS = _fields(_TCP)
_UDP_FIELDS = _fields(_UDP)
_RETRANS, _OUT = _TCP_FIELDS.index("RetransSegs"), _TCP_FIELDS.index("OutSegs")


class TcpextCollector:
    """Collector `tcpext`, asked once per network namespace; needs no privilege.

    It reads three files, in which the kernel adds up each counter over all possible CPUs, so they are dear: on two
    CPUs about 0.04 ms for net/netstat, 0.02 ms each for net/snmp and net/snmp6.
    """

    name = "tcpext"
    scope: Scope = "netns"
    metrics: tuple[Metric, ...] = (*_TCPEXT, *_TCP, RETRANS_PERCENT, *_UDP)

    def __init__(self) -> None:
        self._sent: dict[str, tuple[int, int]] = {}
        self._absent: dict[str, dict[str, str]] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Nothing is cheaper at once here."""

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The counters of one namespace; see `Collector.collect`."""
        if target is None:
            return
        key = target.container.key
        process = target.process
        absent = self._absent[key] = {}
        snmp = process.read(_SNMP)
        tcp = parse_tcp(snmp, _TCP_FIELDS)
        udp = parse_udp(snmp, _UDP_FIELDS)
        udp6 = _read_udp6(target)
        # Read after snmp6, which may be missing: a process that ended shows here.
        tcpext = parse_tcpext(process.read(_NETSTAT), _TCPEXT_FIELDS)
        if is_recording():
            _note(target, _NETSTAT, "TcpExt", _TCPEXT_FIELDS, tcpext)
            _note(target, _SNMP, "Tcp", _TCP_FIELDS, tcp)
            _note(target, _SNMP, "Udp", _UDP_FIELDS, udp)
            _note(target, _SNMP6, "Udp6", _UDP_FIELDS, udp6)
        both = [None if v4 is None or v6 is None else v4 + v6 for v4, v6 in zip(udp, udp6, strict=True)]
        for metrics, numbers in ((_TCPEXT, tcpext), (_TCP, tcp), (_UDP, both)):
            for metric, number in zip(metrics, numbers, strict=True):
                if number is None:
                    absent[metric.name] = _UNKNOWN
                else:
                    yield metric, number, ()
        percent = self._retrans_percent(key, tcp[_RETRANS], tcp[_OUT])
        if isinstance(percent, str):
            absent[RETRANS_PERCENT.name] = percent
        else:
            yield RETRANS_PERCENT, percent, ()

    def forget(self, target: Target) -> None:
        """Drop what was kept of the container."""
        self._sent.pop(target.container.key, None)
        self._absent.pop(target.container.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why `metric` had no value for `target` in the last cycle."""
        return self._absent.get(target.container.key, {}).get(metric.name)

    def _retrans_percent(self, key: str, retrans: int | None, out: int | None) -> float | str:
        """The share since the last cycle, or in words why there is none."""
        if retrans is None or out is None:
            return _UNKNOWN
        before = self._sent.get(key)
        self._sent[key] = (retrans, out)
        if before is None:
            return _NEEDS_TWO
        again, first = retrans - before[0], out - before[1]
        if again < 0 or first < 0:
            return _WENT_BACK
        return round(again / (again + first) * 100, 3) if again + first else _NOTHING_SENT


def _read_udp6(target: Target) -> Numbers:
    """Counters of UDP over IPv6: none where the kernel has no IPv6 and so no such file."""
    try:
        content = target.process.read(_SNMP6)
    except GoneError:
        return (0,) * len(_UDP_FIELDS)
    return parse_udp6(content, _UDP_FIELDS)


def _note(target: Target, file: str, protocol: str, fields: tuple[str, ...], numbers: Numbers) -> None:
    """Tell `explain` the numbers by name: in two of the files a name stands far from its number."""
    lines = (f"{protocol} {field} {number}" for field, number in zip(fields, numbers, strict=True))
    note(f"{file} of {target.process.path}: {protocol}", "\n".join((*lines, "")).encode())
