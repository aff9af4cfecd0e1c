"""A real unix socket behind which anything may happen: what a daemon does when it is not well."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Handler: TypeAlias = "Callable[[socket.socket, threading.Event], None]"
"""Serves one connection; the event is set when the server ends, whatever the handler waits for."""


@contextlib.contextmanager
def serving(path: Path, handle: Handler) -> Iterator[str]:
    """Accept connections at `path` and give each to `handle` in a thread of its own; the `unix://` URL."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            handle(connection, ended)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(16)
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"unix://{path}"
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()
            path.unlink()


def read_request(connection: socket.socket) -> bytes:
    """The first line of the request; the rest of its head is read and dropped."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(4096)
        if not part:
            break
        head += part
    return head.split(b"\r\n", 1)[0]


def answer(body: bytes, status: str = "200 OK") -> bytes:
    """A whole HTTP answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
