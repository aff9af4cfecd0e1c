"""What the service manager hears, through real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import pytest

from falcon_agent.servicemanager import ServiceManager, status_line
from falcon_agent.transfer.spoolstatus import TargetStatus
from tests.cli.programs import until
from tests.listening import listening


def test_without_one_nothing_happens() -> None:
    environment = {"HOME": "/", "WATCHDOG_USEC": "180000000"}
    manager = ServiceManager.from_environment(environment)
    assert not manager.listens
    manager.status("x")
    manager.ready("x", 60)
    manager.cycle_ended("x")
    manager.reloading()
    manager.stopping()
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_life_of_a_service(kind: str, tmp_path: Path) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@falcon-agent-test-{os.getpid()}"
    with listening(address) as heard:
        environment = {
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": "180000000",
            "WATCHDOG_PID": str(os.getpid()),
        }
        manager = ServiceManager.from_environment(environment)
        assert environment == {}, "what is started by the agent must not speak for it"
        manager.status("starting")
        manager.ready("2 containers", 10)
        manager.cycle_ended("3 containers")
        before = time.monotonic_ns() // 1000
        manager.reloading()
        manager.ready("4 containers", 100)
        manager.reloading()
        manager.ready("reload refused")
        manager.stopping()
        until(lambda: heard.values("STOPPING"), "the last message")
    assert heard.messages[:3] == [
        {"STATUS": "starting"},
        # 3 x 10 + 30 s is less than the unit allows, so the unit's stays.
        {"READY": "1", "STATUS": "2 containers", "WATCHDOG_USEC": "180000000", "WATCHDOG": "1"},
        {"STATUS": "3 containers", "WATCHDOG": "1"},
    ]
    assert heard.messages[3]["RELOADING"] == "1"
    # sd_notify(3): CLOCK_MONOTONIC, in microseconds, of when the reload began.
    assert before <= int(heard.messages[3]["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert heard.messages[4]["READY"] == "1"
    assert heard.messages[4]["WATCHDOG_USEC"] == "330000000"
    # A reload that was refused, perhaps because a cycle hangs, does not calm the watchdog.
    assert heard.messages[6] == {"READY": "1", "STATUS": "reload refused"}
    assert heard.messages[7]["STOPPING"] == "1"


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog_unless_it_is_wanted_from_this_process(environment: dict[str, str]) -> None:
    with listening() as heard:
        manager = ServiceManager.from_environment({"NOTIFY_SOCKET": heard.address, **environment})
        manager.ready("", 60)
        manager.cycle_ended("")
        until(lambda: len(heard.messages) == 2, "both")
    assert heard.values("READY") == ["1"]
    assert not heard.values("WATCHDOG") + heard.values("WATCHDOG_USEC")


def test_a_status_is_one_line_of_bounded_length() -> None:
    with listening() as heard:
        manager = ServiceManager(heard.address)
        manager.status("bad\nSTOPPING=1\x1b[31m" + "x" * 1000)
        manager.status("\udcff")
        until(lambda: len(heard.messages) == 2, "both")
    assert set(heard.messages[0]) == {"STATUS"}
    assert heard.messages[0]["STATUS"].startswith("bad STOPPING=1 [31mxxx")
    assert len(heard.messages[0]["STATUS"]) == 500


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@nobody-listens-there", "vsock:2:1", "/x\0y"])
def test_one_that_cannot_be_reached_is_said_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    manager = ServiceManager(address)
    manager.ready("", 60)
    manager.cycle_ended("")
    own = [record.message for record in caplog.records if record.name == "falcon_agent.servicemanager"]
    assert len(own) == 1
    assert "cannot tell the service manager" in own[0]


def test_one_that_does_not_read_is_not_waited_for_and_learns_later_that_the_agent_is_ready(
    tmp_path: Path,
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(address)
        full.setblocking(False)  # noqa: FBT003  the name of the argument is the method's
        manager = ServiceManager(address, 1.0)
        filler = ServiceManager(address)
        # The kernel keeps net.unix.max_dgram_qlen messages; a sender that waits would stay in here for ever.
        for _ in range(int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 2):
            filler.status("full")
        manager.ready("ready", 60)
        with contextlib.suppress(BlockingIOError):
            while message := full.recv(1000):
                assert message == b"STATUS=full"
        manager.cycle_ended("later")
        assert set(full.recv(1000).split(b"\n")) == {b"STATUS=later", b"WATCHDOG=1", b"READY=1"}
        manager.cycle_ended("then")
        assert b"READY" not in full.recv(1000)


def test_the_status_says_what_a_person_wants_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now = time.time()
    line = status_line(12.0, 34.6, [TargetStatus("default", 80, 1000, int(now), int(now), 1)])
    assert line.startswith("12 containers; last cycle ")
    assert line.endswith("took 35 ms; delivery is up to date")
    old = int(now) - 3 * 86400
    behind = [TargetStatus("a", 500, 9, old, int(now), 5), TargetStatus("b", 7, 9), TargetStatus("c", 0, 0)]
    line = status_line(None, None, behind)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(old))
    assert line.split("; ")[1:] == [f"500 records wait for a since {since}", "7 records wait for b in memory"]
