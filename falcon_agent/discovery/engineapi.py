"""The Docker Engine API, Docker's or podman's, over sockets that cannot hang or drip.

One deadline holds for a whole answer, and another thread can cut it off at any moment. Answers are read in parts,
so that their size is bounded too. The docker package does neither, for it limits only the pause between two reads,
and it takes 21 MB with the packages that it needs (docs/decisions/006-memory.md).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit
from weakref import WeakSet

from falcon_agent.errors import RuntimeAbsentError, RuntimeDeniedError, RuntimeUnavailableError
from falcon_agent.http1 import NOT_FOUND, OK, Answer, NotHttpError, request_head

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of one answer. A listing takes about 1.5 kB for each container, plus its labels."""
MAX_EVENT = 1024 * 1024
"""Bytes of one event; it carries all labels of its container."""

_HEADERS = {"User-Agent": "falcon-agent", "Accept-Encoding": "identity", "Connection": "close"}
_SHOWN = 200
"""Bytes of an error's text."""


@dataclass(frozen=True, slots=True)
class _Advice:
    """What to say of a product that cannot be used.

    Attributes:
        absent: where its socket is not there.
        denied: where it may not be used.
        server: what it is that listens.
    """

    absent: str
    denied: str
    server: str


_ADVICE = {
    "docker": _Advice(
        "is Docker installed and running?",
        "run as root or in the group docker (which is as much as root)",
        "the daemon",
    ),
    "podman": _Advice(
        "is podman.socket enabled? systemctl enable --now podman.socket",
        "run as root",
        "podman's service",
    ),
}


class NotFoundError(RuntimeUnavailableError):
    """The engine answered 404: there is no such container (any more)."""


class _Socket(socket.socket):
    """A socket whose reads all end at one deadline, however slowly the bytes drip in."""

    deadline: float | None = None

    def receive(self, size: int) -> bytes:
        """As recv(2)."""
        self.hurry()
        return self.recv(size)

    def hurry(self) -> None:
        """Let what comes next wait no longer than until the deadline."""
        left = None if self.deadline is None else self.deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)


