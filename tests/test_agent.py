"""The agent put together, in this process: what a start and a reload find. As a program it is in `tests/cli`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from falcon_agent.agent import Agent
from falcon_agent.config.loading import load
from falcon_agent.selfstat import SelfStat

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.engine import Engine
    from tests.real.lxc import Lxc

pytestmark = pytest.mark.real

LONG = 3600.0


def test_a_reload_misses_nothing_that_only_the_tree_shows(
    docker_engine: Engine, own_lxc: Lxc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the start leaves for later stays away: the reload alone can bring it.
    monkeypatch.setattr("falcon_agent.discovery.inventory.LATER_SECONDS", LONG)
    monkeypatch.setattr("falcon_agent.discovery.inventory.PROBE_SECONDS", LONG)
    ct = own_lxc.create("tree")
    own_lxc.start(ct)
    settings = load(
        None,
        {
            "FALCON_AGENT__AGENT__STEP": "3600",
            "FALCON_AGENT__DISCOVERY__RUNTIMES": "docker, cgroups",
            "FALCON_AGENT__DISCOVERY__DOCKER": docker_engine.url,
            "FALCON_AGENT__DISCOVERY__INCLUDE__NAME": f"tree-docker, {ct}",
            "FALCON_AGENT__SPOOL__DIRECTORY": str(tmp_path / "spool"),
            "FALCON_AGENT__TRANSFER__ADDRESSES": "http://127.0.0.1:1",
        },
    )
    with docker_engine.container("--name", "tree-docker"):
        agent = Agent(settings, SelfStat())
        try:
            agent.start()
            assert measured(agent) == {"tree-docker"}
            agent.reload(settings)
            assert measured(agent) == {"tree-docker", ct}
        finally:
            agent.stop()


def measured(agent: Agent) -> set[str]:
    """Names."""
    return {container.name for container in agent._inventory.snapshot()}
