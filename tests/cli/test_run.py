"""The daemon as a real process: cycles, delivery, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.programs import broken, falcon_agent, program, receiver, settings_file, until
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("containers")]

BARE = {"DISCOVERY__RUNTIMES": "cgroups", "DISCOVERY__INCLUDE__NAME": "web,worker", "AGENT__STEP": "1"}


def test_every_cycle_is_aligned_and_has_one_timestamp() -> None:
    with receiver() as got, program("run", env=BARE | {"TRANSFER__ADDRESSES": got.url}) as agent:
        until(lambda: len(got.values("container.cpu.busy", name="web")) >= 3, "three cycles with rates")
        assert agent.end()[0] == 0
    by_push: dict[int, set[int]] = {}
    for arrival in got.arrivals:
        assert arrival["fate"] in {"ok", "dropped"}, arrival
        by_push.setdefault(arrival["push"], set()).add(arrival["item"]["timestamp"])
    assert all(len(timestamps) == 1 for timestamps in by_push.values())
    assert {item["step"] for item in got.items} == {1}
    assert got.values("container.tcp.listen", name="web")[-1] == 1
    assert got.values("container.cpu.limit.cores", name="web")[-1] == 0.5
    assert got.values("falcon_agent.containers")[-1] >= 2


def test_the_first_push_between_two_steps_holds_no_counter() -> None:
    with receiver() as got, program("run", env=BARE | {"TRANSFER__ADDRESSES": got.url}):
        until(lambda: got.values("container.net.if.in.bytes", name="web"), "a scheduled cycle")
    arrivals = got.arrivals
    first = [arrival["item"] for arrival in arrivals if arrival["push"] == arrivals[0]["push"]]
    assert {item["counterType"] for item in first} == {"GAUGE"}


def test_records_wait_for_a_dead_transfer_and_arrive_in_order() -> None:
    port = free_port()
    env = BARE | {"TRANSFER__ADDRESSES": f"http://127.0.0.1:{port}/api/push"}
    with program("run", by=broken("none"), env=env) as agent:
        until(lambda: agent.said("cannot push"), "the first failure")
        until(lambda: len(agent.stored()) >= 3, "a backlog")
        with receiver(port) as got:
            until(lambda: len(got.values("agent.alive")) >= 5, "the backlog")
            until(lambda: got.values("falcon_agent.push.failed")[-1:] > [0], "what failed to be told")
            stamps = [item["timestamp"] for item in got.items if item["metric"] == "agent.alive"]
            assert agent.end()[0] == 0
    assert stamps == sorted(stamps)
    # Nothing that was measured is missing.
    assert stamps == agent.stored()[: len(stamps)]


@contextlib.contextmanager
def hanging_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=5) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api/push"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_hanging_transfer_does_not_delay_the_end(number: signal.Signals) -> None:
    env = BARE | {"TRANSFER__TIMEOUT": "300"}
    with hanging_server() as url, program("run", env=env | {"TRANSFER__ADDRESSES": url}) as agent:
        until(lambda: agent.said("started"), "the start")
        time.sleep(1.5)
        code, took = agent.end(number)
    assert code == 0
    # Two seconds on a machine with nothing else to do; by far not as long as a push may take.
    assert took < 30
    assert agent.said("wait on disk for the next start")


def test_what_is_queued_is_delivered_before_the_end() -> None:
    port = free_port()
    dead = {"AGENT__STEP": "60", "TRANSFER__ADDRESSES": f"http://127.0.0.1:{port}/api/push"}
    with program("run", by=broken("patient"), env=BARE | dead) as agent:
        until(lambda: agent.said("cannot push"), "the first failure")
        # By now the wait before the next attempt is long: what arrives, arrives because the agent was told to end.
        time.sleep(5)
        with receiver(port) as got:
            assert agent.end()[0] == 0
            until(lambda: got.values("agent.alive"), "the first cycle")


def test_reload_takes_a_good_configuration_and_refuses_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    with receiver() as got:
        sections: dict[str, dict[str, Any]] = {
            "agent": {"step": 1},
            "tags": {"idc": "one"},
            "transfer": {"addresses": [got.url]},
            "discovery": {"runtimes": ["cgroups"]},
            "discovery.include": {"name": ["web", "worker"]},
        }
        settings_file(path, sections)
        with program("run", "--config", str(path)) as agent:
            until(
                lambda: got.values("container.cpu.busy", idc="one"), "records under the first configuration"
            )
            path.write_text("[agent]\nstep = 'soon'\n")
            agent.send(signal.SIGHUP)
            until(lambda: agent.said("reload refused"), "the refusal")
            assert agent.said("agent.step")
            before = len(got.values("agent.alive", idc="one"))
            until(lambda: len(got.values("agent.alive", idc="one")) > before + 1, "the old one to go on")
            settings_file(path, {**sections, "tags": {"idc": "two"}})
            agent.send(signal.SIGHUP)
            until(lambda: got.values("container.cpu.busy", idc="two"), "records under the new configuration")
            assert agent.end()[0] == 0


def test_reload_leaks_nothing(tmp_path: Path) -> None:
    with receiver() as got:
        path = settings_file(
            tmp_path / "agent.toml",
            {
                "agent": {"step": 60},
                "transfer": {"addresses": [got.url]},
                "discovery": {"runtimes": ["cgroups"]},
                "discovery.include": {"name": ["web", "worker"]},
            },
        )
        with program("run", "--config", path) as agent:
            until(lambda: agent.said("started"), "the start")
            pid = agent.process.pid

            def held() -> list[int]:
                return [len(os.listdir(f"/proc/{pid}/{what}")) for what in ("fd", "task")]

            after = []
            for number in range(1, 11):
                agent.send(signal.SIGHUP)
                until(lambda n=number: sum("reloaded" in line for line in agent.log) == n, "the reload")  # type: ignore[misc]
                after.append(held())
            # The first reloads may open what is kept; afterwards nothing may grow by one with each of seven more. By
            # less it may: a push has something open, and some parts take up their work after the reload.
            until(
                lambda: all(now <= then + 3 for now, then in zip(held(), after[2], strict=True)),
                f"no more than there was: {after}",
            )


def test_bad_configuration_ends_at_once_in_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[transfer]\nadresses = []\n")
    done = falcon_agent("run", "--config", str(path))
    assert done.returncode == 2
    assert "did you mean addresses" in done.stderr
    assert "Traceback" not in done.stderr
