from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.packaging.booted import Booted, booted
from tests.packaging.tree import REPOSITORY
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real

_CONFIG = "/etc/falcon-agent/agent.toml"


@pytest.fixture
def machine() -> Iterator[Booted]:
    with booted() as made:
        yield made


@pytest.fixture
def newer_deb(deb: Path, place: Path) -> Path:
    """The package packed anew as the next release, with another configuration."""
    root, newer = place / "deb", place / "newer.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(root)], check=True)
    control = root / "DEBIAN/control"
    control.write_text(control.read_text().replace("-1\n", "-2\n", 1))
    with (root / _CONFIG[1:]).open("a") as file:
        file.write("\n# A new key would be explained here.\n")
    command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(root), str(newer)]
    subprocess.run(command, check=True, capture_output=True)
    return newer


def test_lintian_has_nothing_to_say(deb: Path) -> None:
    told = subprocess.run(
        ["lintian", "--allow-root", "--display-level", ">=warning", str(deb)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout) == (0, ""), told.stderr


def test_it_has_the_files_of_the_rpm(deb: Path, rpm: Path) -> None:
    ours = subprocess.run(["dpkg-deb", "--contents", str(deb)], check=True, capture_output=True, text=True)
    theirs = subprocess.run(
        ["rpm", "-qpl", "--noglob", str(rpm)], check=True, capture_output=True, text=True, cwd=REPOSITORY
    )
    elsewhere = ("/usr/share/doc/", "/usr/share/licenses/", "/usr/share/zsh/", "/usr/share/lintian/")
    in_deb = {
        line.split()[5].removeprefix(".") for line in ours.stdout.splitlines() if not line.startswith("d")
    }
    in_rpm = set(theirs.stdout.split())
    missing = {path for path in in_deb - in_rpm if not path.startswith(elsewhere)}
    assert missing == set()
    assert any(path.endswith("/falcon_agent/cli/run.py") for path in in_deb)
    assert "/usr/share/man/man1/falcon-agent.1.gz" in in_deb


def test_installed_upgraded_removed_and_purged(machine: Booted, deb: Path, newer_deb: Path) -> None:
    before = set(_files(machine))
    machine.run("dpkg", "--install", machine.give(deb))
    assert machine.run("systemctl", "is-enabled", "falcon-agent").strip() == "enabled"
    assert machine.show("ActiveState") == "inactive"
    assert machine.run("stat", "-c", "%A %U %G", "/etc/falcon-agent", _CONFIG).splitlines() == [
        "drwxr-x--- root falcon-agent",
        "-rw-r----- root falcon-agent",
    ]
    machine.set_step(1)
    machine.run("systemctl", "start", "falcon-agent")
    edited = machine.run("cat", _CONFIG)
    first = machine.show("InvocationID")

    machine.run("dpkg", "--install", "--force-confold", machine.give(newer_deb))
    assert machine.run("cat", _CONFIG) == edited
    assert "A new key" in machine.run("cat", f"{_CONFIG}.dpkg-dist")
    assert machine.show("ActiveState") == "active"
    assert machine.show("InvocationID") != first
    # The journal hears of it a moment later.
    wait_until(lambda: machine.journal().count("Started falcon-agent.service") >= 2, "two starts are told")
    assert machine.journal().count("Started falcon-agent.service") == 2

    machine.run("dpkg", "--remove", "falcon-agent")
    assert machine.try_run("systemctl", "is-active", "falcon-agent").stdout.strip() == "inactive"
    assert machine.run("cat", _CONFIG) == edited
    assert "spool.db" in machine.run("ls", "/var/lib/falcon-agent")

    machine.run("dpkg", "--purge", "falcon-agent")
    assert set(_files(machine)) - before == set()


def _files(machine: Booted) -> list[str]:
    """What is in the machine's directories for configuration, programs and data, less the journal."""
    found = machine.run("find", "/etc", "/usr", "/var", "/opt", "-path", "*falcon*")
    return [path for path in found.splitlines() if "/log/journal/" not in path]
