from __future__ import annotations

import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_agent.errors import DeniedError, FalconAgentError, GoneError, KernelFileError, ParseError
from falcon_agent.netlink.wire import (
    NETLINK_ROUTE,
    NLM_F_DUMP_INTR,
    InterruptedDumpError,
    ask,
    attribute,
    open_netlink,
    parse_attributes,
    parse_datagram,
)
from tests.namespaces.lab import become_nobody, in_child, netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from falcon_agent.netlink.wire import NetlinkSocket

NETLINK = Path(__file__).parents[1] / "fixtures" / "net" / "netlink"
GETLINK = (NETLINK / "rtm_getlink").read_bytes()
ERROR = (NETLINK / "error").read_bytes()
RTM_GETLINK, RTM_DELLINK = 18, 17
ANY_LINK = bytes(16)


class Replay:
    """Stands for a socket where the kernel cannot be made to answer so: it gives back datagrams."""

    def __init__(self, *datagrams: bytes, flags: int = 0) -> None:
        self._datagrams = list(datagrams)
        self._flags = flags

    seconds = 1.0

    def sendto(self, question: bytes, _: tuple[int, int]) -> int:
        return len(question)

    def recvmsg(self, _: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        if not self._datagrams:
            raise BlockingIOError
        return self._datagrams.pop(0), [], self._flags, (0, 0)


def replay(*datagrams: bytes) -> Iterator[memoryview]:
    return ask(cast("Any", Replay(*datagrams)), RTM_GETLINK, b"", "test", dump=True)


def message(kind: int, payload: bytes = b"", flags: int = 2, sequence: int = 1) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


def test_captured_dump() -> None:
    spans, flags, is_last = parse_datagram(GETLINK, "test")
    assert (len(spans), flags, is_last) == (5, 2, True)
    # Behind a header each, without a gap, up to the message that says that it was all.
    assert [start - 16 for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert [bytes(payload) for payload in replay(GETLINK)] == [GETLINK[start:end] for start, end in spans]


@pytest.mark.parametrize("length", [15, 0, 25])
def test_a_message_of_impossible_length(length: int) -> None:
    with pytest.raises(ParseError, match=f"a message of {length} bytes where 24 are left"):
        list(replay(message(16) + struct.pack("=IHHII8x", length, 16, 2, 1, 0)))


def test_one_message_is_all_of_what_is_no_dump() -> None:
    answer = ask(cast("Any", Replay(message(16, b"1234") * 2)), RTM_GETLINK, b"", "test", dump=False)
    assert [bytes(payload) for payload in answer] == [b"1234"]


def test_a_dump_comes_in_any_number_of_datagrams() -> None:
    first = struct.unpack_from("=I", GETLINK)[0]
    assert len(list(replay(GETLINK[:first], GETLINK[first:]))) == 5


def test_messages_for_another_question_are_left_out() -> None:
    assert list(replay(message(16, b"other", sequence=2) + bytes(3), message(3, bytes(4)))) == []


def test_captured_error_is_a_gone_process() -> None:
    with pytest.raises(GoneError, match="No such process"):
        list(replay(ERROR))


def test_what_an_errno_means() -> None:
    for number, kind in ((1, DeniedError), (13, DeniedError), (3, GoneError), (19, GoneError)):
        with pytest.raises(kind):
            list(replay(message(2, struct.pack("=i", -number))))
    # No such part of the kernel: that is not a container that ended.
    with pytest.raises(KernelFileError) as raised:
        list(replay(message(2, struct.pack("=i", -2))))
    assert type(raised.value) is KernelFileError


def test_an_error_at_the_end_of_a_dump() -> None:
    with pytest.raises(KernelFileError, match="Operation not supported"):
        list(replay(message(3, struct.pack("=i", -95))))


def test_a_list_that_changed_is_told_at_its_end() -> None:
    changed = message(16, b"1234", flags=2 | NLM_F_DUMP_INTR) + message(16, b"1234") + message(3, bytes(4))
    answer = replay(changed)
    assert [bytes(next(answer)), bytes(next(answer))] == [b"1234", b"1234"]
    with pytest.raises(InterruptedDumpError):
        next(answer)


def test_a_dump_without_end() -> None:
    with pytest.raises(KernelFileError, match="no answer in time"):
        list(replay(message(16, b"1234")))


def test_a_short_error_message() -> None:
    with pytest.raises(ParseError):
        list(replay(message(2, b"\1")))


@settings(deadline=None)
@given(st.integers(0, len(GETLINK)), st.binary(max_size=60))
def test_cut_or_garbled_answers(cut: int, garbage: bytes) -> None:
    for content in (GETLINK[:cut], GETLINK[:cut] + garbage + GETLINK[cut:], garbage):
        try:
            for payload in replay(content):
                parse_attributes(payload[16:], "test")
        except FalconAgentError:
            pass


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40)))
def test_attributes_there_and_back(values: dict[int, bytes]) -> None:
    packed = b"".join(attribute(kind, value) for kind, value in values.items())
    assert {kind: bytes(value) for kind, value in parse_attributes(memoryview(packed), "").items()} == values


