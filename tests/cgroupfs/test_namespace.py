"""A cgroup namespace of our own: every path is relative to our own cgroup, and the names above it are hidden."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cgroupfs import Hierarchies, mounts
from falcon_agent.cgroupfs.mounts import Mount, find_above, parse_mountinfo
from falcon_agent.container import CgroupPaths
from tests.cgroupfs.live import CONTROLLERS, ROOT, V2, remove

if TYPE_CHECKING:
    from collections.abc import Iterable

REPOSITORY = Path(__file__).parent.parent.parent
OWN = ("kubepods", "pod1", "agent")


@pytest.mark.parametrize(
    ("path", "absolute"),
    [
        ("/", "/kubepods/pod1/agent"),
        ("/inner", "/kubepods/pod1/agent/inner"),
        ("/..", "/kubepods/pod1"),
        ("/../sibling", "/kubepods/pod1/sibling"),
        ("/../../pod2/a", "/kubepods/pod2/a"),
        ("/../../..", "/"),
        ("/../../../docker/a", "/docker/a"),
        ("/../../../..", None),
        ("/a/../b", "/kubepods/pod1/agent/a/../b"),
    ],
)
def test_paths_are_named_as_the_host_does(path: str, absolute: str | None) -> None:
    mount = Mount("/m", "/../../..", "v2", above=OWN)
    assert mount.absolute(path) == absolute
    expected = tuple(absolute.split("/")[1:]) if absolute and absolute != "/" else ()
    if absolute is not None and ".." not in absolute:
        assert mount.below(absolute) == expected
    else:
        assert mount.below(absolute or path) is None


@pytest.mark.parametrize(
    ("root", "path", "absolute"),
    [
        ("/..", "/../a", "/a"),
        ("/..", "/", None),
        ("/..", "/a", None),
        ("/../..", "/../a", None),
        ("/../x", "/../x/a", "/x/a"),
        ("/../x", "/a", None),
        ("/", "/a", "/a"),
        ("/", "/../a", None),
        ("/docker", "/docker/a", "/docker/a"),
    ],
)
def test_without_the_names_only_what_the_kernel_tells(root: str, path: str, absolute: str | None) -> None:
    assert Mount("/m", root, "v2").absolute(path) == absolute


def test_each_hierarchy_has_names_of_its_own() -> None:
    """In v1 a process may be at different places."""
    hierarchies = Hierarchies(
        [
            Mount("/m/memory", "/..", "v1", ("memory",), above=("mine",)),
            Mount("/m/cpu", "/../..", "v1", ("cpu",), above=("a", "b")),
            Mount("/m/pids", "/..", "v1", ("pids",)),
            Mount("/m/unified", "/", "v2"),
        ]
    )
    written = CgroupPaths(
        {"memory": "/../x", "cpu": "/../x", "pids": "/x", "devices": "/../x", "blkio": "/"}, "/../x"
    )
    named = hierarchies.absolute(written)
    assert named.v1 == {"memory": "/x", "cpu": "/a/x", "devices": "/../x", "blkio": "/"}
    assert named.v2 == "/../x"  # of v2 only our own cgroup is mounted
    found = {name: at.path for name in named.v1 if (at := hierarchies.locate(name, named))}
    assert found == {"memory": "/m/memory/x", "cpu": "/m/cpu/a/x"}
    assert hierarchies.absolute(CgroupPaths({}, None)) == CgroupPaths({}, None)


def cgroups(tmp_path: Path, *paths: str, pid: int = 42, at: str = "") -> str:
    for path in paths:
        directory = tmp_path / path
        directory.mkdir(parents=True)
        (directory / "cgroup.procs").write_text(f"1\n{pid}\n" if path == at else f"1\n{pid}0\n")
    return str(tmp_path)


def test_our_own_cgroup_is_the_one_that_holds_us(tmp_path: Path) -> None:
    top = cgroups(tmp_path, "docker/a", "docker/b", "lxc/b", at="docker/b")
    assert find_above(Mount(top, "/../..", "v2"), "/", 42) == ("docker", "b")


def test_we_may_be_below_the_root_of_our_namespace(tmp_path: Path) -> None:
    top = cgroups(tmp_path, "docker/a/init.scope", "docker/b/init.scope", at="docker/b/init.scope")
    assert find_above(Mount(top, "/../..", "v2"), "/init.scope", 42) == ("docker", "b")


@pytest.mark.parametrize(
    ("root", "own", "pid"),
    [
        ("/..", "/", 42),  # another depth
        ("/../../..", "/", 42),
        ("/../..", "/elsewhere", 42),
        ("/../..", "/", 420),  # 420 is in others, 42 is not 420
        ("/../..", "/../c", 42),  # moved out of our namespace
        ("/../../x", "/", 42),  # shows only what is beside us
        ("/", "/", 42),
    ],
)
def test_where_our_own_cgroup_is_not_found(root: str, own: str, pid: int, tmp_path: Path) -> None:
    top = cgroups(tmp_path, "docker/b", at="docker/b")
    assert find_above(Mount(top, root, "v2"), own, pid) is None


def test_the_search_ends_where_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = cgroups(tmp_path, *(f"docker/{number}" for number in range(20)), at="docker/7")
    mount = Mount(top, "/../..", "v2")
    assert find_above(mount, "/", 42) == ("docker", "7")
    monkeypatch.setattr(mounts, "MAX_DIRECTORIES", 20)
    assert find_above(mount, "/", 42) is None


def test_the_search_follows_no_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    cgroups(outside, "x", at="x")
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(outside)
    (top / "a").mkdir()
    (top / "a/link").symlink_to(outside / "x")
    assert find_above(Mount(str(top), "/../..", "v2"), "/", 42) is None


def test_a_mount_under_another_one_is_not_seen() -> None:
    """`docker run -v /sys:/sys`: the host's hierarchies lie below those of the container."""
    content = (
        b"1 0 0:1 / / rw - overlay overlay rw\n"
        b"20 1 0:2 / /sys ro - sysfs sysfs rw\n"
        b"21 20 0:3 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        b"22 21 0:4 /../.. /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        b"23 21 0:5 /../.. /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        b"30 21 0:6 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        b"31 30 0:4 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
        b"40 1 0:7 / /host/sys ro - sysfs sysfs rw\n"
        b"41 40 0:4 /../.. /host/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
    assert [(mount.mountpoint, mount.root) for mount in parse_mountinfo(content)] == [
        ("/sys/fs/cgroup/memory", "/"),
        ("/host/sys/fs/cgroup/memory", "/../.."),
    ]


def test_a_mount_over_the_same_directory_is_the_one_that_is_seen() -> None:
    content = (
        b"5 1 0:4 / /m rw - cgroup2 c rw\n6 5 0:4 /.. /m rw - cgroup2 c rw\n7 7 0:4 /x /n rw - cgroup2 c rw\n"
    )
    assert [(mount.mountpoint, mount.root) for mount in parse_mountinfo(content)] == [
        ("/m", "/.."),
        ("/n", "/x"),
    ]


INSIDE = """
import json, sys
from falcon_agent.cgroupfs import Hierarchies, parse_cgroup_paths
hierarchies = Hierarchies.find("/proc", sys.argv[1])
found = {}
for name, pid in zip(("own", "sibling", "below"), ["self", *sys.argv[2:]]):
    with open(f"/proc/{pid}/cgroup", "rb") as cgroup:
        content = cgroup.read()
    paths = hierarchies.absolute(parse_cgroup_paths(content))
    at = {name: hierarchies.locate(name, paths) for name in ("cpu", "memory")}
    found[name] = [content.decode(), {name: one and one.path for name, one in at.items()}]
print(json.dumps(found))
"""
ENTER = """
bound=$1 program=$2 python=$3; shift 3
exec unshare -C -m sh -c '
    bound=$1 program=$2 python=$3 join=$4; shift 4
    mount --rbind /sys/fs/cgroup "$bound"
    for procs in $join; do echo 0 >"$procs"; done
    exec "$python" -c "$program" "$bound" "$@"' sh "$bound" "$program" "$python" "$@"
"""


@pytest.mark.real
def test_in_a_real_namespace(tmp_path: Path) -> None:
    """As an agent in a container sees it: its own cgroup is the root, and the host's tree is bind-mounted."""
    tops = list(dict.fromkeys([ROOT] if V2 else [(ROOT / name).resolve() for name in CONTROLLERS]))
    unique = f"falcon-agent-test-{secrets.token_hex(4)}"
    # In v1 the namespace's root is not at the same depth in all of them.
    own = {top: top / (f"{unique}/deep" if top != tops[0] else unique) for top in tops}
    made = [*(at / "inner" for at in own.values())]
    sibling, below = {top: at.parent / f"{unique}-beside" for top, at in own.items()}, own
    bound = tmp_path / "bound"
    bound.mkdir()
    for directory in (*made, *sibling.values()):
        directory.mkdir(parents=True)
        for name in ("cpuset.mems", "cpuset.cpus"):
            for at in (directory.parent.parent, directory.parent, directory):
                if (at / name).exists() and at.is_relative_to(ROOT / "cpuset") and at != ROOT / "cpuset":
                    (at / name).write_text((ROOT / "cpuset" / name).read_text())
    others = [asleep(sibling.values()), asleep(at / "inner" for at in below.values())]
    try:
        inside = subprocess.run(
            [
                *("sh", "-ec", "for p in $1; do echo 0 >$p; done; shift; " + ENTER, "sh"),
                " ".join(str(at / "cgroup.procs") for at in own.values()),
                *(bound, INSIDE, sys.executable),
                " ".join(str(at / "inner/cgroup.procs") for at in own.values()),
                *(str(one.pid) for one in others),
            ],
            check=True,
            capture_output=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
    finally:
        for one in others:
            one.kill()
            one.wait()
        for directory in (*made, *own.values(), *sibling.values(), *(at.parent for at in own.values())):
            if directory not in tops and directory.exists():
                remove(directory)
    found = json.loads(inside.stdout)
    assert ":/inner\n" in found["own"][0]
    assert f"/../{unique}-beside" in found["sibling"][0]
    for name in ("cpu", "memory"):
        top = ROOT if V2 else (ROOT / name).resolve()
        at = bound / own[top].relative_to(ROOT)
        assert found["own"][1][name] == str(at / "inner")
        assert found["below"][1][name] == str(at / "inner")
        assert found["sibling"][1][name] == str(at.parent / f"{unique}-beside")


def asleep(cgroups: Iterable[Path]) -> subprocess.Popen[bytes]:
    """A process in these cgroups that does nothing; returns when it is there."""
    entries = " ".join(f"{directory}/cgroup.procs" for directory in cgroups)
    command = f"for p in {entries}; do echo 0 >$p; done; echo ready; exec sleep 600"
    process = subprocess.Popen(["sh", "-ec", command], stdout=subprocess.PIPE)
    if process.stdout is None:
        raise AssertionError("its output is a pipe")
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process
