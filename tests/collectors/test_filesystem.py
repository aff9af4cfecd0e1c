from __future__ import annotations

import dataclasses
import math
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any, cast

import pytest

from falcon_agent.collectors import filesystem
from falcon_agent.collectors.base import Target
from falcon_agent.collectors.filesystem import FilesystemCollector
from falcon_agent.collectors.mountchoice import behind_fuse, choose, identities, is_remote, without_hosts
from falcon_agent.container import CgroupPaths, Container
from falcon_agent.errors import GoneError, ParseError
from falcon_agent.kernelfile import recording
from falcon_agent.procfs.mountinfo import Mount, parse_mountinfo
from falcon_agent.procfs.process import Process
from tests.namespaces.lab import become_nobody, eventually, in_child, open_descriptors, run, target
from tests.namespaces.mounted import Mounts, ext4, fuse, mounts
from tests.real.oracle import at_rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

FIXTURE = Path(__file__).parents[1] / "fixtures" / "procfs" / "mountinfo-docker"
PREFIX = "container.df."
ALL = [metric.name.removeprefix(PREFIX) for metric in FilesystemCollector.metrics]
BYTES_PERCENT = FilesystemCollector.metrics[3]
INODES_TOTAL = FilesystemCollector.metrics[4]


def cycle(collector: FilesystemCollector, *of: Target) -> dict[str, dict[str, float]]:
    """One cycle's values by mount point, of the last of the targets."""
    collector.begin(of)
    found: dict[str, dict[str, float]] = {}
    for each in of[:-1]:
        list(collector.collect(each))
    for metric, value, tags in collector.collect(of[-1]):
        found.setdefault(dict(tags)["mount"], {})[metric.name.removeprefix(PREFIX)] = value
    return found


def reread(collector: FilesystemCollector, *of: Target) -> dict[str, dict[str, float]]:
    """The cycle in which the mounts of the last target are looked up again, on schedule."""
    watched = collector._watched[of[-1].container.key]
    due = watched.due
    for _ in range(filesystem._REREAD_CYCLES + 1):
        found = cycle(collector, *of)
        if watched.due != due:
            return found
    raise AssertionError("the mounts are not looked up again")


def reasons(collector: FilesystemCollector, of: Target) -> dict[str, str]:
    return collector._watched[of.container.key].reasons


def df(printed: str) -> list[int]:
    """Blocks or inodes: total, used, free, percent, as df prints them of one file system."""
    return [int(word.rstrip("%")) for word in printed.splitlines()[-1].split()[1:5]]


def same_as_df(box: Mounts, where: str, values: dict[str, float]) -> None:
    for kind, option in (("bytes", "-B1"), ("inodes", "-i")):
        total, used, free, percent = df(box.run("df", "-P", option, where))
        found = [values[f"{kind}.{name}"] for name in ("total", "used", "free")]
        assert found == [total, used, free]
        share = used * 100 / (used + free)
        assert values[f"{kind}.used.percent"] == round(share, 3)
        assert math.ceil(share) == percent


def patient(*, fuse: bool = False) -> FilesystemCollector:
    """One that gives no file system up because the machine is busy."""
    return FilesystemCollector(limit=60.0, fuse=fuse)


