"""Copied trees: what they are built of is what was captured, under names of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.tree import Captured, build
from falcon_agent.container import CgroupPaths, Container

if TYPE_CHECKING:
    from pathlib import Path

ID = "ab" * 32


def captured() -> Captured:
    paths = CgroupPaths({"memory": f"/docker/{ID}"}, f"/docker/{ID}")
    container = Container(id=ID, name="web", runtime="docker", pid=77, starttime=5, cgroup=paths, netns=1)
    files = {
        "/proc/77/net/sockstat": b"sockets: used 1\n",
        "/proc/stat": b"cpu 1\n",
        f"/sys/fs/cgroup/memory/docker/{ID}/memory.stat": b"cache 1\n",
        "/sys/fs/cgroup/memory/docker/memory.use_hierarchy": b"1\n",
    }
    return Captured(container, files)


def test_every_copy_has_the_containers_files_under_its_own_names(tmp_path: Path) -> None:
    copies = build(tmp_path, captured(), 3)
    assert len({(copy.id, copy.pid, copy.netns, copy.key) for copy in copies}) == 3
    for copy in copies:
        assert (tmp_path / f"proc/{copy.pid}/net/sockstat").read_bytes() == b"sockets: used 1\n"
        path = copy.cgroup.path("memory")
        assert path == f"/docker/{copy.id}" == copy.cgroup.v2
        assert (tmp_path / f"sys/fs/cgroup/memory{path}/memory.stat").read_bytes() == b"cache 1\n"


def test_what_is_not_the_containers_is_there_once(tmp_path: Path) -> None:
    build(tmp_path, captured(), 2)
    assert (tmp_path / "proc/stat").read_bytes() == b"cpu 1\n"
    assert [one.relative_to(tmp_path) for one in tmp_path.rglob("memory.use_hierarchy")]
    assert not (tmp_path / "proc/77").exists()
    assert not list(tmp_path.rglob(ID))
