from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors.sockets import BACKLOG, BACKLOG_MAX, SocketsCollector
from falcon_agent.kernelfile import recording
from tests.namespaces.lab import Netns, Pair, eventually, netns, target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falcon_agent.collectors.base import Target

pytestmark = pytest.mark.real

V6 = socket.AF_INET6
QUEUES = (BACKLOG, BACKLOG_MAX)


@pytest.fixture
def box() -> Iterator[Netns]:
    with netns() as made:
        yield made


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


def queues(collector: SocketsCollector, of: Target) -> dict[int, tuple[float, float]]:
    """By port: what waits and how much may."""
    collector.begin([of])
    found: dict[int, dict[str, float]] = {}
    for metric, value, tags in collector.collect(of):
        if metric in QUEUES:
            ((key, port),) = tags
            assert key == "port"
            found.setdefault(int(port), {})[metric.name] = value
    return {port: (both[BACKLOG.name], both[BACKLOG_MAX.name]) for port, both in found.items()}


def listen(box: Netns, stack: ExitStack, address: str, port: int, backlog: int) -> None:
    made = stack.enter_context(box.socket(V6 if ":" in address else socket.AF_INET))
    if ":" in address:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((address, port))
    made.listen(backlog)


def test_what_waits_for_accept(pair: Pair) -> None:
    near = pair.near
    collector = SocketsCollector()
    with ExitStack() as stack, target(near) as of:
        listen(near, stack, "0.0.0.0", 8000, 1)
        listen(near, stack, "::", 8000, 100)
        listen(near, stack, pair.V4[0], 8001, 7)
        for family, address, clients in ((socket.AF_INET, pair.V4[0], 4), (V6, pair.V6[0], 3)):
            for _ in range(clients):
                client = stack.enter_context(pair.far.socket(family))
                client.setblocking(False)  # noqa: FBT003  its only argument
                client.connect_ex((address, 8000))
        waiting = {("2", "1", "0.0.0.0:8000"), ("3", "100", "[::]:8000"), ("0", "7", f"{pair.V4[0]}:8001")}

        def told_by_ss() -> set[tuple[str, ...]]:
            return {tuple(line.split()[1:4]) for line in near.run("ss", "-Hltn").splitlines()}

        eventually(lambda: told_by_ss() == waiting, f"{waiting}, and not {told_by_ss()}")
        # The full queue of IPv4, not the longer one of IPv6.
        assert queues(collector, of) == {8000: (2, 1), 8001: (0, 7)}
        assert not any(collector.absent(metric, of) for metric in collector.metrics)


def test_a_container_that_listens_on_very_many_ports(box: Netns, caplog: pytest.LogCaptureFixture) -> None:
    collector = SocketsCollector()
    lowest = dict.fromkeys(range(1001, 1033), (0, 5))
    with target(box) as of, ExitStack() as stack:
        for port in range(2000, 1000, -1):
            listen(box, stack, "127.0.0.1", port, 5)
        listen(box, stack, "127.0.0.2", 2000, 5)
        for _ in range(3):
            with recording() as seen:
                assert queues(collector, of) == lowest
        assert "969 listen queues are left out" in str(collector.absent(BACKLOG, of))
        assert b"backlog of 969 more sockets left out" in dict(seen)[f"sock_diag of netns {box.inode}"]
        assert len(caplog.records) == 1  # said once, not in every cycle
        stack.close()
        listen(box, stack, "127.0.0.1", 1001, 5)
        assert queues(collector, of) == {1001: (0, 5)}
        assert collector.absent(BACKLOG, of) is None
        stack.close()
        assert queues(collector, of) == {}
        assert "listens on a TCP port" in str(collector.absent(BACKLOG, of))
        collector.forget(of)
        assert collector.absent(BACKLOG, of) is None


def test_ports_that_change_all_the_time_do_not_become_series_without_end(box: Netns) -> None:
    collector = SocketsCollector()
    seen: set[int] = set()
    with target(box) as of:
        for start in range(2000, 3000, 32):
            with ExitStack() as stack:
                listen(box, stack, "127.0.0.1", 80, 5)
                for port in range(start, start + 31):
                    listen(box, stack, "127.0.0.1", port, 5)
                found = queues(collector, of)
            assert 80 in found
            seen |= found.keys()
        assert len(seen) == 128
        assert "31 listen queues are left out" in str(collector.absent(BACKLOG, of))


def test_a_reason_of_an_earlier_cycle_is_not_told_again(box: Netns) -> None:
    collector = SocketsCollector()
    with target(box) as of, ExitStack() as stack:
        listen(box, stack, "127.0.0.1", 80, 5)
        right = of.container
        of.container = replace(right, netns=1)
        assert queues(collector, of) == {}
        assert "not in network namespace 1" in str(collector.absent(BACKLOG, of))
        of.container = right
        stack.close()
        assert queues(collector, of) == {}
        assert "listens on a TCP port" in str(collector.absent(BACKLOG, of))
