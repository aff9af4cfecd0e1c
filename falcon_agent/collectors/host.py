"""What containers make worth watching on their host: conntrack, veths, orphans and TCP memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.kernelfile import read_optional, read_to_eof
from falcon_agent.metric import Metric, Source
from falcon_agent.netlink.rtnetlink import links
from falcon_agent.procfs.reader import in_host_network
from falcon_agent.procfs.sockstat import parse_host_sockets
from falcon_agent.procfs.sysctl import parse_number, parse_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample

_COUNT = "net/netfilter/nf_conntrack_count"
_MAX = "net/netfilter/nf_conntrack_max"
_TCP_MEM = "net/ipv4/tcp_mem"
_TCP_MAX_ORPHANS = "net/ipv4/tcp_max_orphans"
_IN_HOST_NETWORK = "an agent in the host's network namespace"

CONNTRACK_COUNT = Metric(
    "host.conntrack.count",
    "GAUGE",
    "connections",
    "Connections that the host's connection tracking keeps; those of containers behind a bridge are among them.",
    "the whole file",
    (Source(_COUNT),),
    needs=_IN_HOST_NETWORK,
)
CONNTRACK_MAX = Metric(
    "host.conntrack.max",
    "GAUGE",
    "connections",
    "How many it may keep; new ones beyond that are dropped.",
    "the whole file",
    (Source(_MAX),),
    needs=_IN_HOST_NETWORK,
)
CONNTRACK_USED_PERCENT = Metric(
    "host.conntrack.used.percent",
    "GAUGE",
    "percent",
    "Share of the connections it may keep that it keeps.",
    "host.conntrack.count / host.conntrack.max x 100",
    (Source(_COUNT), Source(_MAX)),
    needs=_IN_HOST_NETWORK,
)
VETH_COUNT = Metric(
    "host.veth.count",
    "GAUGE",
    "interfaces",
    "veth interfaces on the host, normally one for each interface of a container; more of them were left behind.",
    "interfaces of kind veth",
    (Source("RTM_GETLINK"),),
    needs=_IN_HOST_NETWORK,
)
TCP_ORPHAN = Metric(
    "host.tcp.orphan",
    "GAUGE",
    "sockets",
    "TCP sockets of the host and all its containers that no program holds any more.",
    "orphan",
    (Source("net/sockstat", ("TCP",)),),
)
TCP_ORPHAN_MAX = Metric(
    "host.tcp.orphan.max",
    "GAUGE",
    "sockets",
    "How many of them there may be; those beyond are reset.",
    "the whole file",
    (Source(_TCP_MAX_ORPHANS),),
)
TCP_ALLOC = Metric(
    "host.tcp.alloc",
    "GAUGE",
    "sockets",
    "TCP sockets of the host and all its containers, in any state but TIME_WAIT.",
    "alloc",
    (Source("net/sockstat", ("TCP",)),),
)
TCP_MEM_PAGES = Metric(
    "host.tcp.mem.pages",
    "GAUGE",
    "pages",
    "Memory in the buffers of all TCP sockets of the host and its containers.",
    "mem",
    (Source("net/sockstat", ("TCP",)),),
)
TCP_MEM_LIMIT = Metric(
    "host.tcp.mem.limit",
    "GAUGE",
    "pages",
    "How much there may be; beyond that TCP drops packets and resets orphans, in every container.",
    "the third number",
    (Source(_TCP_MEM),),
)
TCP_MEM_USED_PERCENT = Metric(
    "host.tcp.mem.used.percent",
    "GAUGE",
    "percent",
    "Share of that memory that is taken.",
    "host.tcp.mem.pages / host.tcp.mem.limit x 100",
    (Source("net/sockstat", ("TCP",)), Source(_TCP_MEM)),
)


class HostCollector:
    """What containers share with their host and can use up for each other, unseen by the standard agent.

    Costs five small files and one netlink dump for each cycle: 0.2 ms of CPU time, and 18 us for each
    interface of the host. Needs no privilege.

    Connection tracking and veths belong to a network namespace: they are sent only by an agent that is in the
    host's. The numbers of TCP hold for all namespaces; the kernel shows its limits in the host's only. What
    is said of connection tracking is absent where the kernel does not have it.

    Args:
        proc: where the host's /proc is.
    """

    name = "host"
    scope: Scope = "host"
    metrics: tuple[Metric, ...] = (
        CONNTRACK_COUNT,
        CONNTRACK_MAX,
        CONNTRACK_USED_PERCENT,
        VETH_COUNT,
        TCP_ORPHAN,
        TCP_ORPHAN_MAX,
        TCP_ALLOC,
        TCP_MEM_PAGES,
        TCP_MEM_LIMIT,
        TCP_MEM_USED_PERCENT,
    )

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def begin(self, targets: Sequence[Target]) -> None:
        """Nothing is shared."""

    def collect(self, target: Target | None) -> Iterator[Sample]:
        """The samples of the host.

        Raises:
            KernelFileError, ParseError: a file could not be read, or has not the documented form.
        """
        yield from self._tcp()
        # What /proc/sys/net and netlink show is the reader's own namespace.
        if in_host_network(self._proc):
            yield from self._conntrack()
            yield VETH_COUNT, sum(link.kind == "veth" for link in links()), ()

    def _tcp(self) -> Iterator[Sample]:
        # That of any process will do: these fields are the same in every namespace.
        sockets = parse_host_sockets(read_to_eof(f"{self._proc}/self/net/sockstat"))
        yield TCP_ORPHAN, sockets.tcp_orphan, ()
        yield TCP_ALLOC, sockets.tcp_alloc, ()
        yield TCP_MEM_PAGES, sockets.tcp_mem_pages, ()
        orphans = read_optional(f"{self._proc}/sys/{_TCP_MAX_ORPHANS}")
        if orphans is not None:
            yield TCP_ORPHAN_MAX, parse_number(orphans, _TCP_MAX_ORPHANS), ()
        memory = read_optional(f"{self._proc}/sys/{_TCP_MEM}")
        if memory is not None:
            limit = parse_numbers(memory, _TCP_MEM, 3)[2]
            yield TCP_MEM_LIMIT, limit, ()
            yield from _percent(TCP_MEM_USED_PERCENT, sockets.tcp_mem_pages, limit)

    def _conntrack(self) -> Iterator[Sample]:
        files = [read_optional(f"{self._proc}/sys/{name}") for name in (_COUNT, _MAX)]
        if files[0] is None or files[1] is None:
            return
        count, most = parse_number(files[0], _COUNT), parse_number(files[1], _MAX)
        yield CONNTRACK_COUNT, count, ()
        yield CONNTRACK_MAX, most, ()
        yield from _percent(CONNTRACK_USED_PERCENT, count, most)

    def forget(self, target: Target) -> None:
        """Nothing is kept."""

    def absent(self, metric: Metric, target: Target) -> str | None:
        """It is about no container."""
        return None


def _percent(metric: Metric, part: int, whole: int) -> Iterator[Sample]:
    """Nothing where the limit is 0, which means none."""
    if whole:
        yield metric, round(part / whole * 100, 3), ()
