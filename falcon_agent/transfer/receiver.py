"""A transfer to try things out with: answers as the real one does and says what becomes of each item.

It forwards nothing and stores nothing but the newest timestamp of each series.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from falcon_agent.errors import FalconAgentError
from falcon_agent.transfer.answers import DIALECTS, TEXT, Dialect, Newest, decode_items, judge_all
from falcon_agent.transfer.contract import MIN_STEP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from falcon_agent.transfer.verdict import Verdict

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The real transfer has no bound; 150,000 items are 24 MB."""

MAX_CONNECTIONS = 64
IDLE_SECONDS = 10.0
"""A client that sends nothing for so long is cut off, so that it does not keep its place for ever."""

BODY_SECONDS = 60.0
"""Longest time for one body, for clients that send a byte now and then."""

_CHUNK = 65536
_POLL_SECONDS = 0.05
_MAX_CHUNK_LINE = 1024


class ReceiverError(FalconAgentError):
    """The receiver cannot listen where it was told to."""


class BodyError(FalconAgentError):
    """A request body cannot be read: too large, too slow or cut short."""


@dataclass(frozen=True, slots=True)
class Push:
    """One POST and what was answered.

    Attributes:
        client: who sent it, `address:port`.
        method: POST, PUT or GET.
        path: where to, e.g. `/api/push`.
        status: of the answer.
        answer: the answer, as text.
        items: the items and their fate, in order; empty where the body is no JSON array.
    """

    client: str
    method: str
    path: str
    status: int
    answer: str
    items: tuple[tuple[Any, Verdict], ...]


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP for a `Receiver`."""

    server: Receiver
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    # Headers and body are two writes, and the second would wait for the client's delayed acknowledgement.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Take a push; the real ones do not look at the method either."""
        path = self.path.partition("?")[0]
        dialect = DIALECTS.get(path)
        if dialect is None:
            # The body is not read, so the connection cannot be used again.
            self.close_connection = True
            self.conclude(self.push(path, HTTPStatus.NOT_FOUND, "404 page not found\n"))
            return
        try:
            body = self.read_body()
        except BodyError as error:
            self.close_connection = True
            self.conclude(self.push(path, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{error}\n"))
            return
        self.take(path, dialect, body)

    do_GET = do_POST  # noqa: N815  the name that http.server looks for
    do_PUT = do_POST  # noqa: N815

    def take(self, path: str, dialect: Dialect, body: bytes | None) -> None:
        """Judge a body (None: there is none), answer, and show what came."""
        started = time.monotonic()
        if body is not None and path == "/openfalcon/push" and self.headers.get("Content-Encoding") == "gzip":
            body = gunzip(body)
        items: tuple[tuple[Any, Verdict], ...] = ()
        status, kind, answer = (
            HTTPStatus.BAD_REQUEST,
            TEXT,
            dialect.blank if body is None else dialect.malformed,
        )
        with suppress(ValueError):
            items = self.server.judge(decode_items(body or b""))
            fates = Counter(verdict.outcome for _, verdict in items)
            if not fates["rejected"]:
                milliseconds = int((time.monotonic() - started) * 1000)
                status, kind = HTTPStatus.OK, dialect.kind
                answer = dialect.taken(len(items), fates["invalid"], milliseconds)
        self.conclude(self.push(path, status, answer, items), kind)

    def push(self, path: str, status: int, answer: str, items: tuple[tuple[Any, Verdict], ...] = ()) -> Push:
        """What is shown of this request."""
        return Push("{}:{}".format(*self.client_address), self.command, path, status, answer, items)

    def conclude(self, push: Push, kind: str = TEXT) -> None:
        """Answer, and have it shown: in the order of arrival, and not before the client has its answer."""
        answered = self.server.enqueue(push)
        try:
            self.reply(push.status, kind, push.answer)
        finally:
            answered.set()

    def reply(self, status: int, kind: str, answer: str) -> None:
        """Send the answer."""
        content = answer.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def read_body(self) -> bytes | None:
        """The request's body, or None where it says it has none.

        Raises:
            BodyError: larger than `MAX_BODY_BYTES`, slower than `BODY_SECONDS`, or cut short.
        """
        until = time.monotonic() + BODY_SECONDS
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunked(until)
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > len(str(MAX_BODY_BYTES)):
            raise BodyError("cannot read the body: bad or too large Content-Length")
        if int(length) > MAX_BODY_BYTES:
            raise BodyError(f"cannot read the body: larger than {MAX_BODY_BYTES} bytes")
        return self._read(int(length), until) if int(length) else None

    def _read(self, length: int, until: float) -> bytes:
        parts = []
        while length:
            part = self.rfile.read1(min(length, _CHUNK))
            if not part:
                raise BodyError("cannot read the body: it ends early")
            if time.monotonic() > until:
                raise BodyError(f"cannot read the body: not complete after {BODY_SECONDS:g} s")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _read_chunked(self, until: float) -> bytes:
        """RFC 9112 section 7.1; chunk extensions and trailers are skipped."""
        parts: list[bytes] = []
        left = MAX_BODY_BYTES
        while True:
            size = self.rfile.readline(_MAX_CHUNK_LINE).partition(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError:
                raise BodyError("cannot read the body: bad chunk") from None
            if not 0 <= length <= left:
                raise BodyError(f"cannot read the body: larger than {MAX_BODY_BYTES} bytes")
            if length == 0:
                break
            left -= length
            parts.append(self._read(length, until))
            self.rfile.readline(_MAX_CHUNK_LINE)
        while self.rfile.readline(_MAX_CHUNK_LINE).strip():
            if time.monotonic() > until:
                raise BodyError(f"cannot read the body: not complete after {BODY_SECONDS:g} s")
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        """Nothing: pushes are shown by the server's `show`, and the rest is noise."""


def gunzip(content: bytes) -> bytes:
    """The content unpacked, as far as `MAX_BODY_BYTES`; what is no gzip comes back as it is."""
    try:
        return zlib.decompressobj(wbits=31).decompress(content, MAX_BODY_BYTES)
    except zlib.error:
        return content


class Receiver(ThreadingHTTPServer):
    """Listens at `address` and calls `on_push` for each request, one at a time and in order.

    Args:
        address: host address and port; port 0 takes a free one.
        on_push: shown every request after it was answered.
        now: the clock, in seconds since the epoch.
        handler: speaks HTTP.
        min_step: shortest step in seconds that graph is taken to keep.

    Raises:
        ReceiverError: the port is in use or the address is not this machine's.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        on_push: Callable[[Push], None],
        now: Callable[[], float] = time.time,
        handler: type[Handler] = Handler,
        min_step: int = MIN_STEP,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._on_push = on_push
        self._now = now
        self._min_step = min_step
        self._newest = Newest()
        self._lock = threading.Lock()
        self._shown: queue.Queue[tuple[Push, threading.Event]] = queue.Queue(MAX_CONNECTIONS)
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.stopped = threading.Event()
        try:
            super().__init__(address, handler)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ReceiverError(f"cannot listen on {address[0]} port {address[1]}: {reason}") from None

    def server_bind(self) -> None:
        """Bind without asking the resolver for our own name, which can take long."""
        # Connections of the one that was here before may be in TIME-WAIT for a minute.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        socket.socket.bind(self.socket, self.server_address)
        host, port = self.socket.getsockname()[:2]
        self.server_address = (host, port)
        self.server_name, self.server_port = host, port

    def judge(self, items: Sequence[Any]) -> tuple[tuple[Any, Verdict], ...]:
        """The fate of the items of one POST."""
        with self._lock:
            return judge_all(items, int(self._now()), self._newest, self._min_step)

    def enqueue(self, push: Push) -> threading.Event:
        """Have a push shown once the event is set; waits where whoever looks on is far behind."""
        answered = threading.Event()
        self._shown.put((push, answered))
        return answered

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread; where all places are taken, the connection is closed at once."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._places.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Free the place at the end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""

    def serve_until_stopped(self) -> None:
        """Serve, and show every push in the calling thread, until `stopped` is set; raises what `on_push` raises."""
        thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_SECONDS,), name="receiver", daemon=True
        )
        thread.start()
        try:
            while not self.stopped.is_set():
                # Looked at again and again, because a signal handler may not touch the lock of a queue.
                with suppress(queue.Empty):
                    push, answered = self._shown.get(timeout=_POLL_SECONDS)
                    answered.wait(IDLE_SECONDS)
                    self._on_push(push)
        finally:
            self.shutdown()
            thread.join()
            self.server_close()
