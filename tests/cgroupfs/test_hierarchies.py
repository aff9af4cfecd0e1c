from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.cgroupfs import Hierarchies
from falcon_agent.cgroupfs.hierarchies import ControllerDir
from falcon_agent.cgroupfs.mounts import Mount, parse_mountinfo
from falcon_agent.container import CgroupPaths
from falcon_agent.errors import GoneError, KernelFileError, ParseError
from falcon_agent.kernelfile import recording
from tests.cgroupfs.live import CONTROLLERS, ROOT, V2
from tests.cgroupfs.trees import DOCKER, FIXTURES, POD, Tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("layout", "expected"),
    [("v2", "v2"), ("v1-comounted", "v1"), ("v1-separate", "v1"), ("hybrid", "hybrid")],
)
def test_layout(layout: str, expected: str) -> None:
    assert Tree(layout).hierarchies.layout == expected


def test_co_mounted_controllers_are_one_directory() -> None:
    tree = Tree("v1-comounted")
    for controller in ("cpu", "cpuacct"):
        path = os.path.relpath(tree.directory(DOCKER["v1-comounted"], controller), tree.root)
        assert path.startswith("sys/fs/cgroup/cpu,cpuacct/docker/0a1b")


def test_hybrid_takes_a_controller_from_where_the_process_has_it() -> None:
    tree = Tree("hybrid")
    paths = tree.paths(DOCKER["hybrid"])
    memory = tree.hierarchies.locate("memory", paths)
    other = tree.hierarchies.locate("hugetlb", paths)
    if memory is None or other is None:
        raise AssertionError("both hierarchies are mounted")
    assert memory.version == "v1"
    assert "/sys/fs/cgroup/memory/system.slice/docker-5f4e" in memory.path
    assert other.version == "v2"
    assert "/sys/fs/cgroup/unified/system.slice/docker-5f4e" in other.path


def test_ancestors_are_nearest_first_up_to_the_mount() -> None:
    tree = Tree("v1-separate")
    at = tree.hierarchies.locate("cpu", tree.paths(POD["v1-separate"]))
    if at is None:
        raise AssertionError("cpu is mounted")
    top = f"{tree.root}/sys/fs/cgroup/cpu"
    pod = f"{top}/kubepods/burstable/pod6f1f8b5e-2f4c-4f0e-9d5a-0c8f3e1b7a2d"
    assert at.ancestors == (pod, f"{top}/kubepods/burstable", f"{top}/kubepods", top)
    assert os.path.dirname(at.path) == pod


@pytest.mark.parametrize(
    ("root", "path", "directory"),
    [
        ("/", "/docker/a", "/m/docker/a"),
        ("/docker", "/docker/a", "/m/a"),
        # In a cgroup namespace of our own, what is above it is called "..".
        ("/..", "/../a", "/m/a"),
        ("/../..", "/../../x/a", "/m/x/a"),
        ("/../..", "/x/a", "/m/x/a"),  # as the host names it
        ("/../x", "/../x/a", "/m/a"),
        ("/../x", "/../y/a", None),
        ("/../..", "/../a", None),  # in the cgroup above our own, whose name is not known
        ("/", "/../a", None),
        ("/docker", "/dockerless/a", None),
        ("/docker", "/lxc/a", None),
        ("/", "/a/../../etc", None),
        # The whole host is no container.
        ("/", "/", None),
        ("/docker/a", "/docker/a", None),
        ("/..", "/..", None),
    ],
)
def test_paths_are_relative_to_the_root_of_the_mount(root: str, path: str, directory: str | None) -> None:
    v1 = Hierarchies([Mount("/m", root, "v1", ("rw", "cpu"))]).locate("cpu", CgroupPaths({"cpu": path}, None))
    v2 = Hierarchies([Mount("/m", root, "v2")]).locate("cpu", CgroupPaths({}, path))
    assert (v1 and v1.path) == directory
    assert (v2 and v2.path) == directory


def test_a_v1_controller_that_is_not_mounted_here_is_not_sought_in_v2() -> None:
    hierarchies = Hierarchies([Mount("/m", "/", "v2")])
    assert hierarchies.locate("cpu", CgroupPaths({"cpu": "/a"}, "/a")) is None
    assert hierarchies.locate("memory", CgroupPaths({"cpu": "/a"}, "/a")) == ControllerDir(
        "v2", "/m/a", ("/m",)
    )
    assert hierarchies.locate("memory", CgroupPaths({"cpu": "/a"}, None)) is None


def mountinfo(tmp_path: Path, *lines: str) -> str:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text("".join(f"{line}\n" for line in lines))
    return str(proc)


def test_of_several_mounts_the_one_that_shows_most(tmp_path: Path) -> None:
    proc = mountinfo(
        tmp_path,
        "30 1 0:1 /docker/a /host/cg/bound rw - cgroup2 cgroup2 rw",
        "31 1 0:1 / /host/cg/a/longer/way rw - cgroup2 cgroup2 rw",
        "32 1 0:1 / /host/cg rw shared:1 master:2 - cgroup2 cgroup2 rw,nsdelegate",
        "33 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
        "34 1 0:2 / /host/cgother/cpu rw - cgroup cgroup rw,cpu",
    )
    for place in ("/host/cg", "/host/cg/"):
        found = Hierarchies.find(proc, place)
        assert found.v2 == Mount("/host/cg", "/", "v2")
        assert found.layout == "v2"


