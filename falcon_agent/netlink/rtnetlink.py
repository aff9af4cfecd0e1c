"""The host's network interfaces: what they are, whose peers they are, and their counters (rtnetlink(7))."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from falcon_agent.errors import ParseError
from falcon_agent.netlink.wire import (
    NETLINK_ROUTE,
    InterruptedDumpError,
    ask,
    ask_in_bulk,
    attribute,
    open_netlink,
    parse_attributes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from falcon_agent.netlink.wire import NetlinkSocket, Span

    T = TypeVar("T")

_RTM_GETLINK = 18
_RTM_GETNSID = 90
_RTM_GETSTATS = 94

_IFLA_IFNAME = 3
_IFLA_LINK = 5
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1
_IFLA_EXT_MASK = 29
_IFLA_LINK_NETNSID = 37
_SKIP_STATS = 1 << 3
"""RTEXT_FILTER_SKIP_STATS: another request gives the counters, cheaper."""

_IFLA_STATS_LINK_64 = 1
_NETNSA_NSID = 1
_NETNSA_PID = 2
_NETNSA_FD = 3

_IFINFOMSG = struct.Struct("=BxHiII")
_IF_STATS_MSG = struct.Struct("=BxHII")
_STATS = struct.Struct("=8Q")
_USUAL_STATS = struct.Struct("=4xI4x HH 8Q")
"""The usual RTM_NEWSTATS: `if_stats_msg`, and up to the end IFLA_STATS_LINK_64, here as far as it is used."""
_INT = struct.Struct("=i")
_RTGENMSG = bytes(4)

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Link:
    """An interface of the namespace that was asked.

    Attributes:
        ifindex: its index, unique in its namespace only.
        name: its name.
        kind: e.g. `veth`, `bridge`, `macvlan`; empty for hardware and loopback.
        link: index of the interface it belongs to (IFLA_LINK), the other end of a veth, the parent of a
            macvlan; None where there is none.
        link_netnsid: id of the namespace that `link` counts in, if that is not this one; None if it is.
    """

    ifindex: int
    name: str
    kind: str
    link: int | None
    link_netnsid: int | None


class LinkStats(NamedTuple):
    """The first counters of `struct rtnl_link_stats64`, since the interface was made (linux/if_link.h).

    Attributes:
        rx_packets: packets received.
        tx_packets: packets sent.
        rx_bytes: bytes received, link-layer headers included.
        tx_bytes: bytes sent, link-layer headers included.
        rx_errors: bad packets received.
        tx_errors: packets that could not be sent for an error.
        rx_dropped: packets received and not processed.
        tx_dropped: packets dropped on their way out.
    """

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


def links(timeout: float = 2.0) -> list[Link]:
    """Every interface of this thread's network namespace; needs no privilege.

    As a side effect the kernel gives an id to each namespace that holds the other end of one
    (`namespace_id`).

    Raises:
        KernelFileError: no answer, or one that changed with every attempt.
        ParseError: the answer does not have the documented form.
    """
    body = _IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _INT.pack(_SKIP_STATS))
    what = "RTM_GETLINK"
    return _dump(
        lambda sock: [parse_link(payload) for payload in ask(sock, _RTM_GETLINK, body, what, dump=True)],
        timeout,
    )


def link_stats(timeout: float = 2.0) -> dict[int, LinkStats]:
    """The counters of every interface of this thread's network namespace by index; needs no privilege.

    Raises:
        KernelFileError: no answer; Linux before 4.7 does not know the question.
        ParseError: the answer does not have the documented form.
    """
    body = _IF_STATS_MSG.pack(0, 0, 0, 1 << (_IFLA_STATS_LINK_64 - 1))
    return _dump(lambda sock: read_stats(ask_in_bulk(sock, _RTM_GETSTATS, body, "RTM_GETSTATS")), timeout)


def namespace_id(pid: int, timeout: float = 2.0) -> int | None:
    """The id by which this network namespace knows that of process `pid`, as in `Link.link_netnsid`.

    To ask is a GET, so it needs neither a privilege nor access to the process.

    Args:
        pid: as numbered in this process's own pid namespace.
        timeout: seconds.

    Returns:
        The id, or None where none was given: no interface here has its other end there.

    Raises:
        GoneError: there is no such process.
        KernelFileError: no answer.
        ParseError: the answer does not have the documented form.
    """
    return _ask_namespace_id(_NETNSA_PID, pid, f"RTM_GETNSID of pid {pid}", timeout)


def namespace_id_of(descriptor: int, what: str, timeout: float = 2.0) -> int | None:
    """Like `namespace_id`, of the namespace that is open as `descriptor` (/proc/PID/ns/net).

    This works whichever pid namespace the process is in, but to open that file takes CAP_SYS_PTRACE.

    Args:
        descriptor: on a network namespace; close it at once after: it keeps the namespace alive.
        what: names the namespace in errors.
        timeout: seconds.

    Returns:
        The id, or None where none was given.

    Raises:
        KernelFileError: it is no descriptor on a network namespace, or no answer.
        ParseError: the answer does not have the documented form.
    """
    return _ask_namespace_id(_NETNSA_FD, descriptor, f"RTM_GETNSID of {what}", timeout)


def _ask_namespace_id(kind: int, value: int, what: str, timeout: float) -> int | None:
    body = _RTGENMSG + attribute(kind, _INT.pack(value))
    with open_netlink(NETLINK_ROUTE, timeout) as sock:
        for payload in ask(sock, _RTM_GETNSID, body, what, dump=False):
            return parse_namespace_id(payload)
    raise ParseError(what, "an empty answer")


def _dump(read: Callable[[NetlinkSocket], T], timeout: float) -> T:
    """What `read` makes of the answer to a dump; asked again where the list changed meanwhile."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return _dump_once(read, timeout)
        except InterruptedDumpError:
            continue
    return _dump_once(read, timeout)


