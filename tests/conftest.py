"""What tests of every room may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.real.containerd import containerd_for_tests
from tests.real.engine import Engine
from tests.real.lxc import lxc
from tests.real.podman import Podman

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.containerd import Containerd
    from tests.real.lxc import Lxc

# How long an example takes, or takes to be made, says more about the machine than about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """One podman with its service for the whole run."""
    made = Podman()
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """One containerd, asked by CRI, for the whole run."""
    with containerd_for_tests() as daemon:
        yield daemon


@pytest.fixture
def own_lxc() -> Iterator[Lxc]:
    """LXC, with containers of its own."""
    with lxc() as made:
        yield made
