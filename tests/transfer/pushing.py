"""Clients for the double, and what they push."""

from __future__ import annotations

import json
import random
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from falcon_agent.transfer.transport import Failover, make_transport
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = json.dumps(
    [
        {
            "endpoint": "h",
            "metric": "m",
            "value": 1,
            "step": 60,
            "counterType": "GAUGE",
            "tags": "",
            "timestamp": 1795161720,
        }
    ]
).encode()
OK = b'{"msg":"success","data":{"Message":"ok","Total":1,"Invalid":0,"Latency":0}}'
SHORT = 0.2
"""Seconds; for pushes that are meant to run into their deadline."""


class Pick(random.Random):
    """Starts with the address of this index."""

    def __init__(self, index: int) -> None:
        super().__init__(0)
        self._index = index

    def randrange(self, *_: int) -> int:  # type: ignore[override]
        return self._index


@contextmanager
def client(*addresses: str, timeout: float = 10.0, first: int = 0) -> Iterator[Failover]:
    with closing(make_transport(addresses, timeout, rng=Pick(first))) as made:
        yield made


def refused_address() -> str:
    return f"http://127.0.0.1:{free_port()}/api/push"


def until(condition: Callable[[], object]) -> None:
    """Wait for what other threads bring about."""
    waiting = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waiting.wait(0.01)
    pytest.fail("it did not come")


def has_thread(name: str) -> bool:
    """Whether a thread of this name runs: one that was told to end may take a moment."""
    return name in {thread.name for thread in threading.enumerate()}


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
