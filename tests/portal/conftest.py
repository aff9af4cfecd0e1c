"""A portal that answers as the real one did, and rules to put into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.portal.double import Portal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def portal() -> Iterator[Portal]:
    running = Portal()
    try:
        yield running
    finally:
        running.close()
