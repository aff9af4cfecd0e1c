"""A server that says what it is told to, whatever it is asked."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator


class Saying:
    """Where it listens, and what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[bytes] = []


@contextlib.contextmanager
def saying(content: bytes, *, drip: bytes = b"", tls: ssl.SSLContext | None = None) -> Iterator[Saying]:
    """Answer with `content` and close; with `drip`, say that over and over instead of closing."""
    done = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    if tls is not None:
        listening = tls.wrap_socket(listening, server_side=True)
    server = Saying(listening.getsockname()[1])

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            server.asked.append(_request(connection))
            connection.sendall(content)
            while drip and not done.wait(0.02):
                connection.sendall(drip)

    def serve() -> None:
        while not done.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                # A handshake that failed; or the end, which the loop sees.
                continue
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        done.set()
        # accept() wakes up for a connection, not for a close.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 5):
            pass
        thread.join(5)
        listening.close()


def _request(connection: socket.socket) -> bytes:
    """One whole request: the head, and the body that it announces."""
    got = connection.recv(65536)
    length = re.search(rb"\r\nContent-Length: (\d+)", got)
    while length and len(got.partition(b"\r\n\r\n")[2]) < int(length[1]):
        got += connection.recv(65536)
    return got


def answer(status: str, content: bytes = b"", *headers: str) -> bytes:
    """A complete HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content
