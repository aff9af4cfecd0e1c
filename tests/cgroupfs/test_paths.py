from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.cgroupfs import parse_cgroup_paths
from falcon_agent.container import CgroupPaths
from falcon_agent.errors import ParseError
from tests.cgroupfs.trees import FIXTURES, captured

DOCKER = "/docker/0a1b2c3d4e5f60718293a4b5c6d7e8f900112233445566778899aabbccddeeff"
SCOPE = "/system.slice/docker-5f4e3d2c1b0a99887766554433221100ffeeddccbbaa00112233445566778899.scope"


def captured_in(layout: str, pid: int) -> bytes:
    return (FIXTURES / layout / "first/proc" / str(pid) / "cgroup").read_bytes()


def test_co_mounted_controllers_share_a_path() -> None:
    paths = parse_cgroup_paths(captured_in("v1-comounted", 124))
    assert paths == CgroupPaths(
        {
            "name=systemd": DOCKER,
            "pids": DOCKER,
            "memory": DOCKER,
            "cpuset": DOCKER,
            "cpu": DOCKER,
            "cpuacct": DOCKER,
        },
        None,
    )


def test_v2_is_the_line_without_controllers() -> None:
    paths = parse_cgroup_paths(captured_in("v2", 99))
    assert not paths.v1
    assert paths.v2 == f"/system.slice/docker-{DOCKER[8:]}.scope"


def test_hybrid_has_both() -> None:
    paths = parse_cgroup_paths(captured_in("hybrid", 10001))
    assert paths.v2 == SCOPE
    assert paths.v1["memory"] == SCOPE
    assert paths.v1["blkio"] == "/"


def test_a_path_may_hold_colons_spaces_and_any_bytes() -> None:
    paths = parse_cgroup_paths(b"3:cpu:/a:b c\xff\r\n0::/x (deleted)\n")
    assert paths == CgroupPaths({"cpu": "/a:b c\udcff\r"}, "/x (deleted)")


def test_no_hierarchy_at_all() -> None:
    assert parse_cgroup_paths(b"") == CgroupPaths({}, None)


@pytest.mark.parametrize(
    "garbage",
    [b"0::/x", b"\n", b"0::\n", b"0:/x\n", b"x::/\n", b"0::relative\n", b"::/x\n", b"0\n", b"-1::/x\n"],
)
def test_garbage_is_a_typed_error(garbage: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse /proc/PID/cgroup"):
        parse_cgroup_paths(garbage)


@given(content=st.sampled_from(captured("cgroup")), cut=st.integers(0, 2000), more=st.binary(max_size=30))
def test_truncated_and_garbled_files(content: bytes, cut: int, more: bytes) -> None:
    try:
        paths = parse_cgroup_paths(content[:cut] + more)
    except ParseError:
        return
    assert all(path.startswith("/") for path in [*paths.v1.values(), paths.v2 or "/"])
