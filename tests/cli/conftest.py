"""Two real containers that no runtime knows of, for commands that need something to measure."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from demo import throwaway
from tests.cli.programs import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def containers() -> Iterator[tuple[throwaway.Throwaway, ...]]:
    """`web`, with half a CPU and 64 MiB, and `worker`, with no limit."""
    web = throwaway.start("web", 0, busy=0.2, cores=0.5, memory=64 * 1024 * 1024)
    with throwaway.running(web):
        worker = throwaway.start("worker", 1, busy=0.1)
        with throwaway.running(worker) as _:
            for made in (web, worker):
                until(lambda one=made: answers(one), f"{made.name} to serve")  # type: ignore[misc]
            yield web, worker


def answers(made: throwaway.Throwaway) -> bool:
    """Whether it serves; what it answers to is its first traffic."""
    with socket.socket() as probe:
        # Whoever else has these addresses is none of these tests' business.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, made.veth.encode())
        probe.settimeout(1.0)
        try:
            probe.connect((made.address, 8000))
        except OSError:
            return False
        return True
