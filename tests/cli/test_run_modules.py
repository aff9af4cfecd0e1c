"""What the running daemon has not loaded: each of these would stay in memory for as long as it runs."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.cli.programs import program, receiver, until

if TYPE_CHECKING:
    from tests.cli.programs import Program
    from tests.real.engine import Engine

pytestmark = pytest.mark.real

UNWANTED = {
    "apscheduler": "one job at every step takes no more than falcon_agent.scheduler",
    "asyncio": "threads do",
    "certifi": "only https asks for it",
    "concurrent": "a pool of one thread is a thread",
    "difflib": "words for people",
    "docker": "the engine's API is asked directly",
    "email": "dates in the usual form are read without it",
    "falcon_agent.config.model": "another process validates",
    "hashlib": "OpenSSL comes with it",
    "h2": "no Kubernetes here",
    "http": "falcon_agent.http1 reads what is used of it",
    "pydantic": "another process validates",
    "requests": "for Open-Falcon's API, which only people's commands talk to",
    "rich": "tables are for people",
    "shutil": "argparse is spared it",
    "ssl": "only https asks for it",
    "tomllib": "another process reads the file",
    "urllib3": "falcon_agent.http1 reads what is used of it",
}
"""Modules by why they are not needed."""


def loaded(agent: Program) -> set[str]:
    """The modules that Python has told of importing (PYTHONPROFILEIMPORTTIME)."""
    return {line.rpartition("|")[2].strip() for line in agent.log if line.startswith("import time:")}


def test_a_daemon_that_measures_pushes_and_reloads_has_not_loaded(
    docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    settings = {
        "AGENT__STEP": "1",
        "DISCOVERY__RUNTIMES": "docker",
        "DISCOVERY__DOCKER": docker_engine.url,
        "DISCOVERY__INCLUDE__NAME": "lean",
    }
    with (
        docker_engine.container("--name", "lean"),
        receiver() as got,
        program("run", env=settings | {"TRANSFER__ADDRESSES": got.url}) as agent,
    ):
        until(lambda: len(got.values("container.cpu.busy", name="lean")) >= 2, "cycles with rates")
        agent.send(signal.SIGHUP)
        until(lambda: agent.said("reloaded"), "the reload")
        cycles = len(got.values("container.cpu.busy", name="lean"))
        until(lambda: len(got.values("container.cpu.busy", name="lean")) > cycles, "cycles after it")
        found = loaded(agent)
    assert {"falcon_agent.agent", "falcon_agent.discovery.docker", "sqlite3"} <= found
    assert sorted(found & UNWANTED.keys()) == []