def test_the_usual_place_stands_for_a_tree_that_was_copied(tmp_path: Path) -> None:
    proc = mountinfo(tmp_path, "33 1 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct")
    (tmp_path / "copy/cpu,cpuacct").mkdir(parents=True)
    found = Hierarchies.find(proc, f"{tmp_path}/copy")
    assert found.v1["cpuacct"].mountpoint == f"{tmp_path}/copy/cpu,cpuacct"


def test_the_usual_place_does_not_stand_for_a_place_where_nothing_is(tmp_path: Path) -> None:
    """As in a container to which the host's /sys was not mounted."""
    proc = mountinfo(tmp_path, "33 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
    with pytest.raises(
        KernelFileError, match=r"no cgroup hierarchy is mounted there; mount the host's there"
    ):
        Hierarchies.find(proc, f"{tmp_path}/host/sys/fs/cgroup")


def test_nothing_mounted_is_a_typed_error(tmp_path: Path) -> None:
    proc = mountinfo(
        tmp_path, "22 27 0:21 / /proc rw,relatime - proc proc rw", "1 1 0:1 / /mnt rw - cgroup2 x rw"
    )
    with pytest.raises(KernelFileError, match="cannot read /sys/fs/cgroup: no cgroup hierarchy is mounted"):
        Hierarchies.find(proc)


def test_no_mountinfo_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(GoneError, match=r"cannot read .*/self/mountinfo: .*; mount the host's procfs there"):
        Hierarchies.find(str(tmp_path))


def test_mountinfo_unescapes_and_skips_other_file_systems() -> None:
    content = (
        b"22 27 0:21 / /proc rw - proc proc rw\n9 8 0:1 /a\\040b /c\\134d\\011 rw - cgroup cgroup rw,memory\n"
    )
    assert parse_mountinfo(content) == (Mount("/c\\d\t", "/a b", "v1", ("rw", "memory")),)


@pytest.mark.parametrize(
    "garbage", [b"x\n", b"1 2 3 4 5 - cgroup2 x rw\n", b"1 2 3 4 5 6 - cgroup2 x\n", b"1 2 3 4 5 6\n"]
)
def test_mountinfo_garbage_is_a_typed_error(garbage: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse /proc/self/mountinfo"):
        parse_mountinfo(garbage)


@given(
    content=st.sampled_from(
        [(FIXTURES / layout / "first/proc/self/mountinfo").read_bytes() for layout in DOCKER]
    ),
    cut=st.integers(0, 3000),
    more=st.binary(max_size=60),
)
def test_truncated_and_garbled_mountinfo(content: bytes, cut: int, more: bytes) -> None:
    try:
        mounts = parse_mountinfo(content[:cut] + more)
    except ParseError:
        return
    assert all(mount.version in {"v1", "v2"} for mount in mounts)


def test_a_shared_file_is_read_once_per_cycle_and_still_recorded(tmp_path: Path) -> None:
    shared = tmp_path / "cpu.max"
    shared.write_bytes(b"max 100000\n")
    hierarchies = Hierarchies([])
    assert hierarchies.read_shared(str(shared)) == b"max 100000\n"
    assert hierarchies.read_shared(str(tmp_path / "absent")) is None
    shared.write_bytes(b"1 100000\n")
    (tmp_path / "absent").write_bytes(b"new\n")
    with recording() as seen:
        assert hierarchies.read_shared(str(shared)) == b"max 100000\n"
        assert hierarchies.read_shared(str(tmp_path / "absent")) is None
    assert seen == [(str(shared), b"max 100000\n")]
    hierarchies.new_cycle()
    assert hierarchies.read_shared(str(shared)) == b"1 100000\n"
    assert hierarchies.read_shared(str(tmp_path / "absent")) == b"new\n"


def test_a_hierarchy_that_is_mounted_twice_is_used_where_it_shows_most(tmp_path: Path) -> None:
    proc = mountinfo(
        tmp_path,
        "30 1 0:1 / /cg/own rw - cgroup2 cgroup2 rw",
        "31 1 0:1 /../x /cg/beside rw - cgroup2 cgroup2 rw",
        "32 1 0:1 /../.. /cg/most rw - cgroup2 cgroup2 rw",
        "33 1 0:1 /.. /cg/more rw - cgroup2 cgroup2 rw",
    )
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    assert Hierarchies.find(proc, "/cg").v2 == Mount("/cg/most", "/../..", "v2")


@pytest.mark.parametrize("options", ["rw,memory,name=x,xattr", "name=x,memory,rw", "memory,xattr,rw,name=x"])
def test_the_order_of_options_does_not_matter(options: str, tmp_path: Path) -> None:
    proc = mountinfo(tmp_path, f"30 1 0:1 / /cg/a rw - cgroup whatever {options}")
    found = Hierarchies.find(proc, "/cg")
    assert found.v1["memory"] == found.v1["name=x"] == Mount("/cg/a", "/", "v1", tuple(options.split(",")))


def test_of_a_bind_mount_of_one_cgroup_what_is_below_is_seen(tmp_path: Path) -> None:
    proc = mountinfo(tmp_path, "30 1 0:1 /docker /cg/memory rw - cgroup cgroup rw,memory")
    found = Hierarchies.find(proc, "/cg")
    inside = CgroupPaths({"memory": "/docker/a"}, None)
    outside = CgroupPaths({"memory": "/lxc/a"}, None)
    assert found.locate("memory", inside) == ControllerDir("v1", "/cg/memory/a", ("/cg/memory",))
    assert found.locate("memory", outside) is None
    assert "/cg/memory does not show its cgroup /lxc/a" in (found.reason("memory", outside) or "")


@pytest.mark.parametrize(
    ("mounts", "paths", "expected"),
    [
        # v1 without the memory hierarchy mounted, though the kernel has it.
        (
            [Mount("/m", "/", "v1", ("cpu",))],
            CgroupPaths({"memory": "/a"}, None),
            "v1 hierarchy of memory is not",
        ),
        # The kernel has no memory controller at all.
        (
            [Mount("/m", "/", "v1", ("cpu",))],
            CgroupPaths({"cpu": "/a"}, None),
            "no cgroup hierarchy accounts for",
        ),
        ([Mount("/m", "/", "v2")], CgroupPaths({}, "/"), "it is in the root cgroup of /m"),
        # Only our own cgroup is mounted.
        (
            [Mount("/m", "/", "v2")],
            CgroupPaths({}, "/../a"),
            "/m does not show its cgroup /../a, .* mount the host's",
        ),
        ([Mount("/m", "/", "v2")], CgroupPaths({}, "/a"), None),
    ],
)
def test_the_reason_why_there_is_no_directory(
    mounts: list[Mount], paths: CgroupPaths, expected: str | None
) -> None:
    hierarchies = Hierarchies(mounts)
    reason = hierarchies.reason("memory", paths)
    assert (reason is None) == (hierarchies.locate("memory", paths) is not None)
    assert re.search(expected, reason) if reason and expected else reason == expected


@pytest.mark.parametrize(("enabled", "expected"), [("cpu io\n", False), ("cpu memory\n", True)])
def test_the_reason_of_a_controller_that_is_not_enabled(enabled: str, expected: bool, tmp_path: Path) -> None:  # noqa: FBT001
    (tmp_path / "pod/a").mkdir(parents=True)
    (tmp_path / "pod/a/cgroup.controllers").write_text(enabled)
    hierarchies = Hierarchies([Mount(str(tmp_path), "/", "v2")])
    reason = hierarchies.reason("memory", CgroupPaths({}, "/pod/a"))
    assert reason == (None if expected else f"memory is not enabled in {tmp_path}/pod/cgroup.subtree_control")


def test_the_reason_of_a_container_without_a_cgroup_in_a_v1_hierarchy() -> None:
    """As systemd-nspawn leaves it."""
    hierarchies = Hierarchies([Mount("/m", "/", "v1", ("memory",)), Mount("/u", "/", "v2")])
    reason = hierarchies.reason("memory", CgroupPaths({"name=systemd": "/a"}, "/a"))
    assert reason == "it has no cgroup of its own in the v1 hierarchy of memory"


def test_a_controller_that_is_not_mounted_takes_nothing_else_with_it(tmp_path: Path) -> None:
    tree = Tree.copy("v1-separate", tmp_path)
    info = tmp_path / "v1-separate/proc/self/mountinfo"
    kept = [line for line in info.read_text().splitlines() if not line.endswith((",memory", ",cpuacct"))]
    info.write_text("".join(f"{line}\n" for line in kept))
    without = Tree("v1-separate", tree.root).cgroup(DOCKER["v1-separate"])
    assert (without.memory(), without.oom_kills(), without.cpu()) == (None, None, None)
    assert without.cpu_quota() == tree.cgroup(DOCKER["v1-separate"]).cpu_quota()
    assert without.cpuset() == tree.cgroup(DOCKER["v1-separate"]).cpuset()


def test_the_place_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "cg").mkdir()
    (tmp_path / "link").symlink_to("cg")
    proc = mountinfo(tmp_path, f"30 1 0:1 / {tmp_path}/cg rw - cgroup2 cgroup2 rw")
    assert Hierarchies.find(proc, f"{tmp_path}/link/").v2 == Mount(f"{tmp_path}/cg", "/", "v2")


@pytest.mark.real
def test_this_host() -> None:
    hierarchies = Hierarchies.find()
    paths = CgroupPaths({} if V2 else dict.fromkeys(CONTROLLERS, "/x"), "/x")
    for controller in CONTROLLERS:
        at = hierarchies.locate(controller, paths)
        if at is None:
            raise AssertionError(f"{controller} is mounted")
        assert os.path.dirname(at.path) == str(ROOT if V2 else (ROOT / controller).resolve())