@pytest.fixture
def box() -> Iterator[Mounts]:
    with mounts() as made:
        # So that it is read again in the next cycle, on a host with hundreds of mounts too.
        if len(made.read("mountinfo")) > filesystem._BYTES_PER_CYCLE:
            unmount_all_but(made, "/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
        yield made


def unmount_all_but(box: Mounts, *needed: str) -> None:
    """Leave a box only the mounts that lead to these places and to temporary files."""
    doomed: list[str] = []
    for each in parse_mountinfo(box.read("mountinfo")):
        inside = each.mount_point.rstrip("/") + "/"
        leads_to = any(f"{place}/".startswith(inside) for place in (*needed, gettempdir()))
        # Those below go with it.
        if not leads_to and not any(each.mount_point.startswith(f"{above}/") for above in doomed):
            doomed.append(each.mount_point)
    box.run("umount", "--lazy", *doomed)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for a tag."""
    with TemporaryDirectory(prefix="df") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def disk(box: Mounts, place: Path) -> Iterator[str]:
    """An ext4 file system of the box alone, at a mount point shorter than any other's on it."""
    where = str(place / "m")
    with ext4(place / "image", box, where):
        yield where


def mount(where: str, fstype: str = "ext4", options: str = "rw", number: int = 1) -> Mount:
    return Mount(number, f"8:{number}", "/", where, fstype, "source", options)


def test_of_a_docker_container_its_root_volumes_and_tmpfs_are_chosen() -> None:
    chosen = choose(parse_mountinfo(FIXTURE.read_bytes()))
    assert [each.mount_point for each in chosen] == [
        "/",
        *("/a b", "/data"),
        # Files, as is found out by looking:
        *("/etc/foo", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/sbin/docker-init"),
    ]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (mount("/dev/shm", "tmpfs", "rw,size=65536k"), False),
        (mount("/dev/shm", "tmpfs", "rw,size=2097152k"), True),
        (mount("/dev/shm", "tmpfs", "rw"), True),
        (mount("/dev", "tmpfs"), False),
        (mount("/device", "tmpfs"), True),
        (mount("/run/secrets/kubernetes.io/serviceaccount", "tmpfs"), False),
        (mount("/proc/meminfo", "fuse.lxcfs"), False),
        (mount("/", "overlay"), True),
        (mount("/", "ext4"), True),
        (mount("/var/lib/docker/overlay2/x/merged", "overlay"), False),
        (mount("/snap/core", "squashfs"), False),
        (mount("/net", "autofs"), False),
        (mount("/mnt", "nfs4"), True),
        (mount("/mnt", "fuse.sshfs"), True),
    ],
)
def test_which_mounts_are_left_out(found: Mount, *, wanted: bool) -> None:
    assert choose([found]) == ([found] if wanted else [])


def test_of_very_many_the_shortest_are_looked_at_and_of_two_in_one_place_the_upper() -> None:
    many = [mount(f"/{number:05}", number=number) for number in range(10_000)]
    chosen = choose([*many, mount("/", number=1), mount("/", number=2)])
    assert len(chosen) == 64
    assert chosen[0].mount_point == "/"
    assert chosen[0].mount_id == 2


def test_who_needs_a_server() -> None:
    assert [is_remote(mount("/", kind)) for kind in ("ext4", "overlay", "nfs4", "fuse.x", "ceph", "9p")] == [
        *(False, False),
        *(True, True, True, True),
    ]


@pytest.mark.real
def test_a_disk_filled_to_the_brim_against_df(box: Mounts, disk: str) -> None:
    collector = patient()
    with target(box) as of:
        values = cycle(collector, of)[disk]
        assert sorted(values) == sorted(ALL)
        same_as_df(box, disk, values)
        assert values["bytes.used.percent"] < 50
        # Without privileges, for what is kept for root is not to be had.
        box.run("chmod", "777", disk)
        box.run(
            "setpriv",
            "--reuid=65534",
            "--clear-groups",
            "sh",
            "-c",
            f"for n in 1 2 3; do dd if=/dev/zero of={disk}/$n bs=1k; sync -f {disk}; done; true",
        )
        values = cycle(collector, of)[disk]
        same_as_df(box, disk, values)
        assert values["bytes.free"] == 0
        assert values["bytes.used.percent"] == 100.0
        assert values["bytes.used"] < values["bytes.total"]
        box.run("sh", "-c", f"i=0; while touch {disk}/$i 2>/dev/null; do i=$((i+1)); done")
        values = cycle(collector, of)[disk]
        same_as_df(box, disk, values)
        assert (values["inodes.free"], values["inodes.used.percent"]) == (0, 100.0)


