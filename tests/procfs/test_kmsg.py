"""Records as Linux 6.18 (v1) and 6.1 (v2) gave them; those of kernels before 5.0 are written after their source."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falcon_agent.errors import DeniedError, GoneError
from falcon_agent.procfs.kmsg import PATH, KernelLog, Kill, Kills, numbers_like
from tests.cgroupfs.live import HOLD, LiveCgroup
from tests.namespaces.lab import descriptors, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "2e8680e6667bd8e462ad8dbc71d46a3fe23e9e0085cda69ba85049137cf35702"
V1_PATH = f"/falcon-7e8406a4/docker/{ID}"
V2_PATH = f"/system.slice/docker-{ID}.scope"
V1 = f"""\
6,2160,12638524748,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={ID},mems_allowed=0,\
oom_memcg={V1_PATH},task_memcg={V1_PATH},task=awk,pid=21201,uid=0
3,2161,12638524765,-;Memory cgroup out of memory: Killed process 21201 (awk) total-vm:25568kB, anon-rss:15868kB, \
file-rss:1520kB, shmem-rss:0kB, UID:0 pgtables:76kB oom_score_adj:0"""
V2 = f"""\
4,115,26330000,-;awk invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
6,157,26330000,-;anon 16535552\\x0afile 0\\x0akernel 241664
6,161,26330000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),\
oom_memcg={V2_PATH},task_memcg={V2_PATH},task=awk,pid=1629,uid=0
3,162,26330000,-;Memory cgroup out of memory: Killed process 1629 (awk) total-vm:25540kB"""
WHOLE_HOST = """\
6,1,1,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,\
task_memcg=/a/b,task=java,pid=12,uid=5
3,2,1,-;Out of memory: Killed process 12 (java) total-vm:1kB"""


def victim(oom: str, task: str, comm: str = "awk", pid: int = 7, *, cpuset: str = "c") -> str:
    return (
        f"6,1,1000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=0-1,3,cpuset={cpuset},mems_allowed=0,"
        f"oom_memcg={oom},task_memcg={task},task={comm},pid={pid},uid=0"
    )


def killed(pid: int = 7, comm: str = "awk", at: int = 1000) -> str:
    return f"3,2,{at},-;Memory cgroup out of memory: Killed process {pid} ({comm}) total-vm:1kB"


def told(*records: str) -> list[Kill]:
    kills = Kills()
    found = (kills.told(f"{record}\n SUBSYSTEM=x\n".encode()) for record in records)
    return [kill for kill in found if kill is not None]


@pytest.mark.parametrize(
    ("log", "kill"), [(V1, Kill(21201, V1_PATH)), (V2, Kill(1629, V2_PATH))], ids=["v1", "v2"]
)
def test_captured(log: str, kill: Kill) -> None:
    records = log.splitlines()
    assert told(*records) == [kill]
    assert told(*records, *records) == [kill, kill]


def test_a_limit_above() -> None:
    assert told(victim("/pod", "/pod/c"), killed()) == [Kill(7, "/pod/c")]
    assert told(victim("/", "/c"), killed()) == [Kill(7, "/c")]


def test_the_whole_host_is_short_of_memory() -> None:
    assert told(*WHOLE_HOST.splitlines()) == [Kill(12, "/a/b")]


def test_the_kernel_does_not_always_say_where() -> None:
    """Of ten kills in five seconds it does; what it said of another process is not it."""
    assert told(killed(8)) == [Kill(8, None)]
    assert told(victim("/c", "/c"), killed(7), killed(8)) == [Kill(7, "/c"), Kill(8, None)]


def test_a_group_that_is_killed_together() -> None:
    group = "6,3,1000,-;Tasks in /c are going to be killed due to memory.oom.group set"
    together = [killed(8), killed(9, at=2000)]
    assert told(victim("/c", "/c/x"), killed(), group, *together) == [
        Kill(7, "/c/x"),
        Kill(8, "/c"),
        Kill(9, "/c"),
    ]
    assert told(group, killed(8, at=200_000)) == [Kill(8, None)], "long after"
    assert told(group, victim("/d", "/d"), killed(), killed(8)) == [Kill(7, "/d"), Kill(8, None)]


def test_kernels_before_5_0() -> None:
    records = (
        "6,1,1,-;Task in /docker/c/x killed as a result of limit of /docker/c",
        "3,2,1,-;Memory cgroup out of memory: Kill process 29868 (stress) score 1040 or sacrifice child",
        "3,3,1,-;Killed process 29868 (stress) total-vm:138364kB, anon-rss:101316kB, file-rss:232kB",
    )
    assert told(*records) == [Kill(29868, "/docker/c/x")]
    assert told(*records, "3,4,1,-;Killed process 5 (x), UID 0, total-vm:1kB") == [
        Kill(29868, "/docker/c/x"),
        Kill(5, None),
    ]


def test_a_line_that_was_interrupted() -> None:
    whole = victim("/c", "/c")
    at = whole.index(",oom_memcg")
    between = "4,9,1,-;docker0: port 1(veth) entered disabled state"
    assert told(whole[:at], between, f"6,9,1,c;{whole[at:]}", killed()) == [Kill(7, "/c")]
    assert told(whole[:at], killed()) == [Kill(7, None)]


def test_names_that_the_kernel_escapes() -> None:
    """systemd writes `-` in a name as `\\x2d`, and the log a backslash as `\\x5c`."""
    path = "/machine.slice/machine-a\\x5cx2db.scope"
    assert told(victim(path, path), killed()) == [Kill(7, "/machine.slice/machine-a\\x2db.scope")]


@pytest.mark.parametrize("comm", [",pid=1,uid=0", "task_memcg=/b", "a\\x0ab", "\\x5cx2d\\xff", "a) (b"])
def test_commands_with_any_name(comm: str) -> None:
    assert told(victim("/a", "/a", comm), killed(7, comm)) == [Kill(7, "/a")]


@pytest.mark.parametrize(
    "name",
    [
        "x,task_memcg=/b",
        "x,task_memcg=/b/y",
        "x,oom_memcg=/b,task_memcg=/b",
        "x,oom_memcg=/b,task_memcg=/b,task=c,pid=7,uid=0",
        "x,global_oom,task_memcg=/b/y,task=c,pid=7,uid=0",
    ],
)
@pytest.mark.parametrize("limit", ["a", ""])
def test_cgroups_with_any_name(name: str, limit: str) -> None:
    """A container that may make cgroups below its own cannot say that a process of another one was killed."""
    inner = f"/a/{name}"
    for cpuset in ("c", name.replace("/", "")):
        found = told(victim(f"/{limit}" if limit else inner, inner, cpuset=cpuset), killed())
        assert [kill.pid for kill in found] == [7]
        assert found[0].cgroup is None or found[0].cgroup.startswith("/a/")


@pytest.mark.parametrize(
    "record",
    [
        "12,1,1,-;Killed process 7 (a) total-vm:1kB",  # facility 1: a program wrote it
        "3,1,1,-;x Killed process 7 (a) total-vm:1kB",
        "3,1,1,-;Killed process 1[23]: segfault at 0",
        "3,1,1,-;oom_reaper: reaped process 1629 (awk), now anon-rss:0kB",
        "3,1,-;Killed process 7 (a) total-vm:1kB",
        "x,1,1,-;Killed process 7 (a) total-vm:1kB",
        "3,1,x,-;Killed process 7 (a) total-vm:1kB",
        "Killed process 7 (a) total-vm:1kB",
        "",
    ],
)
def test_what_is_no_kill(record: str) -> None:
    assert told(record) == []


# The kernel's own


@contextlib.contextmanager
def opened() -> Iterator[KernelLog]:
    log = KernelLog()
    try:
        yield log
    finally:
        log.close()


@pytest.mark.real
def test_a_process_that_the_kernel_kills() -> None:
    with LiveCgroup(f"falcon-kmsg-{secrets.token_hex(4)}") as cgroup, opened() as log, opened() as later:
        cgroup.limit(memory=8 << 20)
        process = cgroup.spawn(HOLD.format(size=64 << 20))
        process.wait()
        path = f"/{cgroup.tops[0].name}/inner"
        news: list[Kill] = []

        def heard() -> bool:
            news.extend(log.read().kills)
            return any(kill.cgroup == path for kill in news)

        eventually(heard, "the log tells")
        assert [kill for kill in news if kill.cgroup == path] == [Kill(process.pid, path)]
        assert numbers_like("/proc")
        assert Kill(process.pid, path) in later.read().kills, "each reader has a place of its own"
        assert Kill(process.pid, path) not in later.read().kills
    with opened() as new:
        assert Kill(process.pid, path) not in new.read().kills, "from now on"


@pytest.mark.real
def test_what_a_program_writes_is_no_kill() -> None:
    with opened() as log:
        number = secrets.randbelow(10**9)
        line = f"Memory cgroup out of memory: Killed process {number} (a) total-vm:1kB"
        seen = os.open(PATH, os.O_RDONLY | os.O_NONBLOCK)
        try:
            # The oldest records may be overwritten while they are read, which would be an error too.
            os.lseek(seen, 0, os.SEEK_END)
            Path(PATH).write_text(f"<3>{line}\n")
            while line.encode() not in os.read(seen, 8192):
                pass  # all there is: at its end an error says that the line is not in it
        finally:
            os.close(seen)
        assert number not in [kill.pid for kill in log.read().kills]


@pytest.mark.real
def test_without_the_privilege() -> None:
    code = "from falcon_agent.procfs.kmsg import KernelLog; print(KernelLog().read().lost)"
    argv = ["setpriv", "--bounding-set", "-syslog", "--inh-caps", "-syslog", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if Path("/proc/sys/kernel/dmesg_restrict").read_text() == "0\n":
        assert done.stdout == "False\n"
    else:
        assert f"{DeniedError.__name__}: cannot read {PATH}: Operation not permitted" in done.stderr


@pytest.mark.real
def test_without_the_device(tmp_path: Path) -> None:
    with pytest.raises(GoneError, match=r"cannot read .*/kmsg"):
        KernelLog(str(tmp_path / "kmsg"))


@pytest.mark.real
def test_nothing_stays_open() -> None:
    before = descriptors()
    for _ in range(10):
        KernelLog()
    with opened() as log:
        log.close()
    assert descriptors() <= before


@pytest.mark.real
def test_in_another_pid_namespace(tmp_path: Path) -> None:
    code = "from falcon_agent.procfs.kmsg import numbers_like; print(numbers_like('/proc'))"
    argv = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "False\n"
    assert not numbers_like(str(tmp_path))
