"""JSON-RPC 1.0 over raw TCP, as Go's net/rpc/jsonrpc speaks it: transfer at :8433, hbs at :6030.

A request and its answer are one JSON object each, without a length before it or a defined end of line after
it. Answers may come in another order than the requests, so they carry the id of theirs. Broken JSON has the
other side close the connection without a word.
(https://www.jsonrpc.org/specification_v1, https://pkg.go.dev/net/rpc/jsonrpc)
"""

from __future__ import annotations

import itertools
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from falcon_agent.errors import TransferError
from falcon_agent.transfer.deadline import Deadline, connect
from falcon_agent.transfer.failure import Failure, failure_of
from falcon_agent.transfer.reply import first_line, printable

MAX_ANSWER_BYTES = 64 * 1024
"""What one call reads at most; the answers of transfer and hbs have about a hundred."""

_CHUNK = 16 * 1024
_STRUCTURE = re.compile(rb'["{}]')
_STRING_END = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BLANK = b" \t\r\n"


class CallError(TransferError):
    """A call was not answered, or not sensibly.

    Attributes:
        failure: why, for statistics and people.
    """

    def __init__(self, address: str, failure: Failure) -> None:
        super().__init__(f"cannot call {address}: {failure.fact}; {failure.advice}")
        self.failure = failure


class RefusedError(TransferError):
    """The other side answered the call with an error; the connection is fine.

    Attributes:
        answer: its words, fit for a log.
    """

    def __init__(self, address: str, answer: str) -> None:
        super().__init__(f"cannot call {address}: it answered with the error {answer!r}")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        id: of the request that it belongs to; None where it has none that could be ours.
        result: of the call; None if it failed.
        error: what the other side says against it; None if it succeeded.
    """

    id: int | None
    result: Any
    error: Any


def request(method: str, params: bytes, number: int) -> bytes:
    """The bytes of a call.

    Args:
        method: e.g. `Transfer.Update`.
        params: the one parameter, as JSON; Go's methods take exactly one.
        number: the id that the answer must carry.
    """
    return b'{"method":"%s","params":[%s],"id":%d}\n' % (method.encode(), params, number)


def parse_answer(content: bytes) -> Answer | None:
    """The answer in one JSON object, or None if it is none."""
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or "id" not in found or not found.keys() & {"result", "error"}:
        return None
    number = found["id"]
    # Not isinstance: true would be 1.
    return Answer(number if type(number) is int else None, found.get("result"), found.get("error"))


class Objects:
    """Cuts a stream into JSON objects; looks at every byte once, however small the pieces are.

    Only quotes and braces are looked at. What is inside is for `parse_answer` to judge.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._at = 0
        self._depth = 0
        self._in_string = False

    def feed(self, content: bytes) -> list[bytes]:
        """The objects that are complete with this piece.

        Raises:
            ValueError: something else than an object begins there.
        """
        self._waiting += content
        found = []
        while self._advance():
            if not self._depth:
                found.append(bytes(self._waiting[: self._at]))
                del self._waiting[: self._at]
                self._at = 0
        return found

    def _advance(self) -> bool:
        """Go on to the next quote or brace; False if it has not come yet."""
        if self._in_string:
            end = _STRING_END.match(self._waiting, self._at)
            if end is None:
                self._at = self._resume()
                return False
            self._in_string = False
            self._at = end.end()
        if not self._depth:
            del self._waiting[: len(self._waiting) - len(self._waiting.lstrip(_BLANK))]
            if self._waiting and self._waiting[:1] != b"{":
                raise ValueError("no JSON object")
        mark = _STRUCTURE.search(self._waiting, self._at)
        if mark is None:
            self._at = len(self._waiting)
            return False
        self._at = mark.end()
        match mark[0]:
            case b'"':
                self._in_string = True
            case b"{":
                self._depth += 1
            case _:
                self._depth -= 1
        return True

    def _resume(self) -> int:
        """Where to go on in a string that has not ended: at the end, or at a backslash whose partner is missing."""
        tail = self._waiting[self._at :]
        backslashes = len(tail) - len(tail.rstrip(b"\\"))
        return len(self._waiting) - backslashes % 2


