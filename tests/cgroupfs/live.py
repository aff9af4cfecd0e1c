"""Real cgroups and real processes in them, always removed again."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs import Cgroup, Hierarchies, parse_cgroup_paths
from tests.real.engine import removed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from falcon_agent.container import CgroupPaths

ROOT = Path("/sys/fs/cgroup")
V2 = (ROOT / "cgroup.controllers").exists()
# Not every kernel has cpuset.
CONTROLLERS = tuple(one for one in ("cpu", "cpuacct", "cpuset", "memory") if V2 or (ROOT / one).exists())

BUSY = "while True: sum(range(1000))"
HOLD = "import signal; held = bytearray(b'a' * {size}); print('ready', flush=True); signal.pause()"


class LiveCgroup:
    """A cgroup `NAME-XXXX/inner` in every hierarchy: the outer plays the pod, the inner the container.

    Attributes:
        name: made unique, since another run of the tests may be under way or have left its own behind.
    """

    def __init__(self, name: str) -> None:
        self.name = f"{name}-{secrets.token_hex(4)}"
        # Controllers that are mounted together are links to one directory: once each, in order.
        mounted = [ROOT] if V2 else [(ROOT / controller).resolve() for controller in CONTROLLERS]
        if (ROOT / "unified").exists():
            mounted.append(ROOT / "unified")
        self.tops = [top / self.name for top in dict.fromkeys(mounted)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self._opened: list[Cgroup] = []

    def __enter__(self) -> Self:
        for top in self.tops:
            (top / "inner").mkdir(parents=True)
        if V2:
            has = set((ROOT / "cgroup.controllers").read_text().split())
            wanted = " ".join(f"+{controller}" for controller in CONTROLLERS if controller in has)
            for directory in (ROOT, self.tops[0]):
                (directory / "cgroup.subtree_control").write_text(wanted)
        elif "cpuset" in CONTROLLERS:
            for directory in (self._top("cpuset"), self._top("cpuset") / "inner"):
                for name in ("cpuset.mems", "cpuset.cpus"):
                    (directory / name).write_text((ROOT / "cpuset" / name).read_text())
        return self

    def __exit__(self, *exc: object) -> None:
        for cgroup in self._opened:
            cgroup.close()
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self.remove()

    def remove(self) -> None:
        for top in self.tops:
            for directory in (top / "inner", top):
                remove(directory)

    def limit(self, *, where: str = "inner", cores: float | None = None, memory: int | None = None) -> None:
        """Set a quota or a limit on the `inner` or (with an empty `where`) the outer cgroup."""
        if cores is not None and V2:
            (self.tops[0] / where / "cpu.max").write_text(f"{round(cores * 100_000)} 100000")
        elif cores is not None:
            (self._top("cpu") / where / "cpu.cfs_period_us").write_text("100000")
            (self._top("cpu") / where / "cpu.cfs_quota_us").write_text(str(round(cores * 100_000)))
        if memory is not None:
            name = "memory.max" if V2 else "memory.limit_in_bytes"
            (self._top("memory") / where / name).write_text(str(memory))

    def file(self, controller: str, name: str) -> str:
        """The text of a control file of the inner cgroup."""
        return (self._top(controller) / "inner" / name).read_text()

    def start(self, code: str) -> subprocess.Popen[bytes]:
        """Run a Python program in the inner cgroup; returns when it is there."""
        process = self.spawn(code)
        wait_until(lambda: self.paths(process.pid) is not None, "the process to be in the cgroup")
        return process

    def spawn(self, code: str) -> subprocess.Popen[bytes]:
        """Run a Python program that puts itself into the inner cgroup, where it may end at once."""
        entries = [str(top / "inner" / "cgroup.procs") for top in self.tops]
        join = f"import os\nfor entry in {entries!r}: open(entry, 'w').write('0')\n"
        # `open(...).write` leaves closing to the interpreter; a child with -W ignore does not mind.
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", join + code],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def paths(self, pid: int) -> CgroupPaths | None:
        """Where the process is, or None while it is not in the inner cgroup of every hierarchy."""
        paths = parse_cgroup_paths(Path(f"/proc/{pid}/cgroup").read_bytes())
        where = {paths.path(controller) for controller in CONTROLLERS}
        if V2 or (ROOT / "unified").exists():
            where.add(paths.v2)  # the last one it joins
        return paths if where == {f"/{self.name}/inner"} else None

    def open(self, pid: int) -> Cgroup:
        paths = self.paths(pid)
        if paths is None:
            raise AssertionError("the process is not in the cgroup")
        cgroup = Cgroup(Hierarchies.find(), paths)
        self._opened.append(cgroup)
        return cgroup

    def _top(self, controller: str) -> Path:
        return self.tops[0] if V2 else (ROOT / controller).resolve() / self.tops[0].name


def remove(directory: Path) -> None:
    """Remove a cgroup, as soon as its last process has left."""
    wait_until(lambda: removed(directory), f"{directory} to be empty")


def halt(pid: int) -> int:
    """Stop the process, and return its CPU time so far in nanoseconds; it stays put until `resume`."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _state(pid) == "T", "the process to stop")
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def resume(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.01)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
