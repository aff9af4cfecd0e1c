from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.dev_snmp6 import parse_ifindex
from tests.namespaces.lab import become_nobody, in_child, netns

HEAD = b"ifIndex                         \t7\nIp6InReceives                   \t0\n"


def test_the_index_is_in_the_first_line() -> None:
    assert parse_ifindex(HEAD) == 7


@pytest.mark.parametrize("content", [b"", b"\n", b"ifIndex", b"ifIndex\t\n", b"ifIndex\t-7\n", HEAD[40:]])
def test_another_first_line(content: bytes) -> None:
    with pytest.raises(ParseError):
        parse_ifindex(content)


@given(st.binary(max_size=80), st.integers(0, len(HEAD)))
def test_cut_or_garbled(garbage: bytes, cut: int) -> None:
    for content in (garbage, HEAD[:cut] + garbage, garbage + HEAD[cut:]):
        with contextlib.suppress(ParseError):
            assert parse_ifindex(content) >= 0


@pytest.mark.real
def test_the_kernels_own_of_an_interface_that_is_down_without_privilege() -> None:
    with netns() as box:
        box.run("ip", "link", "add", "eth7", "type", "veth", "peer", "name", "other")
        index = box.inside(lambda: socket.if_nametoindex("eth7"))
        answer = in_child(lambda: parse_ifindex(box.read("net/dev_snmp6/eth7")), before=become_nobody)
    assert answer == str(index)
