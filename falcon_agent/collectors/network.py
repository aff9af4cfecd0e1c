"""Traffic of each network interface of a container, from the host's side of its veth where it has one."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from falcon_agent.errors import FalconAgentError, GoneError, KernelFileError
from falcon_agent.kernelfile import is_recording, note, read_error, read_to_eof
from falcon_agent.metric import Metric, Source
from falcon_agent.netlink.rtnetlink import LinkStats, link_stats, links, namespace_id
from falcon_agent.procfs.igmp import parse_igmp
from falcon_agent.procfs.net_dev import NetDev, parse_net_dev

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample
    from falcon_agent.netlink.rtnetlink import Link

    _Ends = Mapping[int, Mapping[int, Link]]

log = logging.getLogger(__name__)

_LEFT_OUT = frozenset(
    {"lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"}
)
"""Loopback, and the fallback devices that tunnel drivers put into every namespace."""

MAX_INTERFACES = 64
"""Interfaces of one container that are reported, the kernel's first: its root may make any number of them."""
_MAX_FILE_BYTES = 1024 * 1024
"""For net/dev and net/igmp, which grow as a container makes interfaces and joins groups."""

_LOOK_SECONDS = 55.0
"""Age at which the host's interfaces are looked at anew although they are the same ones: one end of a veth
can move to another container without a change on the host but in what it says of the other end. A little
less than the usual step."""
_REMAP_SECONDS = 600.0
"""Age at which everything is mapped anew: that a container renames its interface shows nowhere on the
host."""

# What the container receives is what the host's end sends.
_WAYS = (
    ("in", "bytes", "tx_bytes", "rx_bytes"),
    ("in", "packets", "tx_packets", "rx_packets"),
    ("in", "errors", "tx_errors", "rx_errs"),
    ("in", "dropped", "tx_dropped", "rx_drop"),
    ("out", "bytes", "rx_bytes", "tx_bytes"),
    ("out", "packets", "rx_packets", "tx_packets"),
    ("out", "errors", "rx_errors", "tx_errs"),
    ("out", "dropped", "rx_dropped", "tx_drop"),
)
_MEANINGS = {
    "bytes": "Bytes per second, link-layer headers included, that the container {verb}.",
    "packets": "Packets per second that the container {verb}.",
    "errors": "Packets per second with errors, of those that the container {verb}.",
    "dropped": "Packets per second that were dropped, of those that the container {verb}.",
}


def _metric(way: str, what: str, host: str, own: str) -> Metric:
    return Metric(
        name=f"container.net.if.{way}.{what}",
        counter_type="COUNTER",
        unit="bytes" if what == "bytes" else "packets",
        help=_MEANINGS[what].format(verb={"in": "received", "out": "sent"}[way]),
        formula=f"{host} of the host's end of the veth; without one, {own} of the interface in net/dev",
        sources=(Source("RTM_GETSTATS", (host,)), Source("net/dev")),
        tags=("iface", "veth"),
    )


_METRICS = tuple((_metric(*way), way[2], way[3]) for way in _WAYS)


@dataclass(slots=True)
class _Map:
    """The interfaces of one container.

    Attributes:
        nsid: how this host's namespace calls the container's, None where it has no name for it.
        ends: every veth of the host whose other end is in the container, by the index of that end.
        veths: by interface name, the host's end.
        unmapped: by interface name, why there is none, in words.
    """

    nsid: int | None = None
    ends: Mapping[int, Link] = field(default_factory=dict)
    veths: dict[str, Link] = field(default_factory=dict)
    unmapped: dict[str, str] = field(default_factory=dict)


