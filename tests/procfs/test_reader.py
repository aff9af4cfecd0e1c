from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from falcon_agent.procfs.reader import has_our_pids, in_host_network
from tests.namespaces.lab import netns

FIXTURES = Path(__file__).parents[1] / "fixtures" / "procfs"


@pytest.mark.parametrize(("name", "expected"), [("status-host", True), ("status-container-init", False)])
def test_numbers_of_our_pid_namespace_or_of_an_outer_one(
    tmp_path: Path, name: str, *, expected: bool
) -> None:
    (tmp_path / "self").mkdir()
    shutil.copy(FIXTURES / name, tmp_path / "self/status")
    assert has_our_pids(str(tmp_path)) is expected


def test_what_cannot_be_told_is_none(tmp_path: Path) -> None:
    assert has_our_pids(str(tmp_path)) is None
    assert in_host_network(str(tmp_path)) is None


@pytest.mark.real
def test_here_and_in_another_network_namespace() -> None:
    assert has_our_pids("/proc") is True
    assert in_host_network("/proc") is True
    with netns() as box:
        assert box.inside(lambda: in_host_network("/proc")) is False
