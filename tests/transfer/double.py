"""A transfer on loopback that answers as the contract says, or fails in every way that one can."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from falcon_agent.transfer.receiver import Handler, Push, Receiver
from falcon_agent.transfer.verdict import Verdict

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from falcon_agent.transfer.answers import Dialect

NOW = 1_800_000_000


class DoubleHandler(Handler):
    server: Double

    def take(self, path: str, dialect: Dialect, body: bytes | None) -> None:
        self.server.requests += 1
        self.server.seen_headers.append(dict(self.headers.items()))
        fault = self.server.next_fault()
        if fault is None:
            super().take(path, dialect, body)
        else:
            fault(self, path, dialect, body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(self.server.clock if timestamp is None else timestamp)

    def raw(self, content: bytes) -> None:
        """Send these bytes and nothing else."""
        self.close_connection = True
        self.wfile.write(content)


Fault: TypeAlias = "Callable[[DoubleHandler, str, Dialect, bytes | None], None]"


class Double(Receiver):
    """Runs in a thread; `faults` are used up one per request, then `default` counts.

    Items with the tag `poison=400` are badly typed for it, those with `poison=invalid` are counted invalid.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), lambda _: None, lambda: NOW, DoubleHandler)
        self.pushes: list[Push] = []
        self.accepted: list[dict[str, Any]] = []
        self.requests = 0
        self.clock: float = NOW
        self.connections = 0
        self.seen_headers: list[dict[str, str]] = []
        self.faults: deque[Fault | None] = deque()
        self.default: Fault | None = None
        self.release = threading.Event()
        self.scheme = "https" if tls else "http"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._server = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._server.start()

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/api/push"

    def next_fault(self) -> Fault | None:
        return self.faults.popleft() if self.faults else self.default

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def judge(self, items: Sequence[Any]) -> tuple[tuple[Any, Verdict], ...]:
        judged = tuple(
            (item, Verdict("invalid", ("poison",)) if "poison=invalid" in item["tags"] else Verdict("ok"))
            for item in items
        )
        if any("poison=400" in item["tags"] for item in items):
            return tuple((item, Verdict("rejected", ("poison",))) for item in items)
        return judged

    def enqueue(self, push: Push) -> threading.Event:
        self.pushes.append(push)
        self.accepted += [item for item, verdict in push.items if verdict.outcome == "ok"]
        return threading.Event()

    def close(self) -> None:
        self.release.set()
        self.shutdown()
        self._server.join()
        self.server_close()


def answer(status: str, content: bytes = b"", **headers: str) -> Fault:
    """Answer these things properly."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    whole = "\r\n".join(lines).encode() + b"\r\n\r\n" + content

    def fault(handler: DoubleHandler, path: str, dialect: Dialect, body: bytes | None) -> None:
        handler.wfile.write(whole)

    return fault


def say(content: bytes) -> Fault:
    """Send bytes, whatever they are, and close."""

    def fault(handler: DoubleHandler, path: str, dialect: Dialect, body: bytes | None) -> None:
        handler.raw(content)

    return fault


def reset(content: bytes = b"") -> Fault:
    """Send the beginning of an answer and reset the connection."""

    def fault(handler: DoubleHandler, path: str, dialect: Dialect, body: bytes | None) -> None:
        handler.raw(content)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    return fault


def hang(content: bytes = b"") -> Fault:
    """Send the beginning of an answer and then nothing, until the double is closed."""

    def fault(handler: DoubleHandler, path: str, dialect: Dialect, body: bytes | None) -> None:
        handler.raw(content)
        handler.server.release.wait()

    return fault


def drip(content: bytes, then: bytes) -> Fault:
    """Send `content`, and then `then` over and over, byte by byte, as long as the client listens."""

    def fault(handler: DoubleHandler, path: str, dialect: Dialect, body: bytes | None) -> None:
        with contextlib.suppress(OSError):
            handler.raw(content)
            at = 0
            while not handler.server.release.wait(0.01):
                handler.wfile.write(then[at : at + 1])
                at = (at + 1) % len(then)

    return fault


def accept_then(fault: Fault) -> Fault:
    """Take the push, and then fail: the answer is lost."""

    def both(handler: DoubleHandler, path: str, dialect: Dialect, body: bytes | None) -> None:
        handler.reply = lambda *_: None  # type: ignore[method-assign]
        Handler.take(handler, path, dialect, body)
        fault(handler, path, dialect, body)

    return both


def then_close(handler: DoubleHandler, path: str, dialect: Dialect, body: bytes | None) -> None:
    """Take the push and answer, and close a connection that was to be kept."""
    Handler.take(handler, path, dialect, body)
    handler.close_connection = True
