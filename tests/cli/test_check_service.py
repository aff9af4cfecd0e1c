"""`check` where the agent is a service: for whom it speaks, and which drop-in it recommends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.cli.privileges import DROP_INS, RUNTIME_DROP_INS, SHIPPED, enabling, runtime_advice
from falcon_agent.cli.service import show_unit
from falcon_agent.collectors import NAMES, Options, make_collectors
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.spoollock import hold
from tests.cli.programs import program, receiver, run_by, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.programs import Receiver

ROOT = Path(__file__).parents[2]
SHIPPED_HERE = ROOT / "systemd/falcon-agent.service.d"

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
READING = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""So that this user reads the interpreter too, wherever that is; and not quite nothing is told apart from nothing."""
STOPPED = {"LoadState": "loaded", "MainPID": "0", "User": "nobody", "Group": "", "SupplementaryGroups": ""}
BARE = {"DISCOVERY__RUNTIMES": "cgroups", "DISCOVERY__INCLUDE__NAME": "web,worker"}


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that other users reach, as they do not reach pytest's."""
    with tempfile.TemporaryDirectory(prefix="falcon-agent-check-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def transfer() -> Iterator[Receiver]:
    with receiver() as got:
        yield got


def findings(*args: str, by: tuple[str, ...], **settings: str) -> dict[str, list[str]]:
    """What check says of each subject, with the level in front."""
    done = run_by(by, "check", "--json", *args, **BARE | settings)
    assert done.stdout, done.stderr
    found: dict[str, list[str]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["subject"], []).append(f"{finding['level']} {finding['text']}")
    return found


def systemctl(directory: Path, **properties: object) -> tuple[str, ...]:
    """A `systemctl` that knows the unit: process 1 is no systemd here; tests/packaging asks a real one."""
    answer = "".join(f"{name}={value}\n" for name, value in properties.items())
    tool = directory / "systemctl"
    tool.write_text(f"#!/bin/sh\ntest \"$1 $3\" = 'show falcon-agent.service' && cat <<'E'\n{answer}E\n")
    tool.chmod(0o755)
    return ("env", f"PATH={directory}:{os.environ['PATH']}")


@pytest.mark.real
def test_root_is_told_what_the_running_agent_can_do(
    containers: Any, transfer: Receiver, open_path: Path
) -> None:
    spool = open_path / "spool"
    spool.mkdir()
    os.chown(spool, NOBODY, NOBODY)
    env = BARE | {"SPOOL__DIRECTORY": str(spool), "TRANSFER__ADDRESSES": transfer.url}
    with program("run", by=(*AS_NOBODY, *READING), env=env) as agent:
        until(lambda: agent.said("started"), "the agent")
        found = findings(by=(), **env)
        mine = findings("--as-me", by=(), **env)
        unit = systemctl(open_path, LoadState="loaded", MainPID=agent.process.pid)
        of_unit = findings(by=unit, **env)
        assert agent.end()[0] == 0
    assert re.match(
        rf"note .*the agent that runs \(pid {agent.process.pid}, user nobody\)", found["service"][0]
    )
    assert re.match(
        r"warn CAP_SYS_ADMIN and CAP_SYS_PTRACE missing.*container.tcp.orphan", found["privileges"][0]
    )
    # It is measured as that user, too: what it cannot have is absent for a reason.
    assert found["container.tcp.orphan"] != mine.get("container.tcp.orphan")
    # No unit, no drop-in.
    assert not any(".conf" in text for text in found["privileges"])
    assert f"falcon-agent.service (pid {agent.process.pid}, user nobody)" in of_unit["service"][0]
    assert any("filesystems.conf" in text for text in of_unit["privileges"])
    assert "service" not in mine
    assert mine["privileges"] == ["ok every enabled metric has what it needs"]


@pytest.mark.real
def test_a_process_that_does_not_use_the_spool_is_not_the_agent(transfer: Receiver, open_path: Path) -> None:
    lock = hold(str(open_path))
    other = subprocess.Popen([*AS_NOBODY, *READING, "sleep", "600"])
    try:
        # As a container's agent would write it, which is another process out here, or somebody who took it over.
        (open_path / "spool.lock").write_text(f"{other.pid}\n")
        found = findings(by=(), TRANSFER__ADDRESSES=transfer.url, SPOOL__DIRECTORY=str(open_path))
    finally:
        os.close(lock)
        other.kill()
        other.wait()
    assert any(f"the agent with pid {other.pid} uses it" in text for text in found["spool"])
    assert "service" not in found


@pytest.mark.real
def test_a_unit_that_does_not_run_is_known_by_its_properties(
    containers: Any, transfer: Receiver, open_path: Path
) -> None:
    unit = systemctl(open_path, **STOPPED, AmbientCapabilities="cap_sys_ptrace cap_dac_read_search")
    env = {"TRANSFER__ADDRESSES": transfer.url, "SPOOL__DIRECTORY": str(open_path)}
    found = findings(by=unit, **env)
    assert "falcon-agent.service (not running, user nobody)" in found["service"][0]
    (sockets,) = [text for text in found["privileges"] if text.startswith("warn")]
    assert sockets.startswith("warn CAP_SYS_ADMIN missing")
    assert sockets.endswith(
        f"sockets.conf grants it: ln -s {SHIPPED}/sockets.conf /etc/systemd/system/falcon-agent.service.d/"
        " && systemctl daemon-reload && systemctl restart falcon-agent"
    )
    (links,) = [text for text in found["privileges"] if "CAP_NET_BROADCAST" in text]
    assert links.startswith("note")
    assert "links.conf grants it" in links
    # What is there is measured as that user: no mount could be asked without CAP_SYS_PTRACE.
    assert not any("CAP_SYS_PTRACE" in text for text in found["container.df.bytes.used"])


def test_the_service_must_be_able_to_read_its_configuration(open_path: Path) -> None:
    config = open_path / "agent.toml"
    config.write_text("")
    config.chmod(0o640)
    unit = systemctl(open_path, **STOPPED, AmbientCapabilities="")
    found = findings("--config", str(config), by=unit)
    assert found["configuration"] == [f"fail cannot read the configuration {config}: Permission denied"]


def test_without_such_a_unit_or_without_systemd_there_is_none(
    open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in ({"LoadState": "not-found", "MainPID": "0"}, {"Id": "falcon-agent.service"}):
        _, path = systemctl(open_path, **answer)
        monkeypatch.setenv("PATH", path.removeprefix("PATH="))
        assert show_unit() is None
    _, path = systemctl(open_path, LoadState="loaded")
    assert show_unit() == {"LoadState": "loaded"}
    monkeypatch.setenv("PATH", "/nonexistent")
    assert show_unit() is None


@pytest.mark.parametrize(
    "properties", [{"LoadState": "not-found"}, {}, {"LoadState": "loaded", "User": "no-such"}]
)
def test_what_is_not_known_of_the_unit_leaves_it_to_root(
    properties: dict[str, str], transfer: Receiver, open_path: Path
) -> None:
    unit = systemctl(open_path, **properties)
    found = findings(by=unit, TRANSFER__ADDRESSES=transfer.url, SPOOL__DIRECTORY=str(open_path))
    assert "service" not in found
    assert found["privileges"] == ["ok every enabled metric has what it needs"]


@contextlib.contextmanager
def closed_socket(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        path.chmod(0o600)
        engine.listen()
        yield


@pytest.mark.parametrize("runtimes", ["docker", "auto"])
def test_an_engine_that_refuses_the_service_is_named_with_its_drop_in(
    runtimes: str, transfer: Receiver, open_path: Path
) -> None:
    env = {
        "TRANSFER__ADDRESSES": transfer.url,
        "SPOOL__DIRECTORY": str(open_path),
        "DISCOVERY__RUNTIMES": runtimes,
        "DISCOVERY__DOCKER": f"unix://{open_path}/docker.sock",
    }
    with closed_socket(open_path / "docker.sock"):
        found = findings(by=AS_NOBODY, **env)
    (docker,) = found["runtime docker"]
    assert re.match(
        r"(warn|fail) .*[Pp]ermission denied.*good as root; docker\.conf grants it: ln -s ", docker
    )


def test_an_engine_that_is_silent_for_another_reason_needs_no_drop_in(open_path: Path) -> None:
    path = str(open_path / "docker.sock")
    assert not runtime_advice("docker", [path])
    with closed_socket(Path(path)):
        # Root may ask it all the same.
        assert not runtime_advice("docker", [path])
    assert not runtime_advice("cgroups", [])


def test_drop_ins_grant_what_the_metrics_need() -> None:
    """The names, and what is in the files that the package ships."""
    for collector in make_collectors(NAMES, Options(SelfStat())):
        for metric in collector.metrics:
            needed = set(re.findall(r"CAP_[A-Z_]+", metric.needs))
            if needed:
                assert needed <= granted(DROP_INS[collector.name]), metric.name
    assert granted(DROP_INS["network"]) == {"CAP_NET_BROADCAST"}
    for name in (*DROP_INS.values(), *RUNTIME_DROP_INS.values()):
        assert (SHIPPED_HERE / name).is_file(), name


def granted(name: str) -> set[str]:
    text = (SHIPPED_HERE / name).read_text()
    return set(
        re.findall(r"CAP_[A-Z_]+", "".join(re.findall(r"^AmbientCapabilities=.*$", text, re.MULTILINE)))
    )


def test_one_that_is_enabled_takes_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("falcon_agent.cli.privileges.ENABLED", str(tmp_path))
    assert enabling("links.conf").startswith(
        f"links.conf grants it: ln -s {SHIPPED}/links.conf {tmp_path}/ && "
    )
    (tmp_path / "links.conf").symlink_to("/nonexistent")
    assert enabling("links.conf") == (
        "links.conf is there and not in force yet: systemctl daemon-reload && systemctl restart falcon-agent"
    )
