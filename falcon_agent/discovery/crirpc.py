"""gRPC over HTTP/2 on a Unix socket, as far as container runtimes need it, in a way that cannot hang or drip.

The protocol is described at https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. The h2 package knows
HTTP/2; the socket is ours, so that one deadline holds for a whole answer, another thread can cut it off at any moment,
and its size is bounded. The grpcio package takes 10 MB (docs/decisions/003-cri-client.md).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes, Settings

from falcon_agent.errors import RuntimeAbsentError, RuntimeDeniedError, RuntimeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from h2.events import Event

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of one answer. A listing takes about 1 kB for each container, plus its labels and annotations."""
MAX_EVENT = 1024 * 1024
"""Bytes of one message of a stream."""

OK, DEADLINE_EXCEEDED, NOT_FOUND, UNIMPLEMENTED = 0, 4, 5, 12
"""Status codes of gRPC that mean something of their own here."""

_WINDOW = 1024 * 1024
"""Bytes that the other side may send ahead of our reading."""
_CHUNK = 65536
_SETTINGS = b"\4"
"""The kind of frame that a server begins with."""
_AFTER_GOAWAY = "in state ConnectionState.CLOSED"
"""What h2 says of a frame that follows GOAWAY, be it the PING by which a server that stops asks whether that was heard.
It forgets the GOAWAY over it, if both come at once."""
_PREFIX = 5
"""Bytes before each message: whether it is compressed, and its length."""


