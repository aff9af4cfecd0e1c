from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.errors import ParseError
from falcon_agent.procfs.mountinfo import Mount, parse_mountinfo

DOCKER = (Path(__file__).parents[1] / "fixtures" / "procfs" / "mountinfo-docker").read_bytes()
LINE = b"36 35 98:0 /a /mnt rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n"


def test_a_line_with_optional_fields() -> None:
    assert parse_mountinfo(LINE) == [
        Mount(36, "98:0", "/a", "/mnt", "ext3", "/dev/root", "rw,errors=continue"),
    ]


def test_a_captured_container() -> None:
    mounts = {mount.mount_point: mount for mount in parse_mountinfo(DOCKER)}
    assert len(mounts) == DOCKER.count(b"\n")
    root = mounts["/"]
    assert (root.mount_id, root.device, root.fstype, root.source) == (195, "0:72", "overlay", "overlay")
    upper = root.super_option("upperdir") or ""
    assert upper.startswith("/var/lib/docker/overlay2/")
    assert upper.endswith("/diff")
    assert root.super_option("upper") is None
    assert root.super_option("rw") is None
    assert mounts["/a b"].super_option("size") == "8192k"
    assert mounts["/data"].root == "/var/lib/docker/volumes/vol/_data"
    assert mounts["/etc/hosts"].device == mounts["/data"].device == "254:0"


def test_what_the_kernel_escapes_comes_back_as_it_was() -> None:
    (mount,) = parse_mountinfo(
        rb"1 0 0:5 /\011x /a\040b\012c\134040\043 rw - fuse.x\040y s\040 rw,d=a\054b,e=\0751" + b"\n"
    )
    assert mount.root == "/\tx"
    assert mount.mount_point == "/a b\nc\\040#"
    assert mount.fstype == "fuse.x y"
    assert mount.source == "s "
    assert mount.super_option("d") == "a,b"
    assert mount.super_option("e") == "=1"


def test_names_that_are_no_text_give_their_bytes_back() -> None:
    (mount,) = parse_mountinfo(LINE.replace(b"/mnt", b"/m\xff\\377"))
    assert os.fsencode(mount.mount_point) == b"/m\xff\xff"


def test_a_source_may_be_empty() -> None:
    (mount,) = parse_mountinfo(LINE.replace(b"/dev/root", b""))
    assert (mount.source, mount.super_options) == ("", "rw,errors=continue")


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        LINE.replace(b" - ", b" "),
        b"36 35 98:0 /a - ext3 x rw\n",
        LINE.replace(b"36 ", b"x ", 1),
    ],
)
def test_another_form_is_an_error(line: bytes) -> None:
    with pytest.raises(ParseError, match="cannot parse /proc/PID/mountinfo"):
        parse_mountinfo(DOCKER + line)


@given(st.integers(0, len(LINE)), st.binary(max_size=40))
def test_cut_or_garbled(cut: int, garbage: bytes) -> None:
    for content in (LINE[:cut], LINE[:cut] + garbage + LINE[cut:], garbage):
        with contextlib.suppress(ParseError):
            parse_mountinfo(content)


@pytest.mark.real
def test_the_kernels_own_against_findmnt(tmp_path: Path) -> None:
    target = tmp_path / "a b\n#\\c"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "x", target], check=True)
    try:
        found = {
            mount.mount_point: mount for mount in parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())
        }
    finally:
        subprocess.run(["umount", target], check=True)
    assert found[str(target)].fstype == "tmpfs"
    assert found[str(target)].source == "x"
