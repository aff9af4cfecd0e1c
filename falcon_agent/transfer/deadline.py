"""One end for a whole exchange, and connections that keep it.

The usual timeouts count from byte to byte, so a server that sends one byte a second holds its client for
ever. Here the time that is left is set on the socket before everything that may block. No thread watches, so
none can be left behind. Not covered: looking up a host name, which the resolver bounds
by itself (resolv.conf(5)).
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TypeVar

from falcon_agent.errors import as_value

_Socket = TypeVar("_Socket", bound=socket.socket)
"""A plain one, or one with TLS."""


class Deadline:
    """The end of one exchange, and its socket, so that another thread can end it early.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds
        self.sock: socket.socket | None = None

    def remaining(self) -> float:
        """Seconds left, always more than 0.

        Raises:
            TimeoutError: none are left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left

    def hurry(self, sock: _Socket) -> _Socket:
        """The socket, with what is left as its timeout; sendall() and a TLS handshake count it over all their parts.

        Raises:
            TimeoutError: nothing is left.
        """
        self.sock = sock
        sock.settimeout(self.remaining())
        return sock

    def cut(self) -> None:
        """End the exchange now, from any thread: whatever blocks on its socket returns."""
        self.at = 0.0
        sock = self.sock
        if sock is not None:
            with suppress(OSError):  # closed meanwhile, which is as good
                sock.shutdown(socket.SHUT_RDWR)


def connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    """A connection to the first of the host's addresses that takes one.

    Raises:
        OSError: none does; `socket.gaierror` if it has none.
        ValueError: no host name can look like that.
    """
    # As bytes, because Python loads the tables of all scripts for a name that is text.
    name = host.encode("ascii") if host.isascii() else host.encode("idna")
    failed: OSError = ConnectionRefusedError()
    for family, kind, protocol, _, where in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            # From here on, so that `cut` also ends a connect that hangs.
            deadline.hurry(sock).connect(where)
        except OSError as error:
            sock.close()
            failed = as_value(error)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    try:
        raise failed
    finally:
        del failed