@pytest.mark.real
def test_a_volume_that_comes_is_seen_and_one_that_goes_is_no_failure(box: Mounts, place: Path) -> None:
    where = str(place)
    collector = patient()
    with target(box) as of:
        assert where not in cycle(collector, of)
        box.run("mount", "-t", "tmpfs", "-o", "size=1m", "x", where)
        same_as_df(box, where, reread(collector, of)[where])
        box.run("umount", where)
        assert where not in cycle(collector, of)
        assert "leads to another mount" in reasons(collector, of)[where]
        assert where not in cycle(collector, of)
        assert where not in reasons(collector, of)  # it was learned at once that it is not there any more


@pytest.mark.real
def test_a_path_that_leads_elsewhere_has_no_value(box: Mounts, disk: str, place: Path) -> None:
    inner = place / "x" / "inner"
    inner.mkdir(parents=True)
    box.run("mount", "-t", "tmpfs", "-o", "size=1m", "x", str(inner))
    collector = patient()
    with target(box) as of:
        cycle(collector, of)
        assert reread(collector, of)[str(inner)]["bytes.total"] == 1 << 20
        # The directory above is put aside, and a link to another file system takes its place.
        (place / "x").rename(place / "y")
        (place / "m" / "inner").mkdir(exist_ok=True)
        (place / "x").symlink_to(place / "m")
        found = cycle(collector, of)
        assert str(inner) not in found
        assert "symbolic links" in reasons(collector, of)[str(inner)]
        moved = str(place / "y" / "inner")
        assert reread(collector, of)[moved]["bytes.total"] == 1 << 20


@pytest.mark.real
def test_a_covered_mount_and_a_mounted_file_have_no_value(box: Mounts, place: Path) -> None:
    covered, name, over = place / "a" / "b", place / "name", place / "a"
    covered.mkdir(parents=True)
    name.touch()
    box.run("mount", "-t", "tmpfs", "-o", "size=1m", "x", str(covered))
    box.run("touch", f"{covered}/file")
    box.run("mount", "--bind", f"{covered}/file", str(name))
    box.run("mount", "-t", "tmpfs", "-o", "size=2m", "y", str(over))
    collector = patient()
    with target(box) as of:
        found = cycle(collector, of)
        assert str(over) in found
        assert not {str(covered), str(name)} & found.keys()
        assert set(reasons(collector, of)) == {str(covered)}


@pytest.mark.real
def test_one_device_is_reported_once_at_its_shortest_mount_point(box: Mounts, disk: str) -> None:
    for name in ("long", "a"):
        box.run("mkdir", "-p", f"{disk}/{name}", f"{disk}-{name}")
        box.run("mount", "--bind", f"{disk}/{name}", f"{disk}-{name}")
    collector = patient()
    with target(box) as of:
        assert [where for where in cycle(collector, of) if where.startswith(disk)] == [disk]
        box.run("umount", "--lazy", disk)
        assert [where for where in reread(collector, of) if where.startswith(disk)] == [f"{disk}-a"]
        for name in ("long", "a"):
            box.run("umount", f"{disk}-{name}")
        box.run("mount", "-t", "tmpfs", "x", disk)  # what the fixture unmounts


@pytest.mark.real
def test_who_lives_in_the_hosts_directories_has_only_what_is_mounted_for_it(box: Mounts, place: Path) -> None:
    collector = patient()
    with target(box) as of:
        assert cycle(collector, of) == {}
        assert collector.absent(BYTES_PERCENT, of) == filesystem._NO_MOUNTS
        box.run("mount", "-t", "tmpfs", "x", str(place))
        assert reread(collector, of).keys() == {str(place)}


def test_a_volume_at_the_hosts_mount_point_is_the_containers_if_its_root_is() -> None:
    host = [mount("/", number=1), mount("/data", number=2)]
    own_root = dataclasses.replace(host[0], device="0:99", fstype="overlay")
    theirs = identities(host)
    assert without_hosts([own_root, host[1]], theirs) == [own_root, host[1]]
    assert without_hosts([host[0], host[1]], theirs) == []
    covered = [host[0], own_root]  # the root directory is the one on top
    assert without_hosts(covered, theirs) == covered
    assert without_hosts([host[0]], ()) == [host[0]]


