"""Which veth of the host is which interface of which container, and why one has none."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from falcon_agent.errors import DeniedError, FalconAgentError, KernelFileError
from falcon_agent.kernelfile import read_error, read_to_eof
from falcon_agent.netlink.linkevents import LinkChanges, LinkEvents
from falcon_agent.netlink.rtnetlink import links, namespace_id, namespace_id_of
from falcon_agent.procfs.dev_snmp6 import parse_ifindex
from falcon_agent.procfs.igmp import parse_igmp
from falcon_agent.procfs.net_dev import NetDev, parse_net_dev
from falcon_agent.procfs.reader import has_our_pids, in_host_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from falcon_agent.collectors.base import Target
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
"""Without link events: age at which the host's interfaces are looked at anew although they are the same ones.
One end of a veth can move to another container without a change on the host but in what it says of the
other end. A little less than the usual step."""
_REMAP_SECONDS = 600.0
"""Age at which everything is mapped anew. Without link events this is how a new name inside is noticed."""

NO_VETH = (
    "no veth of this host has its other end there"
    " (macvlan, ipvlan, tunnel, hardware, or a veth that leads into another namespace)"
)
NO_INDEX = "its index is not known: it is down or without IPv4 (net/igmp), and has no IPv6 (net/dev_snmp6)"
NOT_IN_HOST_NETWORK = (
    "the agent is not in the host's network namespace, so the host's veths are not visible to it;"
    " no veth of its own namespace has its other end there"
)
OTHER_PIDS = (
    "the agent is not in the pid namespace that {proc} shows:"
    " without CAP_SYS_PTRACE it cannot find out which veths are this container's"
)


@dataclass(slots=True)
class Interfaces:
    """The interfaces of one container.

    Attributes:
        names: of those that are measured; None where they could not be read.
        nsid: how this host's namespace calls the container's, None where it has no name for it.
        ends: every veth of the host whose other end is in the container, by the index of that end.
        veths: by interface name, the host's end.
        unmapped: by interface name, why there is none, in words; by the empty name, what is not about one.
        is_stale: what is here may not be so any more, or could not be found out.
    """

    names: tuple[str, ...] | None = None
    nsid: int | None = None
    ends: Mapping[int, Link] = field(default_factory=dict)
    veths: dict[str, Link] = field(default_factory=dict)
    unmapped: dict[str, str] = field(default_factory=dict)
    is_stale: bool = False


class VethMap:
    """The veths of the containers that are asked about, made anew where the kernel says that something changed.

    Of a veth the kernel says in which namespace its other end is, and its index there: an index alone is found
    in every namespace. The name to that index comes from the container's own /proc/PID/net.

    With CAP_NET_BROADCAST the kernel tells of every change of an interface, here and in each container
    that a veth leads to. Without it changes that leave the host's list of interfaces the same are noticed by age.

    Args:
        proc: where /proc is mounted.
        clock: monotonic seconds.
    """

    def __init__(self, proc: str, clock: Callable[[], float]) -> None:
        self._proc = proc
        self._clock = clock
        self._has_our_pids = has_our_pids(proc)
        self._known: dict[str, Interfaces] = {}
        self._ifindexes: frozenset[int] = frozenset()
        self._looked_at = self._mapped_at = float("-inf")
        self._events: LinkEvents | None = None
        self._listened = False

    def get(self, key: str) -> Interfaces | None:
        """What was found out of a container, by its key; None if nothing was."""
        return self._known.get(key)

    def forget(self, key: str) -> None:
        """The container left."""
        self._known.pop(key, None)

    def clear(self) -> None:
        """Nothing known is to be relied upon any more."""
        self._known.clear()
        self._ifindexes = frozenset()

    def update(self, targets: Sequence[Target], ifindexes: frozenset[int]) -> None:
        """Map what is new or may have changed since the last time.

        Args:
            targets: the containers of this cycle.
            ifindexes: the host's interfaces now.

        Raises:
            KernelFileError: the host's interfaces cannot be read.
            ParseError: the kernel's answer does not have the documented form.
        """
        changes = self._changes()
        now = self._clock()
        if changes.lost or now - self._mapped_at >= _REMAP_SECONDS:
            self._known.clear()
            self._mapped_at = now
        if changes.elsewhere:
            for known in self._known.values():
                known.is_stale |= known.nsid in changes.elsewhere
        get = self._known.get
        if (
            not changes
            and ifindexes == self._ifindexes
            and (self._events is not None or now - self._looked_at < _LOOK_SECONDS)
            and all((one := get(target.container.key)) and not one.is_stale for target in targets)
        ):
            return
        ends = _ends_by_namespace(links())
        for target in targets:
            one = get(target.container.key)
            if one is None or one.is_stale or one.nsid is None or one.ends != ends.get(one.nsid, {}):
                self._known[target.container.key] = self._map(target, ends)
        self._ifindexes = ifindexes
        self._looked_at = now

    def _changes(self) -> LinkChanges:
        """What the kernel told since the last time; nothing where it does not tell us."""
        try:
            if not self._listened:
                self._listened = True
                self._events = LinkEvents()
            return self._events.drain() if self._events else LinkChanges()
        except KernelFileError as error:
            log.info("changes of interfaces are noticed by their age from now on: %s", error)
            self._events = None
            return LinkChanges(lost=True)

    def _map(self, target: Target, ends: _Ends) -> Interfaces:
        """The interfaces of one container."""
        found = Interfaces()
        try:
            found.nsid = self._namespace_id(target)
            # Read after it: that the process is still there says that its pid was its own until now.
            names = tuple(own_interfaces(target))
        except DeniedError as error:
            found.unmapped[""] = NOT_IN_HOST_NETWORK if in_host_network(self._proc) is False else str(error)
            return found
        except FalconAgentError as error:
            found.unmapped[""] = str(error)
            found.is_stale = True
            return found
        if len(names) > MAX_INTERFACES:
            found.unmapped[""] = f"of its {len(names)} interfaces only {MAX_INTERFACES} are measured"
        found.names = names[:MAX_INTERFACES]
        if found.nsid is not None:
            found.ends = ends.get(found.nsid, {})
        if not found.ends:
            why = NOT_IN_HOST_NETWORK if in_host_network(self._proc) is False else NO_VETH
            found.unmapped |= dict.fromkeys(found.names, why)
            return found
        indexes = _indexes(target, found.names)
        for name in found.names:
            index = indexes.get(name)
            if index is None:
                found.unmapped[name] = NO_INDEX
            elif index in found.ends:
                found.veths[name] = found.ends[index]
            else:
                found.unmapped[name] = NO_VETH
        return found

    def _namespace_id(self, target: Target) -> int | None:
        """How the kernel calls the container's namespace here."""
        process = target.process
        if self._has_our_pids:
            return namespace_id(process.pid)
        path = f"{process.path}/ns/net"
        try:
            descriptor = os.open("ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process.fd)
        except PermissionError:
            raise DeniedError(path, OTHER_PIDS.format(proc=self._proc)) from None
        except OSError as error:
            raise read_error(path, error) from None
        try:
            return namespace_id_of(descriptor, path)
        finally:
            os.close(descriptor)


def own_interfaces(target: Target) -> dict[str, NetDev]:
    """The container's own view of its interfaces, by name, in the kernel's order; errors as `read_to_eof`."""
    process = target.process
    content = read_to_eof("net/dev", dir_fd=process.fd, base=process.path, limit=_MAX_FILE_BYTES)
    return {name: row for name, row in parse_net_dev(content).items() if name not in _LEFT_OUT}


def _ends_by_namespace(found: Iterable[Link]) -> _Ends:
    """The veths of the host by namespace id and index of their other end."""
    ends: dict[int, dict[int, Link]] = {}
    for link in found:
        if link.kind == "veth" and link.link_netnsid is not None and link.link is not None:
            ends.setdefault(link.link_netnsid, {})[link.link] = link
    return ends


def _indexes(target: Target, names: Iterable[str]) -> dict[str, int]:
    """The indexes of a container's interfaces, as far as it shows them to a reader without privilege.

    One file names all that are up and have IPv4; of the others each has its own, if it has IPv6.
    """
    process = target.process
    indexes: dict[str, int] = {}
    # Neither file has to be there; the first also grows as the container joins groups.
    with suppress(KernelFileError):
        igmp = read_to_eof("net/igmp", dir_fd=process.fd, base=process.path, limit=_MAX_FILE_BYTES)
        indexes = {name: index for index, name in parse_igmp(igmp).items()}
    for name in names:
        if name not in indexes:
            # The kernel takes no name with a slash for an interface, nor `.` or `..`.
            with suppress(KernelFileError):
                indexes[name] = parse_ifindex(process.read(f"net/dev_snmp6/{name}"))
    return indexes
