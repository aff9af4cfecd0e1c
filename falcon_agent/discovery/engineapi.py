"""The Docker Engine API, Docker's or podman's, through the docker package, over sockets that cannot hang or drip.

By itself `docker.APIClient` limits only the pause between two reads, and nobody can end a call from outside before
its answer has begun. So it is given sockets of our own: one deadline holds for a whole answer, and another thread
can cut it off at any moment. Answers are read in parts, so that their size is bounded too.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import WeakSet

from urllib3.exceptions import HTTPError

from falcon_agent.errors import RuntimeAbsentError, RuntimeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import APIClient

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of one answer. A listing takes about 1.5 kB for each container, plus its labels."""
MAX_EVENT = 1024 * 1024
"""Bytes of one event; it carries all labels of its container."""

_CHUNK = 65536


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

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if self.deadline is None:
            self.settimeout(None)
        else:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self.settimeout(left)
        return super().recv_into(*args, **kwargs)


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
        self._client: APIClient | None = None
        self._sockets: WeakSet[_Socket] = WeakSet()
        self._latest = threading.local()
        self._closed = False

    def get(self, path: str, query: Mapping[str, str] | None = None, limit: int = MAX_ANSWER) -> bytes:
        """The body of the answer to one request.

        Raises:
            NotFoundError: status 404.
            RuntimeAbsentError: there is no such socket.
            RuntimeUnavailableError: no answer in time, another status, more than `limit` bytes, or no HTTP.
        """
        with self._request(path, query) as answer:
            body = bytearray()
            while part := answer.read1(_CHUNK, decode_content=False):
                body += part
                if len(body) > limit:
                    raise self._error(f"the answer to {path} exceeds {limit} bytes")
            return bytes(body)

    def lines(self, path: str, query: Mapping[str, str], limit: int = MAX_EVENT) -> Iterator[bytes]:
        """The lines of an answer without end, as they come; an empty one first, as soon as the answer began.

        Only the beginning has a deadline.

        Raises:
            RuntimeUnavailableError: no answer in time, another status, no HTTP, a line of more than `limit` bytes,
                or the stream ended.
        """
        with self._request(path, query) as answer:
            self._latest.socket.deadline = None
            yield b""
            rest = bytearray()
            while part := answer.read1(_CHUNK, decode_content=False):
                *lines, tail = part.split(b"\n")
                for line in lines:
                    yield bytes(rest + line)
                    rest.clear()
                rest += tail
                if len(rest) > limit:
                    raise self._error(f"a line of the answer to {path} exceeds {limit} bytes")
            raise self._error("it ended the stream of events")

    @contextlib.contextmanager
    def _request(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[Any]:
        """The answer to a request that succeeded: `urllib3.HTTPResponse`, its body not read yet."""
        try:
            client = self._made_client()
            with client.get(
                client.base_url + path,
                params=query,
                stream=True,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                if response.status_code != HTTPStatus.OK:
                    raise self._status_error(response.status_code, path, response.raw.read1(200))
                yield response.raw
        except (OSError, HTTPError) as error:  # requests' own errors are OSErrors
            kind = RuntimeUnavailableError
            if any(isinstance(cause, FileNotFoundError) for cause in _chain(error)):
                kind = RuntimeAbsentError
            raise self._error(self._in_words(error), kind) from None

    def _made_client(self) -> APIClient:
        with self._lock:
            if self._client is None:
                if unix_path(self.url) is None and _tcp_address(self.url) is None:
                    raise self._error("only unix:///PATH and tcp://HOST:PORT are supported")
                # Imported late: an agent that meets no Docker does without the package.
                from falcon_agent.discovery.engineclient import make_client  # noqa: PLC0415

                try:
                    self._client = make_client(self.url, self._connect)
                except Exception as error:  # noqa: BLE001  the package reads ~/.docker/config.json, which may hold anything
                    raise self._error(f"the docker package: {type(error).__name__}: {error}") from None
            return self._client

    def _connect(self) -> _Socket:
        deadline = time.monotonic() + self._timeout
        if path := unix_path(self.url):
            sock = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(self._timeout)
                sock.connect(path)
            except BaseException:
                sock.close()
                raise
        else:
            address = _tcp_address(self.url)
            sock = _Socket(fileno=socket.create_connection(address or ("", 0), self._timeout).detach())
            sock.settimeout(self._timeout)
        sock.deadline = deadline
        self._latest.socket = sock
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
        kind = NotFoundError if status == HTTPStatus.NOT_FOUND else RuntimeUnavailableError
        return self._error(f"status {status} for {path}: {body.decode(errors='replace').strip()}", kind)

    def _in_words(self, error: BaseException) -> str:
        advice = self._advice
        for cause in _chain(error):
            match cause:
                case FileNotFoundError():
                    return f"there is no such socket; {advice.absent}"
                case PermissionError():
                    return f"permission denied; {advice.denied}"
                case ConnectionRefusedError():
                    return f"connection refused; {advice.server} does not run"
                case TimeoutError() | BlockingIOError():
                    # EAGAIN from connect(2): the queue of connections that nobody accepts is full (unix(7)).
                    return f"no answer within {self._timeout:g} s; {advice.server} hangs"
                case HTTPException():
                    return f"the answer is no HTTP ({type(cause).__name__}: {str(cause)[:80]})"
        return str(error)[:200]


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


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it: the packages wrap the system's errors several times."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cut_off(sock: _Socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