@pytest.mark.real
def test_names_that_no_tag_can_carry(box: Mounts, place: Path) -> None:
    names = ["a,b=c", "new\nline", "x" * 120, "two one", "two\tone"]
    for name in names:
        (place / name).mkdir()
        box.run("mount", "-t", "tmpfs", "-o", "size=1m", "x", str(place / name))
    collector = patient()
    with target(box) as of:
        found = [where for where in cycle(collector, of) if where.startswith(str(place))]
        assert len(found) == 4
        assert all(len(where.encode()) <= 100 and not set(where) & set(",=\n\t ") for where in found)
        assert len([why for why in reasons(collector, of).values() if "same name" in why]) == 1


@pytest.mark.real
def test_a_container_makes_no_end_of_series(
    box: Mounts, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "MAX_NAMES", 3)
    collector = patient()
    with target(box) as of:
        had = len(cycle(collector, of))
        monkeypatch.setattr(filesystem, "MAX_NAMES", had + 2)
        seen: set[str] = set()
        for number in range(4):
            where = place / str(number)
            where.mkdir()
            box.run("mount", "-t", "tmpfs", "x", str(where))
            seen |= reread(collector, of).keys()
            box.run("umount", str(where))
        assert len(seen) == had + 2
        collector.forget(of)
        assert not collector._watched


@pytest.mark.real
def test_ten_thousand_mounts_cost_little_after_the_first_look(box: Mounts, place: Path) -> None:
    where = place / "m"
    where.mkdir()
    box.run("mount", "-t", "tmpfs", "x", str(where))
    box.run("mount", "--make-rprivate", "/")
    # Each bind of the whole tree doubles it.
    box.run("mkdir", f"{where}/a", f"{where}/b")
    while len(box.read("mountinfo")) < 2 * filesystem._MOUNTINFO_BYTES:
        box.run("mount", "--rbind", str(where), f"{where}/a")
        box.run("mount", "--rbind", f"{where}/a", f"{where}/b")
    assert box.read("mountinfo").count(b"\n") > 10_000
    collector = patient()
    with target(box) as of:
        with recording() as read:
            for _ in range(filesystem._REREAD_CYCLES):
                cycle(collector, of)
        assert not [path for path, _ in read if path.endswith(f"{box.pid}/mountinfo")]
        reason = collector.absent(BYTES_PERCENT, of) or ""
        assert f"larger than {filesystem._MOUNTINFO_BYTES} bytes" in reason


@pytest.mark.real
def test_a_server_that_hangs_costs_its_own_value_only(box: Mounts, disk: str, place: Path) -> None:
    where = str(place / "fuse")
    with fuse(box, where) as server, target(box, "a") as one, target(box, "b") as two:
        values = cycle(patient(fuse=True), one, two)[where]
        assert values["bytes.total"] == 1000 * 4096
        assert values["bytes.used"] == 600 * 4096
        assert values["bytes.free"] == 300 * 4096
        assert values["bytes.used.percent"] == round(600 / 900 * 100, 3)
        assert (values["inodes.used"], values["inodes.used.percent"]) == (30, 60.0)
        server.hang()
        asked = server.asked
        collector = FilesystemCollector(limit=3.0, fuse=True)
        for _ in range(3):
            found = cycle(collector, one, two)
            assert where not in found
            assert sorted(found[disk]) == sorted(ALL)
        eventually(lambda: server.asked == asked + 1, "it was asked once, for both containers and all cycles")
        assert collector._calls.hung() == 1
        assert reasons(collector, two)[where] == "an earlier call to it still hangs"
        assert reasons(collector, one)[where] == "an earlier call to it still hangs"
        server.go_on()
        eventually(lambda: not collector._calls.hung(), "its answer came")
        eventually(lambda: cycle(collector, one, two).get(where) == values, "it is asked again")