class NetworkCollector:
    """Collector `network`, asked once per network namespace.

    One request per cycle gives the counters of all interfaces of the host. Whose they are is known exactly:
    of a veth the kernel says in which namespace its other end is, and its index there; an index alone is
    found in every namespace. What has no veth here (macvlan, ipvlan, sr-iov) is read from the container's
    own net/dev.

    Args:
        proc: where /proc is mounted.
        veth_tag: whether records carry the name of the host's end as tag `veth`.
        clock: monotonic seconds.
    """

    name = "network"
    scope: Scope = "netns"
    metrics: tuple[Metric, ...] = tuple(metric for metric, _, _ in _METRICS)

    def __init__(
        self, proc: str = "/proc", *, veth_tag: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._veth_tag = veth_tag
        self._clock = clock
        self._proc = proc
        self._maps: dict[str, _Map] = {}
        self._looked_at = self._mapped_at = float("-inf")
        self._stats: Mapping[int, LinkStats] = {}
        self._ifindexes: frozenset[int] = frozenset()
        self._failure = ""
        self._reasons: dict[str, str] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Read the host's counters, and find out whose interfaces they are where that may have changed.

        Without netlink every container's own net/dev is read instead.
        """
        try:
            self._read_host(targets)
        except FalconAgentError as error:
            if self._failure != str(error):
                log.warning("the host's interfaces cannot be used: %s", error)
            self._failure = str(error)
            self._stats = {}
            self._ifindexes = frozenset()
            self._maps.clear()
        else:
            self._failure = ""

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The counters of one namespace's interfaces; see `Collector.collect`."""
        if target is None:
            return
        key = target.container.key
        known = self._maps.get(key)
        hosts = known.veths if known else {}
        _still_there(target)
        own: Mapping[str, NetDev] = {}
        if (
            known is None
            or known.unmapped
            or not self._ifindexes.issuperset(v.ifindex for v in hosts.values())
        ):
            own = _interfaces(target)
        names = list(hosts) + [name for name in own if name not in hosts]
        if names:
            self._reasons.pop(key, None)
        else:
            self._reasons[key] = "it has no network interface but loopback"
        for name in names[:MAX_INTERFACES]:
            veth = hosts.get(name)
            stats = self._stats.get(veth.ifindex) if veth else None
            if veth and stats:
                if is_recording():
                    _note(name, veth, stats)
                tags = (("iface", name), ("veth", veth.name)) if self._veth_tag else (("iface", name),)
                for metric, attribute, _ in _METRICS:
                    yield metric, getattr(stats, attribute), tags
            elif name in own:
                row = own[name]
                for metric, _, attribute in _METRICS:
                    yield metric, getattr(row, attribute), (("iface", name),)

    def forget(self, target: Target) -> None:
        """Drop the container's part of the map."""
        self._maps.pop(target.container.key, None)
        self._reasons.pop(target.container.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why there was no interface to report in the last cycle."""
        return self._reasons.get(target.container.key)

    def veths(self, target: Target) -> dict[str, str]:
        """The host's end of each interface of a container, by interface name; as of the last `begin`."""
        known = self._maps.get(target.container.key)
        return {name: veth.name for name, veth in known.veths.items()} if known else {}

    def unmapped(self, target: Target) -> dict[str, str]:
        """Why an interface has no host's end, in words, by its name; as of the last `begin`.

        The name is empty for a reason that is not about a single one.
        """
        known = self._maps.get(target.container.key)
        if known is not None:
            return dict(known.unmapped)
        return {"": self._failure} if self._failure else {}

    def _read_host(self, targets: Sequence[Target]) -> None:
        self._stats = link_stats()
        ifindexes = frozenset(self._stats)
        now = self._clock()
        if (
            ifindexes == self._ifindexes
            and now - self._looked_at < _LOOK_SECONDS
            and all(target.container.key in self._maps for target in targets)
        ):
            return
        if not _numbers_our_pids(self._proc):
            raise KernelFileError("RTM_GETNSID", f"{self._proc} does not belong to the agent's pid namespace")
        ends = _ends_by_namespace(links())
        if now - self._mapped_at >= _REMAP_SECONDS:
            self._maps.clear()
            self._mapped_at = now
        for target in targets:
            known = self._maps.get(target.container.key)
            if known is None or known.nsid is None or known.ends != ends.get(known.nsid, {}):
                self._maps[target.container.key] = _map(target, ends)
        self._ifindexes = ifindexes
        self._looked_at = now


def _ends_by_namespace(found: Iterable[Link]) -> _Ends:
    """The veths of the host by namespace id and index of their other end."""
    ends: dict[int, dict[int, Link]] = {}
    for link in found:
        if link.kind == "veth" and link.link_netnsid is not None and link.link is not None:
            ends.setdefault(link.link_netnsid, {})[link.link] = link
    return ends


def _map(target: Target, ends: _Ends) -> _Map:
    """The interfaces of one container."""
    found = _Map()
    try:
        nsid = namespace_id(target.process.pid)
        indexes = {name: index for index, name in _interface_names(target).items()}
        # Read last: that the process is still there says that its pid was its own until now.
        names = list(_interfaces(target))
    except FalconAgentError as error:
        found.unmapped[""] = str(error)
        return found
    if nsid is not None:
        found.nsid = nsid
        found.ends = ends.get(nsid, {})
    if len(names) > MAX_INTERFACES:
        found.unmapped[""] = f"of its {len(names)} interfaces only {MAX_INTERFACES} are measured"
    for name in names[:MAX_INTERFACES]:
        index = indexes.get(name)
        if index is None:
            found.unmapped[name] = "its index is not known: it is down, or without IPv4 (net/igmp)"
        elif index not in found.ends:
            found.unmapped[name] = "no veth of this host has its other end there (macvlan, hardware, tunnel)"
        else:
            found.veths[name] = found.ends[index]
    return found


def _interface_names(target: Target) -> dict[int, str]:
    """Names by index, as far as the container shows them; a kernel without multicast shows none."""
    process = target.process
    try:
        return parse_igmp(
            read_to_eof("net/igmp", dir_fd=process.fd, base=process.path, limit=_MAX_FILE_BYTES)
        )
    except GoneError:
        return {}


def _interfaces(target: Target) -> dict[str, NetDev]:
    process = target.process
    content = read_to_eof("net/dev", dir_fd=process.fd, base=process.path, limit=_MAX_FILE_BYTES)
    return {name: row for name, row in parse_net_dev(content).items() if name not in _LEFT_OUT}


def _still_there(target: Target) -> None:
    """The host's end may outlive the container by a moment.

    Raises:
        GoneError: the process ended.
    """
    try:
        os.stat("net/dev", dir_fd=target.process.fd)
    except OSError as error:
        raise read_error(f"{target.process.path}/net/dev", error) from None


def _numbers_our_pids(proc: str) -> bool:
    """Whether `proc` is of our own pid namespace: RTM_GETNSID takes a pid as we would number it."""
    try:
        return os.readlink(f"{proc}/self") == str(os.getpid())
    except OSError:
        return False


def _note(name: str, veth: Link, stats: LinkStats) -> None:
    """Tell `explain` which interface of the host was used, and why that one."""
    row = (f"{key} {getattr(stats, key)}" for key in LinkStats.__slots__)
    note(f"RTM_GETSTATS {veth.name} (ifindex {veth.ifindex})", "\n".join((*row, "")).encode())
    reason = f"kind {veth.kind}\nlink {veth.link} (ifindex of {name})\nlink_netnsid {veth.link_netnsid}\n"
    note(f"RTM_GETLINK {veth.name}", reason.encode())
