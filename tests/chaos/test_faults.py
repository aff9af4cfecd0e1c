"""One short bad night for each fault: nothing is lost that is not counted, and graph could store all of it.

`python -m tests.chaos` runs the same for longer, with other seeds.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.stage import container, perform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.audit import Account

pytestmark = pytest.mark.real

SEED = 1
SECONDS = 2.0
JOBS = 8
"""Nights at the same time: most of each is waiting."""

Nights: TypeAlias = "dict[str, Future[Account]]"


@pytest.fixture(scope="module")
def nights(request: pytest.FixtureRequest) -> Iterator[Nights]:
    """All faults whose tests were selected, under way."""
    chosen = [
        str(item.callspec.params["fault"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    with container(), ThreadPoolExecutor(JOBS) as pool:
        yield {fault: pool.submit(perform, fault, FAULTS[fault], SEED, SECONDS) for fault in chosen}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_promise_is_kept(fault: str, nights: Nights) -> None:
    account = nights[fault].result()
    assert not account.faults, "\n".join(account.faults)
    assert account.produced == account.accepted + len(account.missing)
    assert account.cycles > 2
