from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.errors import DeniedError, GoneError, KernelFileError
from falcon_agent.namespaces.rootfs import open_in_root, open_root, place_of
from falcon_agent.procfs.process import Process
from tests.namespaces.lab import become_nobody, descriptors, in_child
from tests.namespaces.mounted import Mounts, mounts

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "name").write_text("inside")
    (tmp_path / "outside").write_text("outside")
    fd = os.open(tmp_path / "root", os.O_PATH)
    yield fd
    os.close(fd)


@pytest.fixture
def box() -> Iterator[Mounts]:
    with mounts() as made:
        yield made


def content(root: int, path: str) -> str:
    with os.fdopen(open_in_root(root, path, "R", os.O_RDONLY)) as file:
        return file.read()


def test_a_path_is_taken_from_the_root(root: int) -> None:
    assert content(root, "/etc/name") == content(root, "etc/name") == "inside"


@pytest.mark.parametrize(
    "link", ["/etc/name", "/../../etc/name", "../../../../../etc/name", "/../etc/../etc/name"]
)
def test_links_and_dots_do_not_lead_out(root: int, tmp_path: Path, link: str) -> None:
    (tmp_path / "root" / "link").symlink_to(link)
    assert content(root, "/link") == "inside"
    (tmp_path / "root" / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(GoneError):
        open_in_root(root, "/out", "R")
    with pytest.raises(GoneError):
        open_in_root(root, "/../outside", "R")


def test_links_may_be_excluded_anywhere_in_the_path(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "link").symlink_to("etc")
    os.close(open_in_root(root, "/link/name", "R"))
    with pytest.raises(KernelFileError, match="cannot read R/link/name: Too many levels of symbolic links"):
        open_in_root(root, "/link/name", "R", symlinks=False)


def test_links_of_proc_are_never_followed() -> None:
    host = os.open("/", os.O_PATH)
    try:
        with pytest.raises(KernelFileError, match="Too many levels"):
            open_in_root(host, f"/proc/{os.getpid()}/root/etc", "R")
    finally:
        os.close(host)


def test_what_cannot_be_opened_is_an_error_and_leaves_nothing_open(root: int, tmp_path: Path) -> None:
    before = descriptors()
    for path in ("/missing", "/etc/name/below", "", "/a\0b", "/" + "x" * 300, "/x" * 3000):
        with pytest.raises(KernelFileError):
            open_in_root(root, path, "R")
    assert descriptors() <= before


def test_nothing_there_is_woken_by_o_path(root: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root" / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "root" / "socket"))
        for name in ("fifo", "socket"):
            fd = open_in_root(root, name, "R")
            assert not place_of(fd, name).is_directory
            os.close(fd)


@pytest.mark.real
def test_other_mounts_may_be_excluded(box: Mounts, tmp_path: Path) -> None:
    box.run("mount", "-t", "tmpfs", "x", str(tmp_path))
    process = Process("/proc", box.pid)
    root = open_root(process.fd, process.path)
    os.close(open_in_root(root, str(tmp_path), "R"))
    with pytest.raises(KernelFileError, match="Invalid cross-device link"):
        open_in_root(root, str(tmp_path), "R", other_mounts=False)
    os.close(root)
    process.close()


@pytest.mark.real
def test_the_mount_is_the_one_that_fdinfo_names(box: Mounts, tmp_path: Path) -> None:
    box.run("mount", "-t", "tmpfs", "x", str(tmp_path))
    process = Process("/proc", box.pid)
    root = open_root(process.fd, process.path)
    inside = open_in_root(root, str(tmp_path), "R")
    found = []
    for fd in (root, inside):
        info = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
        place = place_of(fd, "R")
        assert place.is_directory
        assert place.mount_id == int(info[info.index("mnt_id:") + 1])
        found.append(place.mount_id)
        os.close(fd)
    assert found[0] != found[1]
    process.close()


def test_a_descriptor_that_is_none_leads_nowhere() -> None:
    with pytest.raises(KernelFileError, match="cannot read R: Bad file descriptor"):
        place_of(-1, "R")


@pytest.mark.real
def test_the_root_of_a_process_that_ended_is_gone() -> None:
    child = subprocess.Popen(["sleep", "3600"])
    process = Process("/proc", child.pid)
    os.close(open_root(process.fd, process.path))
    child.kill()
    child.wait()
    with pytest.raises(GoneError):
        open_root(process.fd, process.path)
    process.close()


@pytest.mark.real
def test_the_root_of_somebody_elses_process_needs_a_privilege(box: Mounts) -> None:
    process = Process("/proc", box.pid)
    answer = in_child(lambda: open_root(process.fd, process.path), before=become_nobody)
    assert answer.startswith(DeniedError.__name__)
    process.close()
