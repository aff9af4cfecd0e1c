"""A service manager's end of sd_notify(3): a real datagram socket, and what came through it."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Listening:
    """What was sent to the socket so far, each message as its `NAME=value` pairs."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while message := self._socket.recv(65536).decode():
            self.messages.append(dict(line.split("=", 1) for line in message.split("\n")))

    def values(self, name: str) -> list[str]:
        """Every value that was sent under a name, oldest first."""
        return [message[name] for message in list(self.messages) if name in message]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as knock:
            knock.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()


@contextlib.contextmanager
def listening(address: str = "") -> Iterator[Listening]:
    """A socket at a path of its own, or at the address given."""
    with tempfile.TemporaryDirectory(prefix="falcon-agent-notify-") as directory:
        manager = Listening(address or str(Path(directory, "notify")))
        try:
            yield manager
        finally:
            manager.close()
