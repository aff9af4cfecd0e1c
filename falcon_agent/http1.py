"""HTTP/1.1 as far as a client needs it that asks one thing at a time: a request's head, and reading the answer.

It knows no sockets: bytes come from a function of the caller's, which keeps the deadline and can be cut off. Nothing
grows without bound: lines, their number and what is buffered are limited, and the body is handed out in parts.
What the packages for it take besides (requests 19 MB, http.client 8 MB) is for TLS, MIME and cookies.
(RFC 9110 https://www.rfc-editor.org/rfc/rfc9110, RFC 9112 https://www.rfc-editor.org/rfc/rfc9112)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_LINE = 64 * 1024
"""Bytes of the first line and of each header."""
MAX_HEADERS = 100

OK, MULTIPLE_CHOICES, BAD_REQUEST, NOT_FOUND, SERVER_ERROR = 200, 300, 400, 404, 500

_CHUNK = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.(\d) ([1-9]\d\d)(?: .*)?", re.DOTALL)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*))?")
_TARGET = re.compile(r"[!-~]+")
_SWITCHING_PROTOCOLS, _FINAL, _NO_CONTENT, _NOT_MODIFIED = 101, 200, 204, 304


class NotHttpError(ValueError):
    """What the other side says is no HTTP/1.1."""


class HeaderError(ValueError):
    """HTTP does not allow the name or value of one of our headers; neither is shown, for it may be secret."""


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The bytes of a request up to its body.

    Args:
        method: the verb.
        target: path and query, percent-encoded.
        headers: `Host` among them.

    Raises:
        HeaderError: one of the headers has a form that HTTP does not allow.
        ValueError: the target has.
    """
    if not _TARGET.fullmatch(target):
        raise ValueError("a blank or a letter that belongs percent-encoded")
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise HeaderError("a header that HTTP does not allow")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "\r\n")).encode("latin-1")


class Answer:
    """One answer; its head has come when this is made.

    Args:
        receive: at least one and at most so many of the bytes that the other side sends; none at their end.

    Attributes:
        status: e.g. 200; informational answers (1xx) are passed over.
        headers: by name in lower case; of the same name joined by commas.

    Raises:
        NotHttpError: it is none.
        ConnectionResetError: it ends too early.
        OSError: whatever `receive` raises.
    """

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self._complete = False
        while True:
            self._version, self.status = self._status_line()
            self.headers = self._headers()
            if self.status >= _FINAL or self.status == _SWITCHING_PROTOCOLS:
                return

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on the same connection."""
        options = self.headers.get("connection", "").lower().replace(" ", "").split(",")
        return self._complete and self._version > 0 and "close" not in options and not self._buffer

    def read(self, limit: int) -> bytes:
        """The body; if it is longer than `limit` bytes, a little more than these."""
        content = bytearray()
        for part in self.parts():
            content += part
            if len(content) > limit:
                break
        return bytes(content)

    def parts(self) -> Iterator[bytes]:
        """The body as it comes, to its end (RFC 9112 section 6.3).

        Raises: as the class.
        """
        coding = self.headers.get("transfer-encoding", "").lower().strip()
        if self.status in {_SWITCHING_PROTOCOLS, _NO_CONTENT, _NOT_MODIFIED}:
            self._complete = True
        elif coding.rpartition(",")[2].strip() == "chunked":
            yield from self._chunks()
        elif "content-length" in self.headers and not coding:
            yield from self._exactly(self._length())
            self._complete = True
        else:
            while part := self._some(_CHUNK):
                yield part

    def _chunks(self) -> Iterator[bytes]:
        """RFC 9112 section 7.1."""
        while True:
            found = _CHUNK_SIZE.fullmatch(self._line())
            if found is None:
                raise NotHttpError("a chunk without a size")
            size = int(found[1], 16)
            if size == 0:
                self._headers()
                self._complete = True
                return
            yield from self._exactly(size)
            if self._line():
                raise NotHttpError("a chunk that is longer than its size")

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            part = self._some(min(size, _CHUNK))
            if not part:
                raise _cut_off()
            size -= len(part)
            yield part

    def _length(self) -> int:
        lengths = {length.strip() for length in self.headers["content-length"].split(",")}
        length = lengths.pop()
        if lengths or not re.fullmatch(r"[0-9]{1,18}", length):
            raise NotHttpError("a Content-Length that is none")
        return int(length)

    def _some(self, size: int) -> bytes:
        """At least one byte, at most `size`; none at the end."""
        if not self._buffer:
            return self._receive(size)
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        return part

    def _status_line(self) -> tuple[int, int]:
        line = self._line()
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise NotHttpError(f"its first words are {line[:40]!r}")
        return int(found[1]), int(found[2])

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        name = ""
        for _ in range(MAX_HEADERS):
            line = self._line()
            if not line:
                return headers
            if line[:1] in b" \t" and name:  # folded, as was allowed once (RFC 9112 section 5.2)
                headers[name] += f" {line.decode('latin-1').strip()}"
                continue
            before, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise NotHttpError("a header without a colon")
            name = before.strip().lower()
            told = value.strip()
            headers[name] = f"{headers[name]}, {told}" if name in headers else told
        raise NotHttpError(f"more than {MAX_HEADERS} headers")

    def _line(self) -> bytes:
        """The next line without its end."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE:
                raise NotHttpError(f"a line of more than {MAX_LINE} bytes")
            content = self._receive(_CHUNK)
            if not content:
                raise _cut_off()
            self._buffer += content
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")


def _cut_off() -> ConnectionResetError:
    return ConnectionResetError("it closed the connection before the answer was complete")
