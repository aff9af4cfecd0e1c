"""Control files that stay open say the same as those that are opened each time."""

from __future__ import annotations

import gc

import pytest

from falcon_agent.cgroupfs import Hierarchies
from falcon_agent.cgroupfs.controlfiles import ControlFiles, DescriptorBudget
from falcon_agent.errors import GoneError
from falcon_agent.kernelfile import read_to_eof, recording
from tests.cgroupfs.live import LiveCgroup
from tests.namespaces.lab import open_descriptors
from tests.real.oracle import at_rest

pytestmark = pytest.mark.real

SLEEP = "import time; time.sleep(600)"
STAT = "memory.stat"


def files_of(live: LiveCgroup, pid: int, budget: DescriptorBudget) -> ControlFiles:
    paths = live.paths(pid)
    assert paths is not None
    at = Hierarchies.find().locate("memory", paths)
    assert at is not None
    return ControlFiles(at, budget)


def test_how_many_may_stay_open() -> None:
    assert DescriptorBudget(65536).left == 57344
    assert DescriptorBudget(1024).left == 512
    assert DescriptorBudget(100).left < 0
    assert not DescriptorBudget(512).take(1)
    assert DescriptorBudget(None).take(1_000_000)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_what_is_read_is_what_the_kernel_says_now(room: int) -> None:
    with LiveCgroup("falcon-agent-test-control") as live:
        pid = live.start(SLEEP).pid
        gc.collect()  # so that nothing of earlier tests is closed meanwhile
        before = open_descriptors()
        budget = DescriptorBudget()
        budget.left = room
        files = files_of(live, pid, budget)
        limits = ("memory.max", "memory.limit_in_bytes")
        for megabytes in (64, 48):
            live.limit(memory=megabytes << 20)
            limit = {files.read(name) for name in limits}
            assert limit == {None, b"%d\n" % (megabytes << 20)}
        told, found = at_rest(lambda: read_to_eof(f"{files.at.path}/{STAT}"), lambda: files.read(STAT))
        assert found == told
        assert open_descriptors() - before == min(room, 2)
        assert budget.left == room - min(room, 2)
        with recording() as seen:
            content = files.read(STAT)
        assert seen == [(f"{files.at.path}/{STAT}", content)]
        files.close()
        assert (open_descriptors(), budget.left) == (before, room)


def test_a_cgroup_that_was_removed_is_gone_and_holds_nothing() -> None:
    with LiveCgroup("falcon-agent-test-control") as live:
        process = live.start(SLEEP)
        budget = DescriptorBudget()
        budget.left = 10
        files = files_of(live, process.pid, budget)
        assert files.read(STAT)
        process.kill()
        process.wait()
        live.remove()
        for name in (STAT, "memory.none"):
            with pytest.raises(GoneError, match="was removed"):
                files.read(name)
        assert budget.left == 10


def test_many_files_of_one_directory_that_is_read_twice_are_open_once() -> None:
    with LiveCgroup("falcon-agent-test-control") as live:
        pid = live.start(SLEEP).pid
        gc.collect()
        before = open_descriptors()
        cgroup = live.open(pid)
        for _ in range(3):
            assert cgroup.memory() is not None
            assert cgroup.oom_kills() is not None
            assert cgroup.cpu() is not None
        opened = open_descriptors() - before
        assert opened <= 8
        cgroup.close()
        cgroup.close()
        assert open_descriptors() == before
        assert cgroup.memory() is not None  # it may be read again
        cgroup.close()
