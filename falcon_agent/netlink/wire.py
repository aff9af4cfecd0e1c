"""The netlink message format, and one question with its answer (RFC 3549 section 2, linux/netlink.h)."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, TypeAlias

from falcon_agent.errors import DeniedError, GoneError, KernelFileError, ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4

NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300
NLM_F_DUMP_INTR = 0x10

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSG_MIN_TYPE = 0x10
"""Types below are control messages (no-op, error, done, overrun)."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ATTRIBUTE_TYPE = 0x3FFF
"""The two high bits of an attribute's type say `nested` and `network byte order`."""
_CODE = struct.Struct("=i")
_TIMEVAL = struct.Struct("@ll")
_MSG_TRUNC = int(socket.MSG_TRUNC)
"""A plain number: `&` with an enum takes a microsecond."""

_DATAGRAM_BYTES = 32768
"""The kernel makes no datagram of a dump larger than this, and none larger than the reader's buffer."""
_KERNEL_PORT = 0
"""The sender's port id that only the kernel has."""
_KERNEL = (_KERNEL_PORT, 0)
"""Its address: the port id, and no multicast group."""
_SEQUENCE = 1
"""No question is put before the last one's answer has ended, so one number is enough."""

TIMEOUT_SECONDS = 2.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""About half a million sockets, or thirty thousand interfaces; it is read piece by piece and never held
whole."""


Span: TypeAlias = "tuple[int, int]"
"""Where a message's payload, what follows its header, begins in its datagram, and where it ends."""


class InterruptedDumpError(KernelFileError):
    """The kernel's list changed while it was being sent: an entry may be missing, or there twice."""


class NetlinkSocket(socket.socket):
    """A netlink socket whose time limit the kernel keeps (SO_RCVTIMEO of socket(7)).

    By one of Python's every call would be two, the first of them poll(). Sending needs no limit: the kernel takes a
    question within the call, and waits for nobody.

    Attributes:
        seconds: that an answer may take.
    """

    __slots__ = ("seconds",)

    def __init__(self, protocol: int, timeout: float) -> None:
        super().__init__(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self.seconds = timeout
        # To the kernel 0 means no limit.
        microseconds = max(1, round(timeout * 1_000_000))
        self.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(*divmod(microseconds, 1_000_000))
        )


def open_netlink(protocol: int, timeout: float = TIMEOUT_SECONDS) -> NetlinkSocket:
    """A netlink socket, in the network namespace of the thread that calls.

    Args:
        protocol: e.g. `NETLINK_ROUTE`.
        timeout: seconds that an answer may take.

    Raises:
        KernelFileError: the kernel has no such protocol, or no descriptor is left.
    """
    try:
        return NetlinkSocket(protocol, timeout)
    except OSError as error:
        raise _refused("netlink socket", error.errno) from None


def ask(
    sock: NetlinkSocket, kind: int, body: bytes, what: str, *, dump: bool, limit: int = MAX_ANSWER_BYTES
) -> Iterator[memoryview]:
    """Put one question and yield the payload of each message of the answer, as it comes.

    Args:
        sock: from `open_netlink`; not used before, or for a question whose answer was read to its end.
        kind: nlmsg_type of the question.
        body: its payload.
        what: names the question in errors.
        dump: whether the answer is a list; else it is one message.
        limit: bytes that the answer may have.

    Raises:
        DeniedError: the kernel refused for want of a privilege.
        GoneError: what was asked about is gone (ESRCH, ENODEV).
        InterruptedDumpError: at the end; what was yielded is not consistent.
        KernelFileError: no answer in the socket's timeout, more than `limit` bytes, or any other refusal.
        ParseError: the answer does not have the form of netlink messages.
    """
    for datagram, spans in ask_in_bulk(sock, kind, body, what, dump=dump, limit=limit):
        view = memoryview(datagram)
        for start, end in spans:
            yield view[start:end]
            if not dump:
                return


