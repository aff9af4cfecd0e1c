"""Against a real systemd-nspawn, which joins only some of the hierarchies of v1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from falcon_agent.cgroupfs import Cgroup, Hierarchies
from falcon_agent.discovery.cgroups import CgroupRuntime
from tests.real.nspawn import nspawn

pytestmark = pytest.mark.real


def test_nspawn_is_found_where_memory_does_not_know_it() -> None:
    with nspawn() as machine:
        found = CgroupRuntime("/proc", "/sys/fs/cgroup").find()
        [container] = [one for one in found.containers if machine.unit in str(one.cgroup)]
        assert (container.id, container.name, container.runtime) == (
            machine.machine,
            machine.machine,
            "nspawn",
        )
        assert container.pid == machine.pid
        assert container.cgroup.v1["name=systemd"] == container.cgroup.v2 == f"{machine.unit}/payload"
        # In the other hierarchies it is among strangers, whose numbers are not its own.
        assert "memory" not in container.cgroup.v1
        assert Path(f"/proc/{machine.pid}/cgroup").read_text().count(f"{machine.unit}/payload\n") == 2
        assert container.netns == os.stat(f"/proc/{machine.pid}/ns/net").st_ino
        assert not container.host_network
        cgroup = Cgroup(Hierarchies.find(), container.cgroup)
        assert cgroup.memory() is None
        # v2 counts CPU time also where v1 has the controller (the cpu.stat of cgroup-v2.rst, in every cgroup).
        assert cgroup.cpu() is not None
        assert not [one for one in found.left_out if one.name == f"process {machine.pid}"]
