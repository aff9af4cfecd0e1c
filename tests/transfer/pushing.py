"""Clients for the double, and what they push."""

from __future__ import annotations

import json
import random
import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from falcon_agent.transfer.transport import Failover, make_transport

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/api/push"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