def ask_in_bulk(
    sock: NetlinkSocket,
    kind: int,
    body: bytes,
    what: str,
    *,
    dump: bool = True,
    limit: int = MAX_ANSWER_BYTES,
) -> Iterator[tuple[bytes, list[Span]]]:
    """Like `ask`, but yield each datagram whole, with the places of the payloads in it.

    A `struct.Struct` can unpack there at once, so this is for lists of many messages that are alike.
    """
    flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else 0)
    try:
        sock.sendto(_HEADER.pack(_HEADER.size + len(body), kind, flags, _SEQUENCE, 0) + body, _KERNEL)
    except OSError as error:
        raise _refused(what, error.errno) from None
    all_flags = 0
    for datagram in _datagrams(sock, what, limit):
        spans, flags, is_last = parse_datagram(datagram, what)
        all_flags |= flags
        if spans:
            yield datagram, spans
        if is_last:
            if all_flags & NLM_F_DUMP_INTR:
                raise InterruptedDumpError(what, "it changed while it was being read")
            return


def _datagrams(sock: NetlinkSocket, what: str, limit: int) -> Iterator[bytes]:
    """What the kernel sends, until the caller stops asking, within the socket's timeout and `limit` bytes.

    In a container's namespace its root may send to any netlink socket: that is ignored, but counts.
    """
    deadline = time.monotonic() + sock.seconds
    while True:
        try:
            datagram, _, flags, sender = sock.recvmsg(_DATAGRAM_BYTES)
        except BlockingIOError:
            raise KernelFileError(what, "no answer in time") from None
        except OSError as error:
            raise _refused(what, error.errno) from None
        limit -= len(datagram)
        if limit < 0:
            raise KernelFileError(what, "the answer is too large")
        if time.monotonic() > deadline:
            raise KernelFileError(what, "the answer did not end in time")
        if sender[0] != _KERNEL_PORT:
            continue
        if flags & _MSG_TRUNC:
            raise KernelFileError(what, f"a message is larger than {_DATAGRAM_BYTES} bytes")
        yield datagram


def parse_datagram(datagram: bytes, what: str) -> tuple[list[Span], int, bool]:
    """The messages of one datagram that answer our question.

    Returns:
        Where the payloads are; the flags that any message has; whether the answer ends with this datagram.

    Raises:
        DeniedError, GoneError, KernelFileError: it is a refusal, or a list that ends with one.
        ParseError: a message's length is impossible.
    """
    spans = []
    all_flags = at = 0
    whole = len(datagram)
    unpack, header = _HEADER.unpack_from, _HEADER.size
    while at < whole:
        if whole - at < header:
            raise ParseError(what, "a message is cut short")
        length, kind, flags, sequence, _ = unpack(datagram, at)
        end = at + length
        if length < header or end > whole:
            raise ParseError(what, f"a message of {length} bytes where {whole - at} are left")
        if sequence == _SEQUENCE:
            all_flags |= flags
            if kind >= _NLMSG_MIN_TYPE:
                spans.append((at + header, end))
            elif _is_last(kind, datagram[at + header : end], what):
                return spans, all_flags, True
        at = (end + 3) & ~3  # messages are aligned to four bytes
    return spans, all_flags, False


def _is_last(kind: int, payload: bytes, what: str) -> bool:
    """Whether a control message ends the answer; a refusal, which two kinds may carry, is raised."""
    if kind not in {_NLMSG_ERROR, _NLMSG_DONE}:
        return False
    if len(payload) >= _CODE.size:
        (code,) = _CODE.unpack_from(payload)
        if code < 0:
            raise _refused(what, -code)
    elif kind == _NLMSG_ERROR:
        raise ParseError(what, "an error message is cut short")
    return True


def _refused(what: str, number: int | None) -> KernelFileError:
    """The typed error for an errno.

    Not the table for files: here ENOENT says that the kernel lacks a part (no `tcp_diag` module), not that a
    container ended.
    """
    reason = os.strerror(number or errno.EIO)
    if number in {errno.ESRCH, errno.ENODEV}:
        return GoneError(what, reason)
    if number in {errno.EPERM, errno.EACCES}:
        return DeniedError(what, reason)
    return KernelFileError(what, reason)


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute for a question, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def parse_attributes(payload: memoryview, what: str) -> dict[int, memoryview]:
    """Attribute values by type; of several with one type the last.

    Raises:
        ParseError: an attribute's length is impossible.
    """
    found = {}
    at = 0
    end = len(payload)
    while end - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if not _ATTRIBUTE.size <= length <= end - at:
            raise ParseError(what, f"an attribute of {length} bytes where {end - at} are left")
        found[kind & _ATTRIBUTE_TYPE] = payload[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found
