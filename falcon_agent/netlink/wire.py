"""The netlink message format, and one question with its answer (RFC 3549 section 2, linux/netlink.h)."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

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

_DATAGRAM_BYTES = 32768
"""The kernel makes no datagram of a dump larger than this, and none larger than the reader's buffer."""
_KERNEL_PORT = 0
"""The sender's port id that only the kernel has."""
_SEQUENCE = 1
"""No question is put before the last one's answer has ended, so one number is enough."""

TIMEOUT_SECONDS = 2.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""About half a million sockets, or thirty thousand interfaces; it is read piece by piece and never held
whole."""


class Message(NamedTuple):
    """A message of an answer.

    Attributes:
        kind: nlmsg_type.
        flags: nlmsg_flags.
        payload: what follows the header.
    """

    kind: int
    flags: int
    payload: memoryview


class InterruptedDumpError(KernelFileError):
    """The kernel's list changed while it was being sent: an entry may be missing, or there twice."""


def open_netlink(protocol: int, timeout: float = TIMEOUT_SECONDS) -> socket.socket:
    """A netlink socket, in the network namespace of the thread that calls.

    Raises:
        KernelFileError: the kernel has no such protocol, or no descriptor is left.
    """
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    except OSError as error:
        raise _refused("netlink socket", error.errno) from None
    made.settimeout(timeout)
    return made


def ask(
    sock: socket.socket,
    kind: int,
    body: bytes,
    what: str,
    *,
    dump: bool,
    limit: int = MAX_ANSWER_BYTES,
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
    flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else 0)
    try:
        sock.sendto(_HEADER.pack(_HEADER.size + len(body), kind, flags, _SEQUENCE, 0) + body, (0, 0))
    except OSError as error:
        raise _refused(what, error.errno) from None
    interrupted = False
    for datagram in _datagrams(sock, what, limit):
        for message in parse_datagram(datagram, what):
            interrupted |= bool(message.flags & NLM_F_DUMP_INTR)
            if _is_last(message, what):
                if interrupted:
                    raise InterruptedDumpError(what, "it changed while it was being read")
                return
            if message.kind >= _NLMSG_MIN_TYPE:
                yield message.payload
                if not dump:
                    return


def _datagrams(sock: socket.socket, what: str, limit: int) -> Iterator[bytes]:
    """What the kernel sends, until the caller stops asking, within the socket's timeout and `limit` bytes.

    In a container's namespace its root may send to any netlink socket: that is ignored, but counts.
    """
    deadline = time.monotonic() + (sock.gettimeout() or TIMEOUT_SECONDS)
    while True:
        try:
            datagram, _, flags, sender = sock.recvmsg(_DATAGRAM_BYTES)
        except TimeoutError:
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
        if flags & socket.MSG_TRUNC:
            raise KernelFileError(what, f"a message is larger than {_DATAGRAM_BYTES} bytes")
        yield datagram


def parse_datagram(datagram: bytes, what: str) -> Iterator[Message]:
    """The messages of one datagram that answer our question.

    Raises:
        ParseError: a message's length is impossible.
    """
    view = memoryview(datagram)
    at = 0
    end = len(view)
    while at < end:
        if end - at < _HEADER.size:
            raise ParseError(what, "a message is cut short")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(view, at)
        if not _HEADER.size <= length <= end - at:
            raise ParseError(what, f"a message of {length} bytes where {end - at} are left")
        if sequence == _SEQUENCE:
            yield Message(kind, flags, view[at + _HEADER.size : at + length])
        at += (length + 3) & ~3  # messages are aligned to four bytes


def _is_last(message: Message, what: str) -> bool:
    """Whether the message ends the answer; a refusal, which either control message may carry, is raised."""
    if message.kind not in {_NLMSG_ERROR, _NLMSG_DONE}:
        return False
    if len(message.payload) >= _CODE.size:
        (code,) = _CODE.unpack_from(message.payload)
        if code < 0:
            raise _refused(what, -code)
    elif message.kind == _NLMSG_ERROR:
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
