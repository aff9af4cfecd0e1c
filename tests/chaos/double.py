"""A transfer with a ledger and a switch for every way in which one can fail."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.chaos.ledger import Arrival, Ledger, key_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

MOST_ITEMS = 10
"""Records of a POST above which it is too large, under the fault `413`."""

POISON = "falcon_agent.mem.rss"
"""The metric that `poison` and `invalid` find fault with."""

SLOW_SECONDS = 0.4


class Transfer:
    """Listens on one port of loopback for its whole life; `fault` names how it behaves from now on.

    Args:
        rng: decides when a flapping transfer is up.
        ledger: shared with a transfer that leads to the same graph; its own by default.
    """

    def __init__(self, rng: random.Random, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()
        self.hits = 0
        self._rng = rng
        self._fault = ""
        self._healed = threading.Event()
        # Bound for ever and never listening: nobody else gets the port while this transfer refuses.
        self._reserve = socket.socket()
        self._reserve.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserve.bind(("127.0.0.1", 0))
        self.port = self._reserve.getsockname()[1]
        self._server: _Server | None = None
        self._open()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/push"

    @property
    def fault(self) -> str:
        return self._fault

    @fault.setter
    def fault(self, name: str) -> None:
        self._fault = name
        self._healed.set()
        self._healed = threading.Event()
        if name == "refuse":
            self._shut()
        else:
            self._open()

    def _open(self) -> None:
        if self._server is None:
            self._server = _Server(self)
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _shut(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        self.fault = "refuse"
        self._reserve.close()

    def handle(self, call: _Call, body: bytes) -> None:
        """Answer one POST as the fault of the moment wants it."""
        self.hits += 1
        fault = self._fault
        if fault == "flapping":
            fault = self._rng.choice(("", "reset", "500", "lost reply"))
        misbehave = _FAULTS.get(fault)
        if misbehave is None:
            call.answer(200, _taken(self._accept(call, body, fault)))
        else:
            misbehave(self, call, body)

    def _accept(self, call: _Call, body: bytes, fault: str, *, told: bool = True) -> tuple[int, int]:
        """Write a POST into the ledger; returns how many records it has and how many of them are invalid."""
        items = json.loads(body)
        bad = [item for item in items if fault == "invalid" and item["metric"] == POISON]
        keys = tuple(key_of(item) for item in items if item not in bad)
        refused = tuple(key_of(item) for item in bad)
        if items:
            push = call.headers.get("X-Push", "")
            self.ledger.accept(Arrival(time.monotonic(), time.time(), keys, told, fault, refused, push))
        return len(items), len(bad)

    def hang(self, call: _Call, body: bytes) -> None:
        self._healed.wait()
        call.reset()

    def late(self, call: _Call, body: bytes) -> None:
        """Accept when the agent has long given up waiting."""
        self._healed.wait(SLOW_SECONDS * 4)
        self._accept(call, body, "late", told=False)
        call.reset()

    def slow(self, call: _Call, body: bytes) -> None:
        self._healed.wait(SLOW_SECONDS)
        call.answer(200, _taken(self._accept(call, body, "slow", told=not call.is_gone())))

    def lose_reply(self, call: _Call, body: bytes) -> None:
        self._accept(call, body, "lost reply", told=False)
        call.reset()

    def poison(self, call: _Call, body: bytes) -> None:
        """Refuse a whole POST for one of its records."""
        if any(item["metric"] == POISON for item in json.loads(body)):
            call.answer(400, b"decode error\n")
        else:
            call.answer(200, _taken(self._accept(call, body, "poison")))

    def too_large(self, call: _Call, body: bytes) -> None:
        if len(json.loads(body)) > MOST_ITEMS:
            call.answer(413, b"too large\n")
        else:
            call.answer(200, _taken(self._accept(call, body, "413")))


def _taken(counts: tuple[int, int]) -> bytes:
    total, invalid = counts
    data = {"Message": "ok", "Total": total, "Invalid": invalid, "Latency": 0}
    return json.dumps({"msg": "success", "data": data}).encode()


def _always(status: int, content: bytes, **headers: str) -> Callable[[Transfer, _Call, bytes], None]:
    return lambda _transfer, call, _body: call.answer(status, content, headers)


_FAULTS: Mapping[str, Callable[[Transfer, _Call, bytes], None]] = {
    "reset": lambda _transfer, call, _body: call.reset(),
    "hang": Transfer.hang,
    "late": Transfer.late,
    "slow": Transfer.slow,
    "lost reply": Transfer.lose_reply,
    "poison": Transfer.poison,
    "413": Transfer.too_large,
    "garbage": _always(200, b"<html>It works!</html>"),
    "400": _always(400, b"Bad Request"),
    "429": _always(429, b"slow down", Retry_After="1"),
    "500": _always(500, b"oops"),
    "redirect": _always(302, b"", Location="http://127.0.0.1:9/login"),
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        super().__init__(("127.0.0.1", transfer.port), _Call)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed or gives up waiting is what happens here all the time."""


class _Call(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # Otherwise the head and the body are two packets, and the second waits for the acknowledgement of the first.
    wbufsize = -1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.transfer.fault == "refuse":
            # A connection that was kept from better times.
            self.reset()
        else:
            self.server.transfer.handle(self, body)

    def answer(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def is_gone(self) -> bool:
        """Whether the agent has closed its end: then nobody hears the answer."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *args: object) -> None:
        """The ledger is the log."""