def host_and_port(address: str) -> tuple[str, int]:
    """The host and port of `rpc://host:port` or `host:port`; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is no such address.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    if not parts.hostname or not parts.port:
        raise ValueError("host or port is missing")
    return parts.hostname, parts.port


class Connection:
    """Calls to one server over a connection that is kept; for one thread, except `close`.

    Args:
        address: `rpc://host:port` or `host:port`.
        timeout: seconds for one call, from connecting to the end of the answer. Not covered: looking up the
            host name, which the resolver bounds by itself (resolv.conf(5)).
    """

    def __init__(self, address: str, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._deadline: Deadline | None = None
        self._closed = False
        # Never used twice, so that an answer to an earlier call is never taken for that to a later one.
        self._numbers = itertools.count(1)

    def call(self, method: str, params: bytes) -> Any:
        """The result of a call, decoded.

        Raises:
            CallError: there is none.
            RefusedError: the other side answered with an error.
        """
        number = next(self._numbers)
        self._deadline = deadline = Deadline(self._timeout)
        try:
            if self._closed:
                raise ConnectionAbortedError
            answer = self._exchange(request(method, params, number), number, deadline)
        except (OSError, ValueError) as error:
            self._drop()
            raise CallError(self._address, self._failure(error)) from None
        finally:
            self._deadline = None
            if self._closed:
                self._drop()
        if answer.error is not None:
            raise RefusedError(self._address, _words(answer.error))
        return answer.result

    def _failure(self, error: Exception) -> Failure:
        if self._closed:
            return Failure("stopping", "the agent is stopping", "nothing is wrong")
        if isinstance(error, OSError):
            return failure_of(error, self._timeout)
        return Failure("garbage", str(error), "is this the address of a JSON-RPC port?")

    def _exchange(self, call: bytes, number: int, deadline: Deadline) -> Answer:
        kept = self._socket is not None
        try:
            return self._once(call, number, deadline)
        except ConnectionError:
            # A connection that was kept may be closed by the other side just as it is used again. Once more
            # on a new one; a call that had arrived after all does no harm when it arrives again.
            self._drop()
            if not kept or self._closed:
                raise
        return self._once(call, number, deadline)

    def _once(self, call: bytes, number: int, deadline: Deadline) -> Answer:
        sock = self._socket or self._connect(deadline)
        deadline.hurry(sock).sendall(call)
        return _answer(sock, number, deadline)

    def _connect(self, deadline: Deadline) -> socket.socket:
        try:
            host, port = host_and_port(self._address)
        except ValueError:
            raise CallError(
                self._address, Failure("config", "it is no host:port", "check addresses")
            ) from None
        try:
            self._socket = connect(host, port, deadline)
        except ValueError:  # no host name can look like that
            raise socket.gaierror(socket.EAI_NONAME, "impossible name") from None
        return self._socket

    def _drop(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def close(self) -> None:
        """Let go of the connection; from another thread it also ends a call that is under way."""
        self._closed = True
        deadline = self._deadline
        if deadline is not None:
            deadline.cut()
        else:
            self._drop()


def _answer(sock: socket.socket, number: int, deadline: Deadline) -> Answer:
    """The answer to call `number`; those to others are passed over."""
    objects = Objects()
    left = MAX_ANSWER_BYTES
    while left > 0:
        content = deadline.hurry(sock).recv(min(_CHUNK, left))
        if not content:
            raise ConnectionResetError("the connection was closed")
        left -= len(content)
        try:
            whole = objects.feed(content)
        except ValueError:
            raise ValueError(f"it answered {first_line(content)!r}, which is no JSON-RPC") from None
        for each in whole:
            answer = parse_answer(each)
            if answer is None:
                raise ValueError(f"it answered {first_line(each)!r}, which is no JSON-RPC")
            if answer.id == number:
                return answer
    raise ValueError(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")


def _words(error: object) -> str:
    """What an error says; Go sends text, JSON-RPC allows anything."""
    if not isinstance(error, str):
        with suppress(orjson.JSONEncodeError):
            error = orjson.dumps(error).decode()
    return printable(str(error))
