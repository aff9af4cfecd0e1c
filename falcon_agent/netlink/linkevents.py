"""Where network interfaces changed, told by the kernel as it happens (rtnetlink(7), netlink(7)).

An rtnetlink socket that listens to link events hears those of its own network namespace, and with
NETLINK_LISTEN_ALL_NSID those of every other one that its namespace has an id for, which has each that holds
the other end of a veth. The id comes beside the message, as ancillary data.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import weakref
from dataclasses import dataclass

from falcon_agent.errors import DeniedError, KernelFileError
from falcon_agent.netlink.wire import NETLINK_ROUTE, open_netlink

_SOL_NETLINK = 270
_NETLINK_LISTEN_ALL_NSID = 8
_RTMGRP_LINK = 1

_KERNEL_PORT = 0
_NOTHING_OF_IT = 0
"""Bytes wanted of a message: the id beside it says all that is asked here."""
_ANCILLARY_BYTES = socket.CMSG_SPACE(4)
_INT = struct.Struct("=i")

MAX_EVENTS = 512
"""Read at a time. The kernel keeps about fifty of these messages in a socket's usual buffer; more come only while
somebody makes them faster than they are read."""


@dataclass(frozen=True, slots=True)
class LinkChanges:
    """Where interfaces came, went or changed since the last time.

    Attributes:
        here: in the namespace of the socket.
        elsewhere: the ids of other namespaces, as in `Link.link_netnsid`.
        lost: there were more events than are kept, so it may have been anywhere.
    """

    here: bool = False
    elsewhere: frozenset[int] = frozenset()
    lost: bool = False

    def __bool__(self) -> bool:
        return self.here or self.lost or bool(self.elsewhere)


class LinkEvents:
    """A socket on which link events wait until they are asked for.

    It belongs to the namespace of the thread that makes it, and holds none of those that it hears of. What
    waits is bounded by the socket's buffer, and what one call reads by `MAX_EVENTS`, whatever containers do.

    Raises:
        DeniedError: CAP_NET_BROADCAST is missing.
        KernelFileError: Linux before 4.2, or no descriptor is left.
    """

    def __init__(self) -> None:
        self._socket = _listen()
        self._was_emptied = True
        self._closing = weakref.finalize(self, self._socket.close)

    def drain(self) -> LinkChanges:
        """What happened since the last call, or since the socket was made; does not wait.

        What it tells of has happened before: read the interfaces after it.

        Raises:
            KernelFileError: the socket cannot be read.
        """
        here = False
        elsewhere: set[int] = set()
        # The kernel tells of an overrun once, and drops on in silence until the buffer has been empty.
        lost = not self._was_emptied
        for _ in range(MAX_EVENTS):
            try:
                _, ancillary, _, sender = self._socket.recvmsg(_NOTHING_OF_IT, _ANCILLARY_BYTES)
            except BlockingIOError:
                self._was_emptied = True
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelFileError("link events", os.strerror(error.errno or errno.EIO)) from None
                lost = True
                continue
            if sender[0] != _KERNEL_PORT:
                continue
            nsid = _namespace_id(ancillary)
            if nsid is None:
                here = True
            else:
                elsewhere.add(nsid)
        else:
            self._was_emptied = False
            lost = True
        return LinkChanges(here, frozenset(elsewhere), lost)

    def close(self) -> None:
        """Stop listening; may be called twice."""
        self._closing()


def _listen() -> socket.socket:
    made = open_netlink(NETLINK_ROUTE)
    try:
        made.setblocking(False)  # noqa: FBT003  the name of the argument is the method's
        made.setsockopt(_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
        made.bind((0, _RTMGRP_LINK))
    except OSError as error:
        made.close()
        if error.errno == errno.EPERM:
            raise DeniedError(
                "link events", "of other network namespaces only with CAP_NET_BROADCAST"
            ) from None
        raise KernelFileError("link events", os.strerror(error.errno or errno.EIO)) from None
    return made


def _namespace_id(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The id of the namespace that an event is from; None for the socket's own."""
    for level, kind, value in ancillary:
        if (level, kind) == (_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID) and len(value) >= _INT.size:
            return int(_INT.unpack_from(value)[0])
    return None
