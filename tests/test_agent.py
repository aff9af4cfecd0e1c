"""The agent put together, in this process: what a start and a reload find. As a program it is in `tests/cli`."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from falcon_agent.agent import Agent
from falcon_agent.config.loading import load
from falcon_agent.selfstat import SelfStat

if TYPE_CHECKING:
    from pathlib import Path

    from falcon_agent.config import Settings
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
    wanted = settings(
        tmp_path,
        DISCOVERY__RUNTIMES="docker, cgroups",
        DISCOVERY__DOCKER=docker_engine.url,
        DISCOVERY__INCLUDE__NAME=f"tree-docker, {ct}",
    )
    with docker_engine.container("--name", "tree-docker"):
        agent = Agent(wanted, SelfStat())
        try:
            agent.start()
            assert measured(agent) == {"tree-docker"}
            agent.reload(wanted)
            assert measured(agent) == {"tree-docker", ct}
        finally:
            agent.stop()


def test_what_is_in_rings_goes_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ring:
        def __init__(self) -> None:
            self.own = self

    agent = Agent(settings(tmp_path, DISCOVERY__RUNTIMES="cgroups"), SelfStat())
    try:
        gc.disable()
        ring = weakref.ref(Ring())
        agent._cycle(agent._runner)
        assert ring() is not None
        monkeypatch.setattr("falcon_agent.agent._COLLECT_SECONDS", 0.0)
        agent._cycle(agent._runner)
        assert ring() is None
    finally:
        gc.enable()
        agent.stop()


def settings(directory: Path, **more: str) -> Settings:
    """Of an agent whose next cycle is an hour away."""
    chosen = {
        "AGENT__STEP": "3600",
        "SPOOL__DIRECTORY": str(directory / "spool"),
        "TRANSFER__ADDRESSES": "http://127.0.0.1:1",
    }
    return load(None, {f"FALCON_AGENT__{name}": value for name, value in {**chosen, **more}.items()})


def measured(agent: Agent) -> set[str]:
    """Names."""
    return {container.name for container in agent._inventory.snapshot()}