@pytest.mark.parametrize("raw", [b"\x03\0\1\0", b"\x09\0\1\0aaaa", b"\xff\xff\1\0"])
def test_attributes_of_impossible_length(raw: bytes) -> None:
    with pytest.raises(ParseError):
        parse_attributes(memoryview(raw), "test")


@pytest.fixture
def quiet() -> Iterator[Callable[[], NetlinkSocket]]:
    """Sockets of a namespace where no interface comes or goes, as some do on the machine while they are listed."""
    with netns() as made:
        yield lambda: made.inside(lambda: open_netlink(NETLINK_ROUTE, 60))


@pytest.mark.real
def test_the_kernel_answers(quiet: Callable[[], NetlinkSocket]) -> None:
    with quiet() as sock:
        assert list(ask(sock, RTM_GETLINK, ANY_LINK, "test", dump=True))


@pytest.mark.real
def test_the_kernel_does_not_know_the_question() -> None:
    with open_netlink(NETLINK_ROUTE) as sock, pytest.raises(KernelFileError, match="not supported"):
        list(ask(sock, 9998, ANY_LINK, "test", dump=True))


@pytest.mark.real
def test_the_kernel_refuses() -> None:
    def delete() -> None:
        with open_netlink(NETLINK_ROUTE) as sock:
            list(ask(sock, RTM_DELLINK, ANY_LINK, "test", dump=False))

    assert in_child(delete, before=become_nobody).startswith("DeniedError")


@pytest.fixture
def watchdog() -> Iterator[None]:
    """Ends what would wait without end."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits without end"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.real
@pytest.mark.usefixtures("watchdog")
def test_the_kernel_says_nothing() -> None:
    no_operation = 1
    # No time at all is not the kernel's 0, which is without end.
    for timeout in (0.05, 0):
        with open_netlink(NETLINK_ROUTE, timeout) as sock, pytest.raises(KernelFileError, match="no answer"):
            list(ask(sock, no_operation, b"", "test", dump=False))


@pytest.mark.real
def test_an_answer_that_does_not_end_in_time() -> None:
    with open_netlink(NETLINK_ROUTE, 0) as sock, pytest.raises(KernelFileError, match="did not end in time"):
        list(ask(sock, RTM_GETLINK, ANY_LINK, "test", dump=True))


@pytest.mark.real
def test_no_such_protocol() -> None:
    with pytest.raises(KernelFileError):
        open_netlink(31)


@pytest.mark.real
def test_what_others_send_to_our_socket_is_ignored(quiet: Callable[[], NetlinkSocket]) -> None:
    forged_end = message(3, bytes(4), sequence=1)
    with quiet() as sock, quiet() as hostile:
        sock.bind((0, 0))
        hostile.sendto(forged_end, sock.getsockname())
        assert list(ask(sock, RTM_GETLINK, ANY_LINK, "test", dump=True))


@pytest.mark.real
def test_what_others_send_counts_against_the_size(quiet: Callable[[], NetlinkSocket]) -> None:
    with quiet() as sock, quiet() as hostile:
        sock.bind((0, 0))
        for _ in range(3):
            hostile.sendto(bytes(20000), sock.getsockname())
        with pytest.raises(KernelFileError, match="too large"):
            list(ask(sock, RTM_GETLINK, ANY_LINK, "test", dump=True, limit=50000))


def test_a_datagram_that_was_cut_is_no_answer() -> None:
    with pytest.raises(KernelFileError, match="larger than"):
        list(ask(cast("Any", Replay(GETLINK, flags=socket.MSG_TRUNC)), 18, b"", "test", dump=True))


@pytest.mark.real
def test_what_others_send_and_is_cut_is_ignored_too(quiet: Callable[[], NetlinkSocket]) -> None:
    with quiet() as sock, quiet() as hostile:
        sock.bind((0, 0))
        hostile.sendto(message(3, bytes(40000)), sock.getsockname())
        assert list(ask(sock, RTM_GETLINK, ANY_LINK, "test", dump=True))
