"""HTTP connections that keep a deadline for the whole exchange.

The usual timeouts count from byte to byte, so a server that sends one byte a second holds its client for
ever. Here the time that is left is set on the socket before everything that may block. No thread watches, so
none can be left behind. Not covered: looking up a host name, which the resolver bounds
by itself (resolv.conf(5)).
"""

from __future__ import annotations

import io
import socket
import time
from contextlib import suppress
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


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

    def cut(self) -> None:
        """End the exchange now, from any thread: whatever blocks on its socket returns."""
        self.at = 0.0
        sock = self.sock
        if sock is not None:
            with suppress(OSError):  # closed meanwhile, which is as good
                sock.shutdown(socket.SHUT_RDWR)


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


class _Reader(io.RawIOBase):
    """The receiving side of a socket; every read waits no longer than the deadline allows."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        # Holds the descriptor open even after http.client has closed its socket object ("Connection: close").
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        self._sock.settimeout(self._deadline.remaining())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        deadline = _current.get()
        if deadline is not None:
            self.fp.close()
            self.fp = io.BufferedReader(_Reader(sock, deadline))


class _Deadlined(HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        deadline = _current.get()
        if deadline is not None:
            self.timeout = deadline.remaining()
        super().connect()
        self._hurry()

    def send(self, data: Any) -> None:
        self._hurry()
        super().send(data)

    def _hurry(self) -> None:
        """Set what is left on the socket; sendall() and a TLS handshake count it over all their parts."""
        deadline = _current.get()
        if deadline is not None and self.sock is not None:
            deadline.sock = self.sock
            self.sock.settimeout(deadline.remaining())


class _DeadlinedTLS(_Deadlined, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Deadlined


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _DeadlinedTLS


class DeadlineAdapter(HTTPAdapter):
    """A transport for `requests` whose exchanges end at the deadline that is set by `use`."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Have the connections made by the classes above."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}


def use(deadline: Deadline | None) -> None:
    """Exchanges that this thread begins from now on end at `deadline`; None takes it away."""
    _current.set(deadline)
