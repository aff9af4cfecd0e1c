"""A transfer's and an hbs' JSON-RPC port on loopback: answers as Go does, or fails in every way that one can."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Answering: TypeAlias = Callable[[Mapping[str, Any]], Any]

_DECODER = json.JSONDecoder()


class BadCallError(Exception):
    """What a method says against its call: it is answered as `error`."""


def decode_calls(waiting: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """The complete calls at the beginning of what has come, and the rest.

    Raises:
        ValueError: broken JSON, on which Go closes the connection.
    """
    calls = []
    text = waiting.decode()
    while text := text.lstrip():
        if "\n" not in text:
            break
        call, end = _DECODER.raw_decode(text)
        calls.append(call)
        text = text[end:]
    return calls, text.encode()


class RpcConnection:
    """One accepted connection, for faults."""

    def __init__(self, server: RpcDouble, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock

    def send(self, content: bytes) -> None:
        self.sock.sendall(content)

    def reply(self, number: Any, result: Any, error: Any = None) -> None:
        """Answer as Go's json.Encoder does."""
        answer = {"id": number, "result": result, "error": error}
        self.send(json.dumps(answer, separators=(",", ":")).encode() + b"\n")

    def answer(self, call: Mapping[str, Any]) -> None:
        """Answer properly."""
        try:
            result = self.server.result_of(call)
        except BadCallError as error:
            self.reply(call["id"], None, str(error))
        else:
            self.reply(call["id"], result)

    def serve(self) -> None:
        waiting = b""
        with contextlib.suppress(OSError, ValueError), self.sock:
            while content := self.sock.recv(65536):
                waiting += content
                calls, waiting = decode_calls(waiting)
                for call in calls:
                    self.server.calls.append(call)
                    fault = self.server.next_fault()
                    if fault is None:
                        self.answer(call)
                    elif not fault(self, call):
                        return


Fault: TypeAlias = "Callable[[RpcConnection, Mapping[str, Any]], bool]"
"""Treats a call badly; returns whether the connection goes on."""


class RpcDouble:
    """Runs in threads; `faults` are used up one per call, then `default` counts.

    Items of a push with the tag `poison=400` are badly typed for it, those with `poison=invalid` are counted
    invalid. Chaos tests change `default` while it runs and read `accepted`, the ledger of all items in the
    order in which they were taken; `reports` is the same for heartbeats.

    Args:
        port: to listen on at 127.0.0.1; 0 takes a free one. A double that was closed may come back on its port.
    """

    def __init__(self, port: int = 0) -> None:
        self.calls: list[Mapping[str, Any]] = []
        self.accepted: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.connections = 0
        self.faults: deque[Fault | None] = deque()
        self.default: Fault | None = None
        self.release = threading.Event()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self._server = threading.Thread(target=self._accept, daemon=True)
        self._server.start()

    @property
    def address(self) -> str:
        """For a transfer."""
        return f"rpc://127.0.0.1:{self.port}"

    @property
    def host_port(self) -> str:
        """For an hbs."""
        return f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self.connections += 1
                thread = threading.Thread(target=RpcConnection(self, sock).serve, daemon=True)
                self._open.append(sock)
                self._threads.append(thread)
                thread.start()

    def next_fault(self) -> Fault | None:
        with self._lock:
            return self.faults.popleft() if self.faults else self.default

    def result_of(self, call: Mapping[str, Any]) -> Any:
        """What the real methods return."""
        parameter = call["params"][0]
        match call["method"]:
            case "Transfer.Update":
                return self._update(parameter)
            case "Agent.ReportStatus":
                with self._lock:
                    self.reports.append(parameter)
                return {"code": 0}
            case method:
                raise BadCallError(f"rpc: can't find service {method}")

    def _update(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        if any("poison=400" in item["tags"] for item in items):
            raise BadCallError(
                "json: cannot unmarshal number into Go struct field MetaData.tags of type string"
            )
        good = [item for item in items if "poison=invalid" not in item["tags"]]
        with self._lock:
            self.accepted += good
        return {"Message": "ok", "Total": len(items), "Invalid": len(items) - len(good), "Latency": 0}

    def close(self) -> None:
        """Stop listening and end all connections."""
        self.release.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._server.join()
        self._listening.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


def say(content: bytes, *, then_close: bool = False) -> Fault:
    """Send bytes, whatever they are."""

    def fault(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
        connection.send(content)
        return not then_close

    return fault


def answer(result: Any, error: Any = None) -> Fault:
    """Answer with this result or error."""

    def fault(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
        connection.reply(call["id"], result, error)
        return True

    return fault


def foreign_first(*numbers: Any) -> Fault:
    """Send answers to other calls, which refuse everything, and then the right one."""

    def fault(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
        for number in numbers:
            own = call["id"] + number if type(number) is int else number
            connection.reply(own, {"Message": "not for you", "Total": 9, "Invalid": 9, "Latency": 0})
        connection.answer(call)
        return True

    return fault


def close(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
    """Close without a word, as Go does on broken JSON."""
    return False


def accept_then_close(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
    """Take the call and close: the answer is lost."""
    connection.server.result_of(call)
    return False


def answer_then_close(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
    """Answer, and close a connection that was to be kept."""
    connection.answer(call)
    return False


def reset(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
    """Reset the connection."""
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hang(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
    """Say nothing, until the double is closed."""
    connection.server.release.wait()
    return False


def drip(content: bytes) -> Fault:
    """Send `content` byte by byte, over and over, as long as somebody listens."""

    def fault(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
        with contextlib.suppress(OSError):
            at = 0
            while not connection.server.release.wait(0.01):
                connection.send(content[at : at + 1])
                at = (at + 1) % len(content)
        return False

    return fault


def byte_by_byte(connection: RpcConnection, call: Mapping[str, Any]) -> bool:
    """Answer properly, in as many pieces as there are bytes."""
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    result = json.dumps({"id": call["id"], "result": connection.server.result_of(call), "error": None})
    for byte in result.encode():
        connection.send(bytes([byte]))
    return True