class EngineApi:
    """GET requests to one engine, one connection each.

    The paths carry no version, so the engine answers in its newest one and nothing needs to be negotiated; the
    fields that are used here are the same in all of them.

    Args:
        url: `unix:///path` or `tcp://host:port`.
        timeout: seconds from connecting to the last byte of an answer.
        product: `docker` or `podman`: whose error texts fit.
    """

    def __init__(self, url: str, timeout: float, product: str = "docker") -> None:
        self.url = url
        self._timeout = timeout
        self._advice = _ADVICE[product]
        self._lock = threading.Lock()
        self._sockets: WeakSet[_Socket] = WeakSet()
        self._closed = False

    def get(self, path: str, query: Mapping[str, str] | None = None, limit: int = MAX_ANSWER) -> bytes:
        """The body of the answer to one request.

        Raises:
            NotFoundError: status 404.
            RuntimeAbsentError: there is no such socket.
            RuntimeUnavailableError: no answer in time, another status, more than `limit` bytes, or no HTTP.
        """
        with self._in_our_words(), self._send(path, query) as sock:
            return self._body(sock, path, limit)

    def get_each(
        self, paths: Iterable[str], limit: int = MAX_ANSWER
    ) -> Generator[bytes | RuntimeUnavailableError, None, None]:
        """The bodies of the answers to several requests, in their order.

        The next request is sent before an answer is read, so that the engine works on it meanwhile. The timeout of an
        answer begins anew when its turn has come.

        Yields:
            A body, or the error that `get` would raise.
        """
        ahead: tuple[str, _Socket | RuntimeUnavailableError] | None = None
        try:
            for path in (*paths, None):
                current, ahead = ahead, None if path is None else (path, self._try_to_send(path))
                if current is not None:
                    yield self._try_to_read(*current, limit)
        finally:
            if ahead is not None and isinstance(ahead[1], _Socket):
                ahead[1].close()

    def lines(self, path: str, query: Mapping[str, str], limit: int = MAX_EVENT) -> Iterator[bytes]:
        """The lines of an answer without end, as they come; an empty one first, as soon as the answer began.

        Only the beginning has a deadline.

        Raises:
            RuntimeUnavailableError: no answer in time, another status, no HTTP, a line of more than `limit` bytes,
                or the stream ended.
        """
        with self._in_our_words(), self._send(path, query) as sock:
            answer = self._answer(sock, path)
            sock.deadline = None
            yield b""
            rest = bytearray()
            for part in answer.parts():
                *lines, tail = part.split(b"\n")
                for line in lines:
                    yield bytes(rest + line)
                    rest.clear()
                rest += tail
                if len(rest) > limit:
                    raise self._error(f"a line of the answer to {path} exceeds {limit} bytes")
            raise self._error("it ended the stream of events")

    def _try_to_send(self, path: str) -> _Socket | RuntimeUnavailableError:
        try:
            with self._in_our_words():
                return self._send(path)
        except RuntimeUnavailableError as error:
            return error

    def _try_to_read(
        self, path: str, sock: _Socket | RuntimeUnavailableError, limit: int
    ) -> bytes | RuntimeUnavailableError:
        if isinstance(sock, RuntimeUnavailableError):
            return sock
        try:
            with self._in_our_words(), sock:
                sock.deadline = time.monotonic() + self._timeout
                return self._body(sock, path, limit)
        except RuntimeUnavailableError as error:
            return error

    def _send(self, path: str, query: Mapping[str, str] | None = None) -> _Socket:
        """A connection by which a request was sent."""
        target = f"{path}?{urlencode(query)}" if query else path
        sock = self._connect()
        try:
            sock.hurry()
            sock.sendall(request_head("GET", target, {"Host": "docker", **_HEADERS}))
        except BaseException:
            sock.close()
            raise
        return sock

    def _answer(self, sock: _Socket, path: str) -> Answer:
        """The answer to a request that succeeded; its body has not been read yet."""
        answer = Answer(sock.receive)
        if answer.status != OK:
            raise self._status_error(answer.status, path, next(answer.parts(), b"")[:_SHOWN])
        return answer

    def _body(self, sock: _Socket, path: str, limit: int) -> bytes:
        body = self._answer(sock, path).read(limit)
        if len(body) > limit:
            raise self._error(f"the answer to {path} exceeds {limit} bytes")
        return body

    @contextlib.contextmanager
    def _in_our_words(self) -> Iterator[None]:
        try:
            yield
        except (OSError, NotHttpError) as error:
            raise self._error(self._in_words(error), _kind(error)) from None

    def _connect(self) -> _Socket:
        deadline = time.monotonic() + self._timeout
        path, address = unix_path(self.url), _tcp_address(self.url)
        if path is not None:
            sock = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(self._timeout)
                sock.connect(path)
            except BaseException:
                sock.close()
                raise
        elif address is not None:
            sock = _Socket(fileno=socket.create_connection(address, self._timeout).detach())
        else:
            raise self._error("only unix:///PATH and tcp://HOST:PORT are supported")
        sock.deadline = deadline
        with self._lock:
            self._sockets.add(sock)
            if self._closed:
                _cut_off(sock)
        return sock

    def close(self) -> None:
        """Cut off every request, under way or still to come; the callers get RuntimeUnavailableError."""
        with self._lock:
            self._closed = True
            for sock in self._sockets:
                _cut_off(sock)

    def _error(
        self, reason: str, kind: type[RuntimeUnavailableError] = RuntimeUnavailableError
    ) -> RuntimeUnavailableError:
        return kind(f"cannot use {self.url}: {reason}")

    def _status_error(self, status: int, path: str, body: bytes) -> RuntimeUnavailableError:
        kind = NotFoundError if status == NOT_FOUND else RuntimeUnavailableError
        return self._error(f"status {status} for {path}: {body.decode(errors='replace').strip()}", kind)

    def _in_words(self, error: BaseException) -> str:
        advice = self._advice
        match error:
            case FileNotFoundError():
                return f"there is no such socket; {advice.absent}"
            case PermissionError():
                return f"permission denied; {advice.denied}"
            case ConnectionRefusedError():
                return f"connection refused; {advice.server} does not run"
            case TimeoutError() | BlockingIOError():
                # EAGAIN from connect(2): the queue of connections that nobody accepts is full (unix(7)).
                return f"no answer within {self._timeout:g} s; {advice.server} hangs"
            case NotHttpError():
                return f"the answer is no HTTP ({str(error)[:80]})"
        return str(error)[:200]


def _kind(error: Exception) -> type[RuntimeUnavailableError]:
    match error:
        case FileNotFoundError():
            return RuntimeAbsentError
        case PermissionError():
            return RuntimeDeniedError
    return RuntimeUnavailableError


def unix_path(url: str) -> str | None:
    """The path of a `unix://` URL, or None if it is another one."""
    scheme, _, path = url.partition("://")
    return f"/{path.lstrip('/')}" if scheme == "unix" else None


def _tcp_address(url: str) -> tuple[str, int] | None:
    """Host and port of a `tcp://` URL, or None if it is another one."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (host, port) if parts.scheme == "tcp" and host and port else None


def _cut_off(sock: _Socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