@pytest.mark.real
def test_fuse_is_left_out_with_what_is_below_it_unless_asked_for(box: Mounts, disk: str, place: Path) -> None:
    where = str(place / "fuse")
    with fuse(box, where) as server, target(box) as of:
        server.hang()
        collector = patient()
        found = cycle(collector, of)
        assert where not in found
        assert sorted(found[disk]) == sorted(ALL)
        assert reasons(collector, of)[where].startswith("FUSE is left out")
        assert not server.asked
        assert not collector._calls.hung()


def test_what_is_behind_fuse() -> None:
    found = [
        mount("/", number=1),
        mount("/a", "fuse.sshfs", number=2),
        mount("/a/b", number=3),
        mount("/ab", number=4),
        mount("/c", "fuseblk", number=5),
        mount("/d", "fuse", number=6),
        mount("/d", number=7),
        mount("/d/e", number=8),
        mount("/f", "fusectl", number=9),
    ]
    assert behind_fuse(found) == {2, 3, 5, 6}
    assert behind_fuse([mount("/", "fuse.fuse-overlayfs", number=1), mount("/v", number=2)]) == {1, 2}


@pytest.mark.real
def test_a_server_that_lies_is_not_believed(box: Mounts, place: Path) -> None:
    where = str(place / "fuse")
    with fuse(box, where) as server, target(box) as of:
        for lie in ((10, 11, 5, 4, 5), (10, 5, 11, 0, 0), (1 << 60, 1, 1, 1 << 63, 0), (0, 0, 0, 0, 0)):
            server.statfs = lie
            collector = patient(fuse=True)
            assert where not in cycle(collector, of), lie
            assert where in reasons(collector, of)
        server.statfs = (10, 5, 5, 0, 0)
        assert sorted(cycle(collector, of)[where]) == sorted(name for name in ALL if "bytes" in name)
        assert reasons(collector, of)[where] == "it does not count inodes"
        server.statfs = (10, 0, 0, 7, 7)
        assert cycle(collector, of)[where]["bytes.used.percent"] == 100.0
        assert cycle(collector, of)[where]["inodes.used.percent"] == 0.0


@pytest.mark.real
def test_without_the_privilege_the_reason_is_named(box: Mounts, disk: str) -> None:
    def ask() -> str:
        collector = patient()
        with target(box) as of:
            assert not cycle(collector, of)
            return str(collector.absent(BYTES_PERCENT, of))

    answer = in_child(ask, before=become_nobody)
    assert answer.endswith("/root: Permission denied; the agent needs CAP_SYS_PTRACE")
    assert len(answer) < 100  # said once, not for every mount


@pytest.mark.real
def test_a_container_that_ended_is_gone_and_nothing_of_it_is_held(box: Mounts, disk: str) -> None:
    collector = patient()
    with target(box) as of:
        cycle(collector, of)
        before = open_descriptors()
        cycle(collector, of)
        assert open_descriptors() <= before
        box.run("umount", disk)  # nothing holds it
        box.run("mount", "-t", "tmpfs", "x", disk)  # what the fixture unmounts
        last = Mounts()
        last.run("mount", "-t", "tmpfs", "x", disk)
        with target(last, "d") as ending:
            cycle(collector, of, ending)
            last.end()
            collector.begin([of, ending])
            with pytest.raises(GoneError):
                list(collector.collect(ending))
            assert disk in {dict(tags)["mount"] for _, _, tags in collector.collect(of)}


