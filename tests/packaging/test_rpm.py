from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from falcon_agent import __version__
from tests.packaging.booted import Booted, booted
from tests.packaging.conftest import copy
from tests.packaging.distribution import distribution, install
from tests.packaging.tree import REPOSITORY
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.real

_CONFIG = "/etc/falcon-agent/agent.toml"


@pytest.fixture
def machine() -> Iterator[Booted]:
    with booted() as made:
        yield made


def starts(machine: Booted, least: int) -> int:
    """How often systemd has started the agent; the journal hears of it a moment later."""
    told = "Started falcon-agent.service"
    wait_until(lambda: machine.journal().count(told) >= least, f"{least} starts are told")
    return machine.journal().count(told)


def test_two_builds_are_the_same_to_the_byte(
    rpm: Path, make_rpm: Callable[[Path, Path, str], Path], sources: Path, place: Path
) -> None:
    elsewhere = copy(sources, place / "a-directory-with-another-name")
    assert make_rpm(elsewhere, place / "again", "1").read_bytes() == rpm.read_bytes()


def test_rpmlint_has_nothing_to_say(rpm: Path) -> None:
    told = subprocess.run(
        ["rpmlint", "--config", str(REPOSITORY / "rpm/rpmlint.toml"), str(rpm)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "0 errors, 0 warnings" in told.stdout, told.stdout + told.stderr


def test_the_spec_has_the_agents_version() -> None:
    spec = (REPOSITORY / "rpm/falcon-agent.spec").read_text()
    assert re.search(r"^Version: *(.*)$", spec, re.MULTILINE)[1] == __version__  # type: ignore[index]


def test_what_it_requires_is_what_every_distribution_has(machine: Booted, rpm: Path, place: Path) -> None:
    refused = machine.try_run("rpm", "-i", machine.give(rpm))
    assert refused.returncode != 0
    assert "/usr/bin/python3.11 is needed" in refused.stderr
    machine.run("rpm", "-i", machine.give(distribution(machine, place)))
    machine.run("rpm", "-i", machine.give(rpm))


def test_installed_upgraded_downgraded_and_erased(
    machine: Booted, rpm: Path, newer_rpm: Path, place: Path
) -> None:
    before = set(_files(machine))
    install(machine, rpm, place)
    assert machine.run("rpm", "-V", "falcon-agent") == ""
    assert machine.run("systemctl", "is-enabled", "falcon-agent").strip() == "enabled"
    assert machine.show("ActiveState") == "inactive"
    assert machine.run("stat", "-c", "%A %U %G", "/etc/falcon-agent", _CONFIG).splitlines() == [
        "drwxr-x--- root falcon-agent",
        "-rw-r----- root falcon-agent",
    ]
    assert machine.run("falcon-agent", "--version").strip() == f"falcon-agent {__version__}"
    # A directory of one's own is no place to smuggle modules in from.
    assert (
        machine.try_run(
            "sh", "-c", "cd /tmp; echo 'raise SystemExit(7)' > falcon_agent.py; falcon-agent --version"
        ).returncode
        == 0
    )

    # No transfer answers, so records wait in the spool, over all that follows.
    machine.set_step(1)
    machine.run("systemctl", "start", "falcon-agent")
    link = "ln -s /usr/share/falcon-agent/falcon-agent.service.d/links.conf /etc/systemd/system/falcon-agent.service.d/"
    machine.sh(link)
    edited = machine.run("cat", _CONFIG)
    first = machine.show("InvocationID")
    waits = _oldest(machine)

    upgraded = machine.run("rpm", "-U", machine.give(newer_rpm))
    assert upgraded == ""
    assert machine.run("cat", _CONFIG) == edited
    assert "A new key" in machine.run("cat", f"{_CONFIG}.rpmnew")
    assert starts(machine, 2) == 2
    assert machine.show("InvocationID") != first
    assert machine.show("ActiveState") == "active"
    assert _oldest(machine) == waits

    machine.run("rpm", "-U", "--oldpackage", machine.give(rpm))
    assert machine.run("cat", _CONFIG) == edited
    assert starts(machine, 3) == 3
    assert machine.show("ActiveState") == "active"
    assert _oldest(machine) == waits

    # Somebody who has switched it off finds it off after an upgrade.
    machine.run("systemctl", "disable", "--now", "falcon-agent")
    machine.run("rpm", "-U", machine.give(newer_rpm))
    assert machine.try_run("systemctl", "is-enabled", "falcon-agent").stdout.strip() == "disabled"
    assert machine.show("ActiveState") == "inactive"
    machine.run("systemctl", "enable", "--now", "falcon-agent")

    machine.run("rpm", "-e", "falcon-agent")
    assert machine.try_run("systemctl", "is-active", "falcon-agent").stdout.strip() == "inactive"
    left = {path for path in set(_files(machine)) - before if not path.startswith("/var/lib/falcon-agent/")}
    assert left == {f"{_CONFIG}.rpmsave", f"{_CONFIG}.rpmnew", "/etc/falcon-agent", "/var/lib/falcon-agent"}


def test_a_spool_of_a_newer_version_is_left_alone_and_named(machine: Booted, rpm: Path, place: Path) -> None:
    install(machine, rpm, place)
    machine.set_step(1)
    machine.run("systemctl", "start", "falcon-agent")
    machine.run("systemctl", "stop", "falcon-agent")
    newer = "import sqlite3; sqlite3.connect('/var/lib/falcon-agent/spool.db').execute('PRAGMA user_version = 99')"
    machine.run("/usr/bin/python3.11", "-c", newer)
    machine.try_run("systemctl", "start", "falcon-agent")
    wait_until(lambda: "it has version 99" in machine.journal(), "the agent says what it found")
    assert "use the newer program to drain it" in machine.journal()
    machine.run("systemctl", "stop", "falcon-agent")
    # What it says to do works.
    machine.run("rm", "/var/lib/falcon-agent/spool.db")
    machine.run("systemctl", "start", "falcon-agent")


def _oldest(machine: Booted) -> str:
    """The first record that waits."""
    return machine.run("sh", "-c", "falcon-agent spool export | head -n 1")


def _files(machine: Booted) -> list[str]:
    """What is in the machine's directories for configuration, programs and data, less what systemd and rpm keep."""
    found = machine.run(
        "find", "/etc", "/usr", "/var", "/opt", "-name", "*falcon*", "-o", "-path", "*falcon*"
    )
    return [path for path in found.splitlines() if "/log/journal/" not in path]
