"""The daemon as a service: what it tells the service manager and the journal, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.transfer.spoolstatus import inspect
from tests.cli.programs import broken, program, receiver, run_by, settings_file, until
from tests.listening import Listening, listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("containers")]

DEAD = "http://127.0.0.1:9/api/push"
BARE = {
    "DISCOVERY__RUNTIMES": "cgroups",
    "DISCOVERY__INCLUDE__NAME": "web,worker",
    "AGENT__STEP": "1",
    "TRANSFER__ADDRESSES": DEAD,
}
AS_JOURNAL = ("sh", "-c", 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"', "sh")


@pytest.fixture
def manager() -> Iterator[Listening]:
    with listening() as heard:
        yield heard


def under(manager: Listening) -> tuple[str, ...]:
    """As systemd starts a service with Type=notify and WatchdogSec=5."""
    return ("env", f"NOTIFY_SOCKET={manager.address}", "WATCHDOG_USEC=5000000")


def test_it_is_ready_when_the_first_cycle_is_in_the_spool(manager: Listening, tmp_path: Path) -> None:
    spool, gate = tmp_path / "spool", tmp_path / "gate"
    gate.touch()
    env = BARE | {"SPOOL__DIRECTORY": str(spool), "AGENT__STEP": "3600"}
    with program("run", by=(*under(manager), *broken("hang", gate)), env=env) as agent:
        until(lambda: "hangs" in agent.lines, "the first cycle")
        until(lambda: manager.values("STATUS") == ["starting: looking for containers"], "what it is at")
        assert not manager.values("READY")
        gate.unlink()
        until(lambda: manager.values("READY"), "the agent to be ready")
        assert inspect(str(spool)).targets[0].records > 0
        # No other message can have come, unless an hour begins just now.
        starting, cycle, ready = manager.messages[:3]
        assert [message.get("WATCHDOG") for message in (starting, cycle, ready)] == [None, "1", "1"]
        assert ready["WATCHDOG_USEC"] == str((3 * 3600 + 30) * 1_000_000)
        assert re.fullmatch(
            r"\d+ containers; last cycle \d\d:\d\d:\d\d, took \d+ ms; delivery is up to date",
            ready["STATUS"],
        )
        assert agent.end()[0] == 0
    until(lambda: manager.values("STOPPING") == ["1"], "the last word")


def test_a_cycle_that_hangs_is_not_hidden_from_the_watchdog(manager: Listening, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with program("run", by=(*under(manager), *broken("hang", gate)), env=BARE) as agent:
        until(lambda: len(manager.values("WATCHDOG")) >= 4, "cycles that end")
        gate.touch()
        until(lambda: "hangs" in agent.lines, "one that hangs")
        # One for each cycle but the one that hangs, and one when it was ready.
        calm = agent.lines.count("cycle")
        until(lambda: len(manager.values("WATCHDOG")) == calm, "the last word before that")
        until(lambda: agent.lines.count("skipped") >= 3, "three steps without a cycle")
        assert len(manager.values("WATCHDOG")) == calm
        gate.unlink()
        until(lambda: len(manager.values("WATCHDOG")) > calm, "cycles again")
        gate.touch()
        until(lambda: agent.lines.count("hangs") == 2, "another one")
        # What systemd does when the time is over.
        assert agent.end(signal.SIGABRT)[0] == -signal.SIGABRT
    # And whoever looks into the journal learns where it hung.
    assert any("brokenagent.py" in line and line.endswith("in begin") for line in agent.log)


def test_what_a_restart_would_not_mend_does_not_alarm_the_watchdog(
    manager: Listening, tmp_path: Path
) -> None:
    no_directory = tmp_path / "file"
    no_directory.touch()
    silent = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as docker:
        docker.bind(str(silent))
        docker.listen()
        env = BARE | {
            "SPOOL__DIRECTORY": str(no_directory / "spool"),
            "DISCOVERY__RUNTIMES": "docker,cgroups",
            "DISCOVERY__DOCKER": f"unix://{silent}",
            "DISCOVERY__TIMEOUT": "0.5",
        }
        with program("run", by=under(manager), env=env) as agent:
            until(lambda: manager.values("READY"), "the agent to be ready")
            ready = len(manager.values("WATCHDOG"))
            until(lambda: len(manager.values("WATCHDOG")) > ready + 3, "cycles that end")
            until(
                lambda: "records wait for default in memory" in manager.values("STATUS")[-1],
                "the status to say that records wait",
            )
            assert agent.end()[0] == 0


def test_a_reload_is_told_whether_it_is_taken_or_refused(manager: Listening, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    with receiver() as got:
        sections: dict[str, dict[str, Any]] = {
            "agent": {"step": 1},
            "transfer": {"addresses": [got.url]},
            "discovery": {"runtimes": ["cgroups"]},
            "discovery.include": {"name": ["web", "worker"]},
        }
        settings_file(path, sections)
        with program("run", "--config", str(path), by=under(manager)) as agent:
            until(lambda: manager.values("READY"), "the agent to be ready")
            settings_file(path, {**sections, "agent": {"step": 2}})
            agent.send(signal.SIGHUP)
            until(lambda: len(manager.values("READY")) == 2, "the first reload to be over")
            path.write_text("[agent]\nstep = 'soon'\n")
            for number in (3, 4):
                agent.send(signal.SIGHUP)
                until(lambda n=number: len(manager.values("READY")) == n, "the refusal")  # type: ignore[misc]
            settings_file(path, sections)
            refused = [text for text in manager.values("STATUS") if "reload refused" in text]
            agent.send(signal.SIGHUP)
            until(lambda: len(manager.values("READY")) == 5, "the last reload to be over")
            assert agent.end()[0] == 0
    until(lambda: manager.values("STOPPING"), "the last word")
    turns = [
        "reload" if "RELOADING" in message else message.get("WATCHDOG_USEC", "as before")
        for message in manager.messages
        if {"READY", "RELOADING"} & message.keys()
    ]
    assert turns == [
        *("33000000", "reload", "36000000"),
        *("reload", "as before", "reload", "as before"),
        *("reload", "33000000"),
    ]
    assert "agent.step" in refused[0]
    assert "refused" not in manager.values("STATUS")[-2]
    # Both are in the log: whoever tries again wants to see it again.
    assert sum("reload refused" in line and "repeated" not in line for line in agent.log) == 2


def test_the_journal_gets_one_line_with_a_priority_for_each_event(tmp_path: Path) -> None:
    with program("run", by=(*AS_JOURNAL, *broken("raise", tmp_path)), env=BARE) as agent:
        until(lambda: agent.said("cannot push") and agent.said("forged"), "warnings")
        assert agent.end()[0] == 0
    assert all(re.match(r"<[3467]>level=\w+ part=[\w.]+ msg=\S", line) for line in agent.log), agent.log
    assert all(line.isprintable() for line in agent.log)
    failed = next(line for line in agent.log if "traceback=" in line)
    assert failed.startswith(
        '<3>level=error part=collectors.runner msg="unexpected error in collector memory" '
    )
    assert agent.said('<6>level=info part=falcon_agent msg="stopping on SIGTERM"')


def test_what_keeps_it_from_starting_is_one_event_and_an_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[agent]\nstep = 'soon'\nstop = 1\n")
    done = run_by(AS_JOURNAL, "run", "--config", str(path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.match(r'<3>level=error part=falcon_agent msg="cannot use .*:\\n .*agent\.step', line)
    with program("run", env=BARE | {"SPOOL__DIRECTORY": str(tmp_path)}) as first:
        until(lambda: first.said("started"), "the first")
        done = run_by(AS_JOURNAL, "run", **BARE, SPOOL__DIRECTORY=str(tmp_path))
    assert done.returncode == 1
    assert re.search(r'^<3>.*msg="cannot use the spool', done.stderr, re.MULTILINE)


def test_the_process_ends_when_its_main_thread_does_though_a_cycle_hangs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with program("run", by=(*AS_JOURNAL, *broken("main", gate)), env=BARE) as agent:
        until(lambda: agent.said("started"), "the start")
        gate.touch()
        until(lambda: "hangs" in agent.lines, "a cycle that hangs")
        assert agent.end(signal.SIGHUP)[0] == 1
    last = agent.log[-1]
    assert last.startswith(
        '<3>level=error part=falcon_agent msg="the agent ends: unexpected error" traceback='
    )
    assert "RuntimeError: by design" in last
