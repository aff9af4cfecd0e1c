"""A transfer double for the tests of this room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.transfer.double import Double
from tests.transfer.rpcdouble import RpcDouble
from tests.transfer.serving import Running, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def double() -> Iterator[Double]:
    running = Double()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def second() -> Iterator[Double]:
    running = Double()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def running() -> Iterator[Running]:
    with serving() as made:
        yield made


@pytest.fixture
def rpc() -> Iterator[RpcDouble]:
    running = RpcDouble()
    try:
        yield running
    finally:
        running.close()
