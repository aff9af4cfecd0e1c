"""One push over HTTP: keep-alive, a deadline, bounded answers, typed errors."""

from __future__ import annotations

import base64
import select
import time
from dataclasses import dataclass, replace
from gzip import compress
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from falcon_agent.http1 import (
    BAD_REQUEST,
    MULTIPLE_CHOICES,
    SERVER_ERROR,
    Answer,
    request_head,
)
from falcon_agent.transfer.deadline import Deadline, connect
from falcon_agent.transfer.failure import Failure, Rejected, Unreachable, failure_of, shown_address
from falcon_agent.transfer.reply import Reply, first_line, http_time, parse_reply, printable

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

MAX_REPLY_BYTES = 64 * 1024
"""A transfer's answer has about a hundred."""

MAX_RETRY_AFTER = 600.0
"""Seconds; no server may silence the agent for longer."""

_TEMPORARY = frozenset({408, 425, 429})
"""4xx that mean "later": request timeout, too early, too many requests."""

_NO_GZIP = frozenset({400, 415})
"""What those answer that do not unpack: transfer 400 `decode error`, others 415 Unsupported Media Type."""

_GZIP_LEVEL = 1
"""It makes a batch of 1000 records eleven times smaller; level 9 makes it thirteen times, in six times as long."""

_SAFE = "!#$%&'()*+,/:;=?@[]~"
"""Characters that an address may have in its path and query; whatever else there is goes percent-encoded."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an address leads.

    Attributes:
        secure: by TLS.
        host: name or IP address, without brackets.
        port: of the server.
        authority: host and port for the header Host.
        target: path and query, percent-encoded.
        credentials: `(user, password)` where the address has them.
    """

    secure: bool
    host: str
    port: int
    authority: str
    target: str
    credentials: tuple[str, str] | None


def _place_of(address: str) -> _Place:
    """Where `address` leads.

    Raises:
        ValueError: it is no http or https address.
    """
    parts = urlsplit(address)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("no http or https address")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    name = f"[{host}]" if ":" in host else host
    return _Place(
        secure=parts.scheme == "https",
        host=host,
        port=parts.port or _PORTS[parts.scheme],
        authority=f"{name}:{parts.port}" if parts.port else name,
        target=quote(f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}", safe=_SAFE),
        credentials=(unquote(parts.username), unquote(parts.password or "")) if parts.username else None,
    )


