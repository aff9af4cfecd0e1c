"""What tests of every room may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.real.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """One real Docker engine for the whole run; without Docker the tests that ask for it fail."""
    engine = Engine()
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