def _dump_once(read: Callable[[NetlinkSocket], T], timeout: float) -> T:
    with open_netlink(NETLINK_ROUTE, timeout) as sock:
        return read(sock)


def parse_link(payload: memoryview) -> Link:
    """An RTM_NEWLINK message: `struct ifinfomsg` and attributes.

    Raises:
        ParseError: it is cut short, or has no name.
    """
    what = "RTM_NEWLINK"
    try:
        ifindex = _IFINFOMSG.unpack_from(payload)[2]
        found = parse_attributes(payload[_IFINFOMSG.size :], what)
        info = parse_attributes(found[_IFLA_LINKINFO], what) if _IFLA_LINKINFO in found else {}
        return Link(
            ifindex=ifindex,
            name=_text(found[_IFLA_IFNAME]),
            kind=_text(info.get(_IFLA_INFO_KIND, memoryview(b""))),
            link=_optional_int(found.get(_IFLA_LINK)),
            link_netnsid=_optional_int(found.get(_IFLA_LINK_NETNSID)),
        )
    except (struct.error, KeyError):
        raise ParseError(what, "a field is missing or cut short") from None


def read_stats(answer: Iterable[tuple[bytes, list[Span]]]) -> dict[int, LinkStats]:
    """The counters in an answer of RTM_NEWSTATS messages, by index of the interface.

    A message with anything but the attribute that was asked for is taken apart as `parse_stats` does, which takes
    five times as long.

    Raises:
        ParseError: as `parse_stats`.
    """
    found = {}
    unpack, size, head = _USUAL_STATS.unpack_from, _USUAL_STATS.size, _IF_STATS_MSG.size
    for datagram, spans in answer:
        for start, end in spans:
            if end - start >= size:
                row = unpack(datagram, start)
                if row[1:3] == (end - start - head, _IFLA_STATS_LINK_64):
                    found[row[0]] = LinkStats._make(row[3:])
                    continue
            ifindex, stats = parse_stats(memoryview(datagram)[start:end])
            found[ifindex] = stats
    return found


def parse_stats(payload: memoryview) -> tuple[int, LinkStats]:
    """An RTM_NEWSTATS message: the interface's index and its counters.

    Raises:
        ParseError: it is cut short, or has no counters.
    """
    what = "RTM_NEWSTATS"
    try:
        ifindex = _IF_STATS_MSG.unpack_from(payload)[2]
        found = parse_attributes(payload[_IF_STATS_MSG.size :], what)
        return ifindex, LinkStats._make(_STATS.unpack_from(found[_IFLA_STATS_LINK_64]))
    except (struct.error, KeyError):
        raise ParseError(what, "a field is missing or cut short") from None


def parse_namespace_id(payload: memoryview) -> int | None:
    """An RTM_NEWNSID message: the id, or None for the kernel's -1, "not assigned".

    Raises:
        ParseError: it is cut short, or has no id.
    """
    what = "RTM_NEWNSID"
    try:
        (nsid,) = _INT.unpack_from(parse_attributes(payload[len(_RTGENMSG) :], what)[_NETNSA_NSID])
    except (struct.error, KeyError):
        raise ParseError(what, "the id is missing or cut short") from None
    return nsid if nsid >= 0 else None


def _text(value: memoryview) -> str:
    """A string that ends with a zero byte."""
    return bytes(value).rstrip(b"\0").decode(errors="backslashreplace")


def _optional_int(value: memoryview | None) -> int | None:
    return None if value is None else int(_INT.unpack_from(value)[0])
