"""Traffic of each network interface of a container, from the host's side of its veth where it has one."""

from __future__ import annotations

import logging
import time
from operator import itemgetter
from typing import TYPE_CHECKING

from falcon_agent.collectors.vethmap import MAX_INTERFACES, VethMap, own_interfaces
from falcon_agent.errors import FalconAgentError
from falcon_agent.kernelfile import is_recording, note
from falcon_agent.metric import Metric, Source
from falcon_agent.netlink.rtnetlink import LinkStats, link_stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.collectors.vethmap import Interfaces
    from falcon_agent.metric import Sample
    from falcon_agent.netlink.rtnetlink import Link

log = logging.getLogger(__name__)

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
_HOSTS = itemgetter(*(LinkStats._fields.index(host) for _, host, _ in _METRICS))
"""Of the counters of the host's end those of each metric, in their order."""


class NetworkCollector:
    """Collector `network`, asked once per network namespace.

    One request per cycle gives the counters of all interfaces of the host. Whose they are is known exactly:
    of a veth the kernel says in which namespace its other end is, and its index there; an index alone is
    found in every namespace. What has no veth here (macvlan, ipvlan, sr-iov) is read from the container's
    own net/dev. It costs about 0.01 ms of CPU for each container whose interfaces are mapped, and 0.05 ms more for one
    that has others. With CAP_NET_BROADCAST a change of interfaces shows in the next cycle, without it after 1 to 10
    minutes.

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
        self._map = VethMap(proc, clock)
        self._stats: Mapping[int, LinkStats] = {}
        self._ifindexes: frozenset[int] = frozenset()
        self._failure = ""
        self._reasons: dict[str, str] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Read the host's counters, and find out whose interfaces they are where that may have changed.

        Without netlink every container's own net/dev is read instead.
        """
        try:
            self._stats = link_stats()
            self._ifindexes = frozenset(self._stats)
            self._map.update(targets, self._ifindexes)
        except FalconAgentError as error:
            if self._failure != str(error):
                log.warning("the host's interfaces cannot be used: %s", error)
            self._failure = str(error)
            self._stats = {}
            self._ifindexes = frozenset()
            self._map.clear()
        else:
            self._failure = ""

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The counters of one namespace's interfaces; see `Collector.collect`."""
        if target is None:
            return ()
        key = target.key
        known = self._map.get(key)
        if known and known.veths and not known.unmapped and (samples := self._by_veths(known.veths)):
            self._reasons.pop(key, None)
            return samples
        return self._by_net_dev(target, known)

    def _by_veths(self, hosts: Mapping[str, Link]) -> list[Sample]:
        """The counters of the hosts' ends; nothing if one of them vanished since the map was made."""
        samples: list[Sample] = []
        for name, veth in hosts.items():
            stats = self._stats.get(veth.ifindex)
            if stats is None:
                return []
            if is_recording():
                _note(name, veth, stats)
            tags = (("iface", name), ("veth", veth.name)) if self._veth_tag else (("iface", name),)
            samples += [
                (metric, value, tags) for metric, value in zip(self.metrics, _HOSTS(stats), strict=True)
            ]
        return samples

    def _by_net_dev(self, target: Target, known: Interfaces | None) -> list[Sample]:
        """Where not every interface has a veth here: of the others what the container's own net/dev says."""
        key = target.key
        own = own_interfaces(target)
        # Where no veth leads the kernel tells nobody of changes; this does.
        if known and known.names is not None and known.names != tuple(own)[:MAX_INTERFACES]:
            known.is_stale = True
        hosts = known.veths if known else {}
        names = list(hosts) + [name for name in own if name not in hosts]
        if names:
            self._reasons.pop(key, None)
        else:
            self._reasons[key] = "it has no network interface but loopback"
        samples: list[Sample] = []
        for name in names[:MAX_INTERFACES]:
            if name in hosts and (found := self._by_veths({name: hosts[name]})):
                samples += found
            elif name in own:
                row, tags = own[name], (("iface", name),)
                samples += [(metric, getattr(row, field), tags) for metric, _, field in _METRICS]
        return samples

    def forget(self, target: Target) -> None:
        """Drop the container's part of the map."""
        self._map.forget(target.key)
        self._reasons.pop(target.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why there was no interface to report in the last cycle."""
        return self._reasons.get(target.key)

    def veths(self, target: Target) -> dict[str, str]:
        """The host's end of each interface of a container, by interface name; as of the last `begin`."""
        known = self._map.get(target.key)
        return {name: veth.name for name, veth in known.veths.items()} if known else {}

    def unmapped(self, target: Target) -> dict[str, str]:
        """Why an interface has no host's end, in words, by its name; as of the last `begin`.

        The name is empty for a reason that is not about a single one. A container that has no interface of
        its own, or uses those of another, has no reasons either.
        """
        container = target.container
        if container.host_network or container.network_of not in {"", container.id}:
            return {}
        known = self._map.get(container.key)
        if known is not None:
            return dict(known.unmapped)
        return {"": self._failure} if self._failure and container.key not in self._reasons else {}


def _note(name: str, veth: Link, stats: LinkStats) -> None:
    """Tell `explain` which interface of the host was used, and why that one."""
    row = (f"{key} {getattr(stats, key)}" for key in LinkStats._fields)
    note(f"RTM_GETSTATS {veth.name} (ifindex {veth.ifindex})", "\n".join((*row, "")).encode())
    reason = f"kind {veth.kind}\nlink {veth.link} (ifindex of {name})\nlink_netnsid {veth.link_netnsid}\n"
    note(f"RTM_GETLINK {veth.name}", reason.encode())
