"""A receiver that runs in a thread, and clients for it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from falcon_agent.transfer.receiver import Handler, Push, Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1795161725
ITEM: dict[str, Any] = {
    "endpoint": "h1", "metric": "m", "value": 1, "step": 60, "counterType": "GAUGE", "tags": "",
    "timestamp": 1795161720,
}  # fmt: skip


class Running:
    def __init__(self, handler: type[Handler] = Handler) -> None:
        self.pushes: list[Push] = []
        self.shown = threading.Condition()
        self.server = Receiver(("127.0.0.1", 0), self._show, lambda: NOW, handler)
        self.thread = threading.Thread(target=self.server.serve_until_stopped, daemon=True)
        self.thread.start()

    def _show(self, push: Push) -> None:
        with self.shown:
            self.pushes.append(push)
            self.shown.notify_all()

    def push(self, number: int = -1) -> Push:
        """The push that was shown; it is shown after the answer."""
        with self.shown:
            assert self.shown.wait_for(lambda: self.pushes, 30)
            return self.pushes[number]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=120)

    def post(self, body: bytes, path: str = "/api/push", **headers: str) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def raw(self, request: bytes) -> bytes:
        """Send these bytes, and read until the other side closes."""
        with socket.create_connection(("127.0.0.1", self.server.server_port), 30) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def stop(self) -> None:
        self.server.stopped.set()
        self.thread.join(30)


@contextmanager
def serving(handler: type[Handler] = Handler) -> Iterator[Running]:
    running = Running(handler)
    try:
        yield running
    finally:
        running.stop()


def body(*items: Any) -> bytes:
    return json.dumps(items).encode()


def counts(answer: bytes) -> tuple[int, int]:
    """Total and Invalid of a transfer's reply; how long it took is not fixed."""
    reply = json.loads(answer)
    data = reply["data"]
    assert (reply["msg"], data["Message"], list(data)) == (
        "success",
        "ok",
        ["Message", "Total", "Invalid", "Latency"],
    )
    assert isinstance(data["Latency"], int)
    return data["Total"], data["Invalid"]
