"""The daemon and what waits for delivery: targets, restarts, one agent per spool, the heartbeat."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.programs import Receiver, broken, falcon_agent, program, receiver, settings_file, until
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("containers")]

BARE = {"DISCOVERY__RUNTIMES": "cgroups", "DISCOVERY__INCLUDE__NAME": "web,worker", "AGENT__STEP": "1"}


def dead(port: int | None = None) -> str:
    return f"http://127.0.0.1:{port or free_port()}/api/push"


def stamps(got: Receiver) -> list[int]:
    return [item["timestamp"] for item in got.items if item["metric"] == "agent.alive"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_waits_survives_the_end_of_the_agent(tmp_path: Path, number: signal.Signals) -> None:
    spool = {"SPOOL__DIRECTORY": str(tmp_path / "spool")}
    env = BARE | spool | {"TRANSFER__ADDRESSES": dead()}
    with program("run", by=broken("none"), env=env) as agent:
        until(lambda: agent.said("cannot push"), "the first failure")
        until(lambda: waiting(tmp_path) >= 3, "a backlog")
        agent.end(number)
    kept, stored = waiting(tmp_path), agent.stored()
    # One may be on disk and was not told of any more.
    assert len(stored) <= kept <= len(stored) + 1
    with receiver() as got, program("run", env=BARE | spool | {"TRANSFER__ADDRESSES": got.url}):
        until(lambda: len(stamps(got)) > kept, "the backlog and a new cycle")
        found = stamps(got)
    assert found == sorted(set(found))
    assert found[: len(stored)] == stored


def test_only_the_successor_of_an_agent_keeps_its_distance(tmp_path: Path) -> None:
    # Longer than the test would wait.
    slow = BARE | {"AGENT__STEP": "7200", "SPOOL__PACE": "60"}
    with receiver() as got:
        settings = slow | {"SPOOL__DIRECTORY": str(tmp_path / "new"), "TRANSFER__ADDRESSES": got.url}
        with program("run", env=settings):
            until(lambda: stamps(got), "the first push", 30)  # half the pace
    used = slow | {"SPOOL__DIRECTORY": str(tmp_path / "spool")}
    with program("run", env=used | {"TRANSFER__ADDRESSES": dead()}) as agent:
        until(lambda: agent.said("cannot push"), "the first failure")
    with receiver() as got, program("run", env=used | {"TRANSFER__ADDRESSES": got.url}) as agent:
        until(lambda: agent.said("started"), "the start")
        agent.end(signal.SIGTERM)
        assert agent.said("wait on disk for the next start")
        assert stamps(got) == []


def waiting(tmp_path: Path) -> int:
    """Cycles in the spool, as the command says."""
    done = falcon_agent("spool", "status", "--json", SPOOL__DIRECTORY=str(tmp_path / "spool"))
    assert done.returncode == 0, done.stderr
    targets = json.loads(done.stdout)["targets"]
    return int(targets[0]["timestamps"]) if targets else 0


def test_the_spool_is_readable_by_the_agent_only(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    env = BARE | {"SPOOL__DIRECTORY": str(spool), "TRANSFER__ADDRESSES": dead()}
    with program("run", env=env) as agent:
        until(lambda: agent.said("cannot push"), "the first failure")
        assert stat.S_IMODE(spool.stat().st_mode) == 0o700
        for name in os.listdir(spool):
            assert stat.S_IMODE((spool / name).stat().st_mode) & 0o077 == 0, name


def test_a_second_agent_on_the_spool_is_refused(tmp_path: Path) -> None:
    env = BARE | {"SPOOL__DIRECTORY": str(tmp_path), "TRANSFER__ADDRESSES": dead()}
    with program("run", env=env) as first:
        until(lambda: first.said("started"), "the first")
        second = falcon_agent("run", **env)
        assert second.returncode == 1
        assert re.search(
            rf"cannot use the spool in {tmp_path}: the process {first.process.pid} ", second.stderr
        )
        assert "Traceback" not in second.stderr
        check = falcon_agent("check", **env)
        assert f"the agent with pid {first.process.pid} uses it" in check.stdout


def test_every_target_gets_everything_at_its_own_speed(tmp_path: Path) -> None:
    port = free_port()
    with receiver() as alive:
        targets: list[dict[str, Any]] = [
            {"name": "alive", "addresses": [alive.url]},
            {"name": "late", "addresses": [dead(port)]},
        ]
        with program("run", "--config", targets_file(tmp_path, targets)) as agent:
            until(lambda: len(stamps(alive)) >= 4, "records at the one that is there")
            until(
                lambda: alive.values("falcon_agent.target.records", target="late")[-1:] > [0.0], "the backlog"
            )
            with receiver(port) as late:
                until(lambda: len(stamps(late)) >= 6, "the backlog at the one that was not")
                assert agent.end()[0] == 0
                both = min(len(stamps(alive)), len(stamps(late)))
                assert stamps(late)[:both] == stamps(alive)[:both]
        assert agent.said("late: ")


def targets_file(tmp_path: Path, targets: list[dict[str, Any]], **agent: Any) -> str:
    path = settings_file(
        tmp_path / "agent.toml",
        {
            "agent": {"step": 1, **agent},
            "discovery": {"runtimes": ["cgroups"]},
            "discovery.include": {"name": ["web", "worker"]},
        },
    )
    with open(path, "a", encoding="utf-8") as file:
        for target in targets:
            file.write("[[transfer.targets]]\n")
            file.writelines(f"{key} = {json.dumps(value)}\n" for key, value in target.items())
    return path


def test_a_reload_may_add_and_remove_targets(tmp_path: Path) -> None:
    with receiver() as one, receiver() as two:
        first = {"name": "one", "addresses": [one.url]}
        second = {"name": "two", "addresses": [two.url]}
        path = targets_file(tmp_path, [first])
        with program("run", "--config", path) as agent:
            until(lambda: len(stamps(one)) >= 2, "records at the first")
            targets_file(tmp_path, [first, second])
            agent.send(signal.SIGHUP)
            until(lambda: len(stamps(two)) >= 2, "records at the second")
            targets_file(tmp_path, [second])
            agent.send(signal.SIGHUP)
            until(lambda: sum("reloaded" in line for line in agent.log) == 2, "the second reload")
            at = time.time()
            until(lambda: sum(stamp > at for stamp in stamps(two)) >= 3, "more records at the second")
            # What was measured before may be shown later.
            assert all(stamp <= at for stamp in stamps(one))
            assert agent.end()[0] == 0
        assert not agent.said("Traceback")


def test_check_says_what_waits_and_why(tmp_path: Path) -> None:
    env = BARE | {"SPOOL__DIRECTORY": str(tmp_path / "spool"), "TRANSFER__ADDRESSES": dead()}
    with program("run", env=env) as agent:
        until(lambda: agent.said("cannot push"), "the first failure")
        until(lambda: waiting(tmp_path) >= 4, "a backlog")
        done = falcon_agent("check", **env)
    assert done.returncode == 2
    assert re.search(
        r"warn +spool: \d+ records of \d+ cycles wait for default, the oldest since 20", done.stdout
    )


def test_collect_pushes_to_every_target(tmp_path: Path) -> None:
    with receiver() as one, receiver() as two:
        path = targets_file(
            tmp_path, [{"name": "one", "addresses": [one.url]}, {"name": "two", "addresses": [two.url]}]
        )
        done = falcon_agent("collect", "--config", path)
        assert done.returncode == 0, done.stderr
        pushed = json.loads(done.stdout)
        until(lambda: len(one.items) >= len(pushed) <= len(two.items), "everything at both")
        assert pushed == one.items == two.items
        assert re.search(r"^one: \d+ records accepted", done.stderr, re.MULTILINE)
        assert re.search(r"^two: \d+ records accepted", done.stderr, re.MULTILINE)


# The library asks again and again, over some minutes.
SILENT_RESOLVER = """
printf 'nameserver 127.0.0.77\\noptions timeout:30 attempts:5\\n' > "$1/resolv.conf"
mount --bind "$1/resolv.conf" /etc/resolv.conf && shift && exec "$@"
"""


def test_names_that_nobody_resolves_do_not_delay_the_end(tmp_path: Path) -> None:
    # In a mount namespace of its own the agent asks a name server that hears and never answers.
    env = BARE | {
        "TRANSFER__ADDRESSES": "http://transfer.test:6060/api/push",
        "HEARTBEAT__ADDRESS": "hbs.test:6030",
    }
    by = ("unshare", "--mount", "sh", "-c", SILENT_RESOLVER, "sh", str(tmp_path))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.settimeout(60)
        silent.bind(("127.0.0.77", 53))
        with program("run", by=by, env=env) as agent:
            until(lambda: agent.said("started"), "the start")
            assert silent.recv(512), "the name server was asked"
            code, took = agent.end()
    assert code == 0
    # Two seconds on a machine with nothing else to do; by far not as long as the library takes.
    assert took < 15
    assert agent.said("wait on disk for the next start")


def test_without_a_disk_records_wait_in_memory_and_their_loss_is_said(tmp_path: Path) -> None:
    # A file stands where the directory should be made: root, too, cannot use that.
    (tmp_path / "spool").write_text("")
    env = BARE | {"SPOOL__DIRECTORY": str(tmp_path / "spool"), "TRANSFER__ADDRESSES": dead()}
    with program("run", env=env) as agent:
        until(lambda: agent.said("cannot push"), "the first failure")
        assert agent.end()[0] == 0
    assert agent.said("new records wait in memory")
    assert agent.said("records are lost: the disk did not take them")
    assert not agent.said("wait on disk")
