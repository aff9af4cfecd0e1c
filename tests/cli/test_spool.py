from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.batches import Batch, body_of
from falcon_agent.transfer.spool import DiskSpool
from tests.cli.programs import (
    AGENT,
    PATIENCE,
    environment,
    falcon_agent,
    program,
    receiver,
    settings_file,
    shown_on,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = 1_795_161_720


def item(timestamp: int, metric: str = "m") -> dict[str, Any]:
    return {
        "endpoint": "h", "metric": metric, "value": 1, "step": 60, "counterType": "GAUGE", "tags": "",
        "timestamp": timestamp,
    }  # fmt: skip


@contextmanager
def spool(directory: Path, *targets: str) -> Iterator[DiskSpool]:
    made = DiskSpool(str(directory), targets or ("default",), SelfStat(), max_bytes=1 << 30, max_age=1e10)
    try:
        yield made
    finally:
        made.close()


def fill(made: DiskSpool, *seconds: int) -> None:
    made.put(
        Batch(body_of([item(NOW + second), item(NOW + second, "n")]), 2, NOW + second) for second in seconds
    )


def config(tmp_path: Path, address: str = "http://127.0.0.1:9/api/push") -> str:
    return settings_file(
        tmp_path / "agent.toml",
        {
            "transfer": {"addresses": [address]},
            "spool": {"directory": str(tmp_path / "spool"), "pace": 0.2},
        },
    )


def status(path: str) -> dict[str, Any]:
    done = falcon_agent("spool", "status", "--config", path, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_status_beside_the_process_that_uses_it(tmp_path: Path) -> None:
    path = config(tmp_path)
    assert status(path)["targets"] == []
    with spool(tmp_path / "spool") as made:
        fill(made, 0, 60, 120)
        queue = made.queue("default")
        head = queue.peek()
        assert head is not None
        queue.ack(head)
        queue.bury([item(NOW)], "refused")
        made.discard(before=NOW + 100)
        told = status(path)
        assert (told["held"], told["pid"]) == (True, os.getpid())
        (target,) = told["targets"]
        assert target.pop("bytes") > 0
        assert target == {
            "name": "default", "records": 2, "oldest": NOW + 120, "newest": NOW + 120, "delivered_to": NOW,
            "timestamps": 1, "seconds_left": 0.2, "refused": 1, "lost": {"dropped": 2},
        }  # fmt: skip
        text = falcon_agent("spool", "status", "--config", path).stdout
        assert f"the agent with pid {os.getpid()} uses it" in text
        assert "2 dropped" in text
        fill(made, 180)
    assert status(path)["held"] is False
    assert "no agent uses it" in falcon_agent("spool", "status", "--config", path).stdout


def test_export_prints_bodies_in_order_and_dead_letters(tmp_path: Path) -> None:
    path = config(tmp_path)
    assert falcon_agent("spool", "export", "--config", path).stdout == ""
    with spool(tmp_path / "spool", "a", "b") as made:
        fill(made, 0, 60)
        head = made.queue("a").peek()
        assert head is not None
        made.queue("a").ack(head)
        made.queue("b").bury([item(NOW, "\x1b bad")], "it said 400")
        for options, times in (((), [0, 60]), (("--target", "a"), [60])):
            done = falcon_agent("spool", "export", "--config", path, *options)
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            assert [line[0]["timestamp"] - NOW for line in lines] == times
            assert all(len(line) == 2 for line in lines)
        done = falcon_agent("spool", "export", "--dead", "--config", path)
        assert "\x1b" not in done.stdout
        (dead,) = [json.loads(line) for line in done.stdout.splitlines()]
        assert (dead["target"], dead["reason"], dead["item"]) == ("b", "it said 400", item(NOW, "\x1b bad"))
        assert falcon_agent("spool", "export", "--dead", "--target", "a", "--config", path).stdout == ""
        unknown = falcon_agent("spool", "export", "--target", "c", "--config", path)
        assert (unknown.returncode, unknown.stdout) == (2, "")
        assert "the spool knows a, b" in unknown.stderr


@pytest.mark.real
def test_drain_delivers_everything(tmp_path: Path) -> None:
    with spool(tmp_path / "spool") as made:
        fill(made, 0, 60, 120)
    with receiver() as got:
        path = config(tmp_path, got.url)
        done = falcon_agent("spool", "drain", "--config", path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("default: 6 records accepted by http://127.0.0.1:")
        until(lambda: len(got.items) == 6, "everything")
        assert [one["timestamp"] - NOW for one in got.items] == [0, 0, 60, 60, 120, 120]
        again = falcon_agent("spool", "drain", "--config", path, "--json")
        assert json.loads(again.stdout)["targets"][0]["sent"] == 0
    assert status(path)["targets"][0]["records"] == 0


@pytest.mark.real
def test_drain_shows_bars_on_a_terminal(tmp_path: Path) -> None:
    with spool(tmp_path / "spool") as made:
        fill(made, *range(0, 300, 60))
    screen, terminal = pty.openpty()
    try:
        with receiver() as got:
            done = subprocess.run(
                [AGENT, "spool", "drain", "--config", config(tmp_path, got.url)],
                env=environment() | {"TERM": "xterm", "COLUMNS": "80"},
                stdout=subprocess.PIPE,
                stderr=terminal,
                text=True,
                check=True,
                timeout=PATIENCE,
            )
    finally:
        shown = shown_on(screen, terminal)
        os.close(screen)
    assert "10 records accepted" in done.stdout
    assert "%" in shown


@pytest.mark.real
def test_drain_that_fails_keeps_everything(tmp_path: Path) -> None:
    path = config(tmp_path)
    with spool(tmp_path / "spool") as made:
        fill(made, 0, 60)
        held = falcon_agent("spool", "drain", "--config", path)
        assert held.returncode == 1
        assert f"the process {os.getpid()} uses it" in held.stderr
    done = falcon_agent("spool", "drain", "--config", path)
    assert done.returncode == 1
    assert "4 not delivered" in done.stdout
    assert status(path)["targets"][0]["records"] == 4


@pytest.mark.real
def test_drain_is_ended_by_the_keyboard_and_goes_on_later(tmp_path: Path) -> None:
    with spool(tmp_path / "spool") as made:
        fill(made, *range(0, 6000, 60))
    with receiver() as got:
        path = config(tmp_path, got.url)
        place = {"SPOOL__DIRECTORY": str(tmp_path / "spool")}
        with program("spool", "drain", "--config", path, "--json", env=place) as running:
            until(lambda: got.items, "the first record")
            code, _ = running.end(signal.SIGINT)
            told = json.loads("\n".join(running.lines))
        assert code == 130
        left = told["targets"][0]["left"]
        assert told["interrupted"] is True
        assert 0 < left < 200
        assert status(path)["targets"][0]["records"] == left


def test_drop_needs_a_choice_and_a_yes(tmp_path: Path) -> None:
    path = config(tmp_path)
    with spool(tmp_path / "spool", "a", "b") as made:
        fill(made, 0, 60, 120)
        made.queue("a").bury([item(NOW)] * 3, "refused")
        busy = falcon_agent("spool", "drop", "--all", "--yes", "--config", path)
        assert (busy.returncode, busy.stdout) == (1, "")
    for options in ((), ("--dead", "--before", "1"), ("--all",), ("--target", "c", "--yes")):
        done = falcon_agent("spool", "drop", *options, "--config", path)
        assert (done.returncode, done.stdout) == (2, ""), options
        assert "Traceback" not in done.stderr
    assert [target["records"] for target in status(path)["targets"]] == [6, 6]

    def drop(*options: str) -> dict[str, int]:
        done = falcon_agent("spool", "drop", "--yes", "--json", "--config", path, *options)
        assert done.returncode == 0, done.stderr
        answer: dict[str, int] = json.loads(done.stdout)
        return answer

    assert drop("--before", str(NOW + 60)) == {"dropped": 4, "refused_dropped": 0}
    assert drop("--target", "a", "--before", str(NOW + 120)) == {"dropped": 2, "refused_dropped": 0}
    assert drop("--dead") == {"dropped": 0, "refused_dropped": 3}
    assert [target["records"] for target in status(path)["targets"]] == [2, 4]
    assert drop("--all") == {"dropped": 6, "refused_dropped": 0}
    assert [target["lost"] for target in status(path)["targets"]] == [{"dropped": 6}, {"dropped": 6}]


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\n", 2), (b"no\n", 2)])
def test_drop_asks_on_a_terminal(tmp_path: Path, answer: bytes, code: int) -> None:
    path = config(tmp_path)
    with spool(tmp_path / "spool") as made:
        fill(made, 0)
    screen, terminal = pty.openpty()
    try:
        os.write(screen, answer)
        done = subprocess.run(
            [AGENT, "spool", "drop", "--target", "default", "--config", path],
            env=environment(),
            stdin=terminal,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    finally:
        os.close(screen)
        os.close(terminal)
    assert done.returncode == code
    assert "drop what waits for default? [y/N]" in done.stderr
    assert status(path)["targets"][0]["records"] == (0 if code == 0 else 2)


def test_a_damaged_spool_is_reported(tmp_path: Path) -> None:
    path = config(tmp_path)
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "spool.db").write_bytes(b"garbage" * 1000)
    for action in ("status", "export"):
        done = falcon_agent("spool", action, "--config", path)
        assert done.returncode == 1
        assert done.stderr.startswith("falcon-agent: cannot use ")
