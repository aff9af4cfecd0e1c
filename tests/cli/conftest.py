"""Two real containers that no runtime knows of, for commands that need something to measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from demo import throwaway

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def containers() -> Iterator[tuple[throwaway.Throwaway, ...]]:
    """`web`, with half a CPU and 64 MiB, and `worker`, with no limit."""
    web = throwaway.start("web", 0, busy=0.2, cores=0.5, memory=64 * 1024 * 1024)
    with throwaway.running(web):
        worker = throwaway.start("worker", 1, busy=0.1)
        with throwaway.running(worker) as _:
            yield web, worker
