"""The packages, built once for the whole run, from a copy of this tree that nobody edits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.packaging.tree import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable

_SOURCES = (
    *("falcon_agent", "config", "docs", "systemd", "packaging", "rpm", "deb"),
    *("pyproject.toml", "requirements.lock"),
)
_DATE = "1795000000"
_QUICK_RPM = ("--define", "_binary_payload w1.gzdio")
_QUICK_DEB = ("-Zgzip", "-z1")


def build(sources: Path, script: str, out: Path, *arguments: str, **settings: str) -> Path:
    """Run a build script in a tree; returns what it made, which is the last line it prints."""
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "SOURCE_DATE_EPOCH": _DATE,
        "OUT": str(out),
        **settings,
    }
    done = subprocess.run(
        [str(sources / script), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
    return Path((done.stdout.splitlines() or [""])[-1])


def copy(sources: Path, to: Path) -> Path:
    """A copy of a tree: what packages are made from."""
    for each in (*_SOURCES, *(one.name for one in sources.glob("*.md")), "LICENSE"):
        if (sources / each).is_dir():
            shutil.copytree(sources / each, to / each, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            to.mkdir(exist_ok=True)
            shutil.copy(sources / each, to / each)
    # What was fetched before need not be fetched again.
    if (sources / "build").exists():
        (to / "build").symlink_to(sources / "build")
    return to


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for what is built."""
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="session")
def sources(place: Path) -> Path:
    """The tree, as it is now, and what was fetched for it."""
    (REPOSITORY / "build").mkdir(exist_ok=True)
    return copy(REPOSITORY, place / "sources")


@pytest.fixture(scope="session")
def wheels(sources: Path, place: Path) -> str:
    """What packages are made of beside the tree."""
    build(sources, "packaging/wheels", place, str(place / "wheels"))
    return str(place / "wheels")


@pytest.fixture(scope="session")
def make_rpm(wheels: str) -> Callable[[Path, Path, str], Path]:
    """Makes an RPM of a tree, with a release."""

    def make(tree: Path, out: Path, release: str) -> Path:
        return build(tree, "rpm/build", out, *_QUICK_RPM, WHEELS=wheels, RELEASE=release)

    return make


@pytest.fixture(scope="session")
def rpm(make_rpm: Callable[[Path, Path, str], Path], sources: Path, place: Path) -> Path:
    """The package."""
    return make_rpm(sources, place / "1", "1")


@pytest.fixture(scope="session")
def newer_rpm(make_rpm: Callable[[Path, Path, str], Path], sources: Path, place: Path) -> Path:
    """The next release, which brings another configuration."""
    newer = copy(sources, place / "newer")
    with (newer / "config/agent.toml").open("a") as file:
        file.write("\n# A new key would be explained here.\n")
    return make_rpm(newer, place / "2", "2")


@pytest.fixture(scope="session")
def deb(wheels: str, sources: Path, place: Path) -> Path:
    """The package for Debian."""
    return build(sources, "deb/build", place / "1", *_QUICK_DEB, WHEELS=wheels)
