"""What would disturb a machine that others use, and what only cgroup v2 has."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.procfs.kmsg import PATH, KernelLog, Kill
from tests.cgroupfs.live import HOLD, LiveCgroup
from tests.namespaces.lab import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.guest, pytest.mark.real]


@pytest.fixture
def log() -> Iterator[KernelLog]:
    made = KernelLog()
    yield made
    made.close()


@pytest.fixture
def cgroup() -> Iterator[LiveCgroup]:
    with LiveCgroup(f"falcon-kmsg-{secrets.token_hex(4)}") as made:
        made.limit(memory=24 << 20)
        yield made


def kills(log: KernelLog, cgroup: LiveCgroup, number: int) -> list[Kill]:
    """So many of those in the cgroup."""
    path = f"/{cgroup.tops[0].name}/inner"
    news: list[Kill] = []

    def heard() -> bool:
        news.extend(kill for kill in log.read().kills if kill.cgroup == path)
        return len(news) >= number

    eventually(heard, "the log tells of the kills")
    return news


def test_a_log_that_was_overwritten(log: KernelLog, cgroup: LiveCgroup) -> None:
    Path("/proc/sys/kernel/printk_devkmsg").write_text("on\n")
    assert not log.read().lost
    with open(PATH, "wb", buffering=0) as device:
        device.writelines(b"<6>" + b"x" * 900 + b"\n" for _ in range(3000))
    assert log.read().lost
    assert not log.read().lost
    killed = cgroup.spawn(HOLD.format(size=64 << 20))
    killed.wait()
    assert [kill.pid for kill in kills(log, cgroup, 1)] == [killed.pid]


def test_a_group_that_is_killed_together(log: KernelLog, cgroup: LiveCgroup) -> None:
    (cgroup.tops[0] / "inner/memory.oom.group").write_text("1")
    together = [cgroup.start(HOLD.format(size=1 << 10)) for _ in range(2)]
    for process in together:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    together.append(cgroup.spawn(HOLD.format(size=64 << 20)))
    for process in together:
        process.wait()
    counted = dict(line.split() for line in cgroup.file("memory", "memory.events").splitlines())
    assert counted["oom_group_kill"] == "1"
    # The kernel meets the victim again among the others, and counts it twice while it still has its memory.
    found = kills(log, cgroup, int(counted["oom_kill"]))
    assert {kill.pid for kill in found} == {process.pid for process in together}
    assert len(found) == int(counted["oom_kill"])