class HttpClient:
    """Pushes to one transfer, Nightingale or official agent; for one thread, except `close`.

    The environment is not asked for proxies, certificates or ~/.netrc: `http_proxy` is often set for package
    managers and would send the measurements of a whole fleet somewhere else. Redirects are not followed: the
    POST would turn into a GET.

    Args:
        address: the full URL, e.g. `http://10.0.0.1:6060/api/push`.
        timeout: seconds for one exchange, from connecting to the last byte of the answer.
        username: for basic authentication at a gateway; none if empty.
        password: belongs to it.
        headers: added to every request, e.g. a token for a gateway.
        ca_file: PEM file with the certificates to trust; empty means those that the package certifi brings.
        gzip: compress the bodies. Nightingale and many gateways take that, transfer itself does not.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        username: str = "",
        password: str = "",
        headers: Mapping[str, str] | None = None,
        ca_file: str = "",
        *,
        gzip: bool = False,
    ) -> None:
        self._address = address
        self._shown = shown_address(address)
        self._timeout = timeout
        self._gzip = gzip
        self._ca_file = ca_file
        usual = {
            "User-Agent": "falcon-agent",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        self._headers = _merged(usual, headers or {}, {"Content-Encoding": "gzip"} if gzip else {})
        self._credentials = (username, password) if username else None
        self._socket: socket.socket | None = None
        self._deadline: Deadline | None = None
        self._closed = False

    def post(self, body: bytes) -> Reply:
        """Push a JSON array of items.

        Raises:
            Rejected: it answered 4xx and its answer is final: the body or the configuration is at fault.
            Unreachable: it was not taken, for any other reason.
        """
        # No time stamp inside: the same body is the same bytes.
        content = compress(body, _GZIP_LEVEL, mtime=0) if self._gzip else body
        kept = self._socket is not None
        try:
            return self._exchange(content)
        except Unreachable as error:
            # A connection that was kept may be closed by the other side just as it is used again. Once more
            # on a new one; if the push had arrived after all, graph drops the second as duplicate.
            if error.reason != "closed" or not kept:
                raise
        return self._exchange(content)

    def _exchange(self, content: bytes) -> Reply:
        started = time.monotonic()
        self._deadline = deadline = Deadline(self._timeout)
        try:
            if self._closed:
                raise Unreachable(f"cannot push to {self._shown}: the agent is stopping", "stopping")
            answer, body = self._ask(content, deadline)
        except (OSError, ValueError) as error:
            self._drop()
            raise failure_of(error, self._timeout).of(self._shown) from None
        finally:
            self._deadline = None
            if self._closed:
                self._drop()
        reply = self._judge(answer.status, answer.headers, body)
        return replace(reply, latency=time.monotonic() - started, address=self._shown)

    def _ask(self, content: bytes, deadline: Deadline) -> tuple[Answer, bytes]:
        """The answer to a push, and its body as it came over the wire, or a little more than `MAX_REPLY_BYTES`."""
        place = _place_of(self._address)
        head = request_head("POST", place.target, self._headers_for(place, len(content)))
        if self._socket is not None and _has_news(self._socket):
            self._drop()
        sock = self._socket or self._connect(place, deadline)
        try:
            deadline.hurry(sock).sendall(head)
            deadline.hurry(sock).sendall(content)
        except BrokenPipeError:
            pass  # it may have answered before it hung up
        answer = Answer(lambda size: deadline.hurry(sock).recv(size))
        body = answer.read(MAX_REPLY_BYTES)
        if not answer.reusable:
            self._drop()
        return answer, body

    def _headers_for(self, place: _Place, length: int) -> dict[str, str]:
        ours = {"Content-Length": str(length)}
        if credentials := self._credentials or place.credentials:
            ours["Authorization"] = f"Basic {base64.b64encode(':'.join(credentials).encode()).decode()}"
        return _merged({"Host": place.authority}, self._headers, ours)

    def _connect(self, place: _Place, deadline: Deadline) -> socket.socket:
        self._socket = connect(place.host, place.port, deadline)
        if place.secure:
            # Loaded where it is wanted: TLS takes 5 MB, and most transfers speak none.
            from falcon_agent.transfer.tls import secured  # noqa: PLC0415

            self._socket = secured(self._socket, place.host, self._ca_file, deadline)
        return self._socket

    def _drop(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _judge(self, status: int, headers: Mapping[str, str], content: bytes) -> Reply:
        """The reply in an answer, or the error that the answer amounts to."""
        if status in _TEMPORARY or status >= SERVER_ERROR:
            fact = f"it answered {status} {first_line(content)!r}"
            failure = Failure(f"http_{status}", fact, "it is overloaded or broken; tried again later")
            raise failure.of(self._shown, retry_after(headers.get("retry-after")))
        if status >= BAD_REQUEST:
            hint = "it may take no gzip: set gzip = false" if self._gzip and status in _NO_GZIP else ""
            raise Rejected(self._shown, status, first_line(content), hint)
        if status >= MULTIPLE_CHOICES:
            target = printable(shown_address(headers.get("location", "")))
            fact = f"it answered {status} and points to {target}"
            raise Failure("redirect", fact, "put the final address into the configuration").of(self._shown)
        if len(content) > MAX_REPLY_BYTES:
            fact = f"its answer is longer than {MAX_REPLY_BYTES} bytes"
            raise Failure("garbage", fact, "is this the address of a transfer?").of(self._shown)
        reply = parse_reply(content)
        if reply is None:
            fact = f"it answered {status} with {first_line(content)!r}, which no transfer says"
            raise Failure("garbage", fact, "is this the address of a transfer?").of(self._shown)
        return replace(reply, server_time=http_time(headers.get("date")))

    def close(self) -> None:
        """Let go of the connection; from another thread it also ends a push that is under way."""
        self._closed = True
        deadline = self._deadline
        if deadline is not None:
            deadline.cut()
        else:
            self._drop()


def _merged(*layers: Mapping[str, str]) -> dict[str, str]:
    """Headers, of which the later ones count; capital letters in a name do not."""
    named = {name.lower(): (name, value) for layer in layers for name, value in layer.items()}
    return dict(named.values())


def _has_news(sock: socket.socket) -> bool:
    """Whether the other side has closed a connection on which nothing is due, or says something out of turn."""
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(0))


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 section 10.2.3), 0 to 600, or None."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        # Compared by length first: a number of a million digits is not worth converting.
        seconds = float(value) if len(value) < len("1000000") else MAX_RETRY_AFTER
    else:
        when = http_time(value)
        if when is None:
            return None
        seconds = when - (time.time() if now is None else now)
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