class StatusError(RuntimeUnavailableError):
    """The runtime answered, but with a status that is not OK; `status` is gRPC's number for it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Rpc:
    """Calls to one server: any number over one connection, one at a time, from one thread.

    After an answer that failed, other than by a status, the next call connects again.

    Args:
        url: `unix:///path`.
        timeout: seconds that one answer may take, connecting included.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._closed = False

    def call(self, method: str, request: bytes, limit: int = MAX_ANSWER) -> bytes:
        """The message that answers one request.

        Args:
            method: `SERVICE/METHOD`.
            request: the encoded message.
            limit: bytes that the answer may have.

        Raises:
            StatusError: the server says that it failed.
            RuntimeAbsentError: there is no such socket.
            RuntimeUnavailableError: no answer in time, too long a one, or none of gRPC.
        """
        answer = None
        with contextlib.closing(self._exchange(method, request, limit, stream=False)) as messages:
            for message in messages:
                if answer is not None:
                    raise _error(self.url, f"it answers {method} more than once")
                answer = message
        if answer is None:
            raise _error(self.url, f"it answers nothing to {method}")
        return answer

    def stream(self, method: str, request: bytes, limit: int = MAX_EVENT) -> Generator[bytes | None]:
        """The messages of an answer without end, as they come; None first, when the server has the request.

        Only the beginning has a deadline. Ends when the server ends it without a complaint.

        Raises: as `call`.
        """
        yield from self._exchange(method, request, limit, stream=True)

    def hang_up(self) -> None:
        """Close the connection, if there is one; the next call makes another."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Cut off every call, under way or still to come; from any thread."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.cut_off()

    def _exchange(self, method: str, request: bytes, limit: int, *, stream: bool) -> Generator[bytes | None]:
        deadline = time.monotonic() + self._timeout
        sound = False
        try:
            connection = self._connected()
            call = _Call(self.url, method, limit)
            number = connection.request(self._headers(method, stream=stream), _framed(request), deadline)
            if stream:
                connection.ping(deadline)
            begun = False
            while not call.ended:
                for event in connection.receive(number, None if begun else deadline):
                    if stream and not begun and isinstance(event, PingAckReceived):
                        begun = True
                        yield None
                    yield from call.take(event)
            sound = True
            call.check_status()
        except (OSError, H2Error) as error:
            raise self._in_words(error) from None
        finally:
            if not sound:
                self.hang_up()

    def _headers(self, method: str, *, stream: bool) -> list[tuple[str, str]]:
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/{method}"),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "falcon-agent"),
        ]
        # So that the server gives up too.
        return headers if stream else [*headers, ("grpc-timeout", f"{round(self._timeout * 1000)}m")]

    def _connected(self) -> _Connection:
        with self._lock:
            if self._connection is None:
                scheme, _, path = self.url.partition("://")
                if scheme != "unix" or not path.startswith("/"):
                    raise _error(self.url, "only unix:///PATH is supported")
                sock = socket.socket(socket.AF_UNIX)
                try:
                    sock.settimeout(self._timeout)
                    sock.connect(path)
                except BaseException:
                    sock.close()
                    raise
                self._connection = _Connection(sock)
                if self._closed:
                    self._connection.cut_off()
            return self._connection

    def _in_words(self, error: Exception) -> RuntimeUnavailableError:
        match error:
            case FileNotFoundError():
                message = "there is no such socket; is containerd or CRI-O installed and running?"
                return RuntimeAbsentError(f"cannot use {self.url}: {message}")
            case PermissionError():
                return RuntimeDeniedError(f"cannot use {self.url}: permission denied; run as root")
            case ConnectionRefusedError():
                return _error(self.url, "connection refused; the daemon does not run")
            case TimeoutError() | BlockingIOError():
                # EAGAIN from connect(2): the queue of connections that nobody accepts is full (unix(7)).
                return _error(self.url, f"no answer within {self._timeout:g} s; the daemon hangs")
            case ConnectionError():
                return _error(self.url, "it closed the connection; it stopped, or does not speak gRPC")
            case H2Error():
                what = f"{type(error).__name__}: {str(error)[:80]}"
                return _error(
                    self.url, f"it does not speak HTTP/2; is it the socket of containerd or CRI-O? ({what})"
                )
        return _error(self.url, str(error)[:200])


class _Call:
    """What has come of one answer.

    Attributes:
        ended: whether all of it has.
    """

    def __init__(self, url: str, method: str, limit: int) -> None:
        self.ended = False
        self._url = url
        self._method = method
        self._limit = limit
        self._head: dict[bytes, bytes] = {}
        self._trailers: dict[bytes, bytes] = {}
        self._rest = bytearray()

    def take(self, event: Event) -> Iterator[bytes]:
        """The messages that are complete with this event."""
        match event:
            case ResponseReceived():
                self._head = _headers(event.headers)
                if self._head.get(b":status") != b"200":
                    raise _error(
                        self._url, f"HTTP status {_shown(self._head.get(b':status'))} for {self._method}"
                    )
            case TrailersReceived():
                self._trailers = _headers(event.headers)
            case DataReceived():
                self._rest += event.data or b""
                yield from self._messages()
            case StreamEnded():
                self.ended = True
            case StreamReset():
                raise _error(self._url, f"it broke off the answer to {self._method} ({event.error_code!r})")
            case ConnectionTerminated():
                said = _shown(event.additional_data)
                raise _error(
                    self._url, f"it closes the connection ({event.error_code!r}{said and ': ' + said})"
                )

    def _messages(self) -> Iterator[bytes]:
        while len(self._rest) >= _PREFIX:
            if self._rest[0] != 0:
                raise _error(self._url, f"the answer to {self._method} is compressed, which nobody asked for")
            size = int.from_bytes(self._rest[1:_PREFIX])
            if size > self._limit:
                raise _error(self._url, f"the answer to {self._method} exceeds {self._limit} bytes")
            if len(self._rest) < _PREFIX + size:
                return
            message = bytes(memoryview(self._rest)[_PREFIX : _PREFIX + size])
            del self._rest[: _PREFIX + size]
            yield message

    def check_status(self) -> None:
        """Raise StatusError unless the answer ended with the status OK."""
        # An answer that has failed from the beginning has a head that is its trailers too.
        headers = self._trailers or self._head
        told = headers.get(b"grpc-status", b"")
        if not told.isdigit():
            raise _error(self._url, f"the answer to {self._method} has no status of gRPC")
        if (status := int(told[:9])) != OK:
            words = _shown(unquote_to_bytes(headers.get(b"grpc-message", b"")))
            raise StatusError(f"cannot use {self._url}: status {status} for {self._method}: {words}", status)
        if self._rest:
            raise _error(self._url, f"the answer to {self._method} ended within a message")


class _Connection:
    """One HTTP/2 connection, of which one stream at a time is used."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._greeted = False
        self._http = H2Connection(H2Configuration(client_side=True))
        # Server push would be of no use; a window of the usual 64 kB would make a listing slow.
        self._http.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: _CHUNK,
            },
        )
        self._http.initiate_connection()
        self._http.increment_flow_control_window(_WINDOW)

    def request(self, headers: Iterable[tuple[str, str]], body: bytes, deadline: float) -> int:
        """Send a request; the number of its stream. Its body is small enough for any window."""
        number = self._http.get_next_available_stream_id()
        self._http.send_headers(number, list(headers))
        self._http.send_data(number, body, end_stream=True)
        self._flush(deadline)
        return number

    def ping(self, deadline: float) -> None:
        """Ask for a sign that everything sent so far was read: PingAckReceived."""
        self._http.ping(b"falcon-a")
        self._flush(deadline)

    def receive(self, number: int, deadline: float | None) -> list[Event]:
        """What happened to a stream and the connection, at least one read of it; the rest is dropped."""
        self._set_timeout(deadline)
        content = self._socket.recv(_CHUNK)
        if not content:
            raise ConnectionResetError
        if not self._greeted and content[3:4] not in {b"", _SETTINGS}:
            # h2 would wait for the end of a frame of millions of bytes.
            raise ProtocolError(f"its first words are {content[:20]!r}")
        self._greeted = True
        try:
            events = self._http.receive_data(content)
        except ProtocolError as error:
            if _AFTER_GOAWAY in str(error):
                raise ConnectionResetError from None
            raise
        for event in events:
            if isinstance(event, DataReceived) and event.flow_controlled_length:
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self._flush(deadline)
        return [event for event in events if getattr(event, "stream_id", None) in {None, number}]

    def _flush(self, deadline: float | None) -> None:
        """Send what is to be sent: also to a server that reads nothing, it takes no longer than the deadline."""
        if content := self._http.data_to_send():
            self._set_timeout(deadline)
            self._socket.sendall(content)

    def _set_timeout(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)

    def cut_off(self) -> None:
        """End what waits for it in another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _error(url: str, reason: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(f"cannot use {url}: {reason}")


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4) + message


def _headers(headers: Iterable[tuple[bytes, bytes]] | None) -> dict[bytes, bytes]:
    return dict(headers or ())


def _shown(content: bytes | None) -> str:
    words = (content or b"").decode(errors="replace")
    return "".join(char if char.isprintable() else " " for char in words)[:200]