def test_mounts_of_another_form_are_an_error(place: Path) -> None:
    (place / "7").mkdir()
    (place / "7" / "mountinfo").write_text("garbage\n")
    known = Container(id="c", name="c", runtime="test", pid=7, starttime=1, cgroup=CgroupPaths({}, "/"))
    of = Target(known, Process(str(place), 7), cast("Any", None))
    collector = FilesystemCollector()
    with pytest.raises(ParseError):
        cycle(collector, of)
    (place / "7" / "mountinfo").write_text("1 0 0:5 / /proc rw - proc proc rw\n")
    for _ in range(filesystem._MOUNTINFO_BYTES // filesystem._BYTES_PER_CYCLE):
        collector.begin([of])
    assert not list(collector.collect(of))
    assert (
        collector.absent(BYTES_PERCENT, of) == "no mount of it is a file system that holds files of its own"
    )
    of.process.close()


@pytest.mark.real
def test_explain_is_told_what_the_kernel_said(box: Mounts, disk: str) -> None:
    collector = patient()
    with target(box) as of:
        collector.begin([of])
        with recording() as noted:
            list(collector.collect(of))
        answer = os.statvfs(f"/proc/{box.pid}/root{disk}")
    text = dict(noted)[f"statvfs of /proc/{box.pid}/root{disk}"].decode()
    assert text.splitlines()[0] == f"f_blocks {answer.f_blocks}"
    assert len(text.splitlines()) == 6


def test_it_is_a_collector_of_containers() -> None:
    collector = FilesystemCollector()
    assert (collector.name, collector.scope) == ("filesystem", "container")
    collector.begin([])
    assert not list(collector.collect(None))
    for metric in collector.metrics:
        assert metric.tags == ("mount", "fstype")
        assert "CAP_SYS_PTRACE" in metric.needs


@pytest.mark.real
def test_docker_containers_against_df_inside(docker_engine: Engine, place: Path) -> None:
    engine = docker_engine
    with ExitStack() as stack:
        image = place / "disk"
        run("truncate", "-s", "8M", str(image))
        run("mkfs.ext4", "-q", str(image))
        disk = place / "disk.d"
        disk.mkdir()
        run("mount", "-o", "loop", str(image), str(disk))
        stack.callback(partial(run, "umount", "--lazy", str(disk)))
        container = stack.enter_context(
            engine.container(
                "-v", f"{disk}:/full", "-v", "vol:/data", "-v", "vol:/data2", "--tmpfs", "/t:size=1m"
            )
        )
        engine.exec(container, "sh", "-c", "cat /dev/zero > /full/zeros; echo x > /t/x; true")
        pid = engine.pid(container)
        of = stack.enter_context(target(cast("Mounts", _Inside(engine, container, pid))))
        collector = patient()
        collector.begin([of])
        kinds = {dict(tags)["mount"]: dict(tags)["fstype"] for _, _, tags in collector.collect(of)}
        assert kinds == {"/": "overlay", "/full": "ext4", "/t": "tmpfs", "/data": "ext4"}

        def told(where: str) -> tuple[list[int], list[int]]:
            return df(engine.exec(container, "df", "-P", where)), df(
                engine.exec(container, "df", "-i", where)
            )

        def measured(where: str) -> dict[str, float]:
            return cycle(collector, of)[where]

        # What was written to a disk takes a little more of it when the kernel gets to it.
        for where in ("/full", "/t"):
            (space, inodes), values = at_rest(partial(told, where), partial(measured, where))
            assert round(values["bytes.used.percent"]) == space[3]
            assert [values[f"bytes.{name}"] / 1024 for name in ("total", "used", "free")] == space[:3]
            assert [values[f"inodes.{name}"] for name in ("total", "used", "free")] == inodes[:3]

        def nearly_same(where: str) -> bool:
            values, (space, _) = measured(where), told(where)
            assert values["bytes.total"] == space[0] * 1024
            return [values["bytes.used"], values["bytes.free"]] == pytest.approx(
                [space[1] * 1024, space[2] * 1024], rel=0.05
            )

        # The machine's own disk, below / and /data, is written to by others meanwhile.
        for where in ("/", "/data"):
            eventually(partial(nearly_same, where), f"{told(where)} of {where}, and not {measured(where)}")
        on_host, values = at_rest(partial(os.statvfs, disk), partial(measured, "/full"))
        assert values["bytes.used"] == (on_host.f_blocks - on_host.f_bfree) * on_host.f_frsize
        assert values["bytes.free"] == on_host.f_bavail * on_host.f_frsize


class _Inside:
    """A container of the engine, as `target` wants it."""

    def __init__(self, engine: Engine, container: str, pid: int) -> None:
        self.pid = pid
        self.inode = os.stat(f"/proc/{pid}/ns/net").st_ino
