"""Containers made of nothing but the kernel's parts: namespaces, a cgroup, a veth pair. No runtime knows of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs import Hierarchies

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORKLOAD = Path(__file__).with_name("workload.py")
_PORT = 8000
_WAIT_SECONDS = 30.0
_CONTROLLERS = ("cpu", "cpuacct", "memory", "cpuset", "pids")


@dataclass
class Throwaway:
    """A running container; `remove` takes away everything that `start` made.

    Attributes:
        name: last part of its cgroup's path.
        pid: its first process.
        veth: host side of its veth pair.
        address: its IPv4 address.
    """

    name: str
    pid: int
    veth: str
    address: str
    _wrapper: subprocess.Popen[bytes]
    _cgroups: list[Path] = field(default_factory=list)

    def remove(self) -> None:
        """Kill its processes and delete cgroup and interface."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        else:
            self._wrapper.kill()
        self._wrapper.communicate(timeout=_WAIT_SECONDS)
        # The kernel would remove it with the namespace, but some time later.
        subprocess.run(["ip", "link", "delete", self.veth], check=False, capture_output=True)
        for directory in self._cgroups:
            _remove_cgroup(directory)


def start(
    name: str, number: int, *, busy: float, cores: float | None = None, memory: int | None = None
) -> Throwaway:
    """Make a container that serves on port 8000 of its own address and uses `busy` of a CPU.

    Args:
        name: of its cgroup, which is all the name it has.
        number: 0 to 63, tells the addresses of several apart.
        busy: CPU cores to use, below 1.
        cores: CPU quota.
        memory: limit in bytes.
    """
    base = 4 * number
    host, address = f"169.254.77.{base + 1}", f"169.254.77.{base + 2}"
    veth = f"fdemo{os.getpid() % 10000}x{number}"
    # Whatever kills this program takes the container with it.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--uts", "--ipc"]
    command += ["--mount-proc", "--fork", "--kill-child"]
    # Loopback is down in a new network namespace. -I: a container would not have this tree's packages.
    # It waits for a line, so that all its memory is charged to the cgroup it is put into first.
    script = 'ip link set lo up && read -r _ && exec "$@"'
    inner = ["sh", "-c", script, "sh", sys.executable, "-I", str(_WORKLOAD), str(_PORT), str(busy)]
    wrapper = subprocess.Popen([*command, *inner], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    made = Throwaway(name, 0, veth, address, wrapper)
    try:
        made.pid = _first_child(wrapper)
        for directory in _make_cgroups(name, cores, memory):
            made._cgroups.append(directory)  # noqa: SLF001  its own module
            (directory / "cgroup.procs").write_text(str(made.pid))
        inside = ["nsenter", "--target", str(made.pid), "--net"]
        _run("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", str(made.pid))
        _run("ip", "address", "add", f"{host}/30", "dev", veth)
        _run("ip", "link", "set", veth, "up")
        _run(*inside, "ip", "address", "add", f"{address}/30", "dev", "eth0")
        _run(*inside, "ip", "link", "set", "eth0", "up")
        if wrapper.stdin is not None:
            wrapper.stdin.write(b"go\n")
            wrapper.stdin.flush()
    except BaseException:
        made.remove()
        raise
    return made


@contextlib.contextmanager
def running(*made: Throwaway) -> Iterator[tuple[Throwaway, ...]]:
    """Remove the containers at the end of the block, whatever happens in it."""
    try:
        yield made
    finally:
        for container in made:
            container.remove()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=_WAIT_SECONDS)


def _first_child(wrapper: subprocess.Popen[bytes]) -> int:
    """The pid, as this namespace numbers it, of the process that `unshare --fork` made."""
    children = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children")
    until = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < until:
        found = children.read_text().split()
        if found:
            return int(found[0])
        if wrapper.poll() is not None:
            said = wrapper.communicate()[1].decode(errors="replace").strip()
            raise RuntimeError(f"cannot make namespaces: {said}; root is needed")
        time.sleep(0.01)
    raise RuntimeError("cannot make namespaces: unshare did not fork in time")


def _make_cgroups(name: str, cores: float | None, memory: int | None) -> Iterator[Path]:
    """The container's directory in every hierarchy, with its limits set."""
    hierarchies = Hierarchies.find()
    for mountpoint in dict.fromkeys(
        hierarchies.v1[one].mountpoint for one in _CONTROLLERS if one in hierarchies.v1
    ):
        directory = _cgroup(Path(mountpoint), name)
        if (directory / "cpuset.cpus").exists():
            # A v1 cpuset takes no process before it has CPUs and memory nodes.
            for level in (directory.parent, directory):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (level / file).write_text((level.parent / file).read_text())
        _limit(directory / "cpu.cfs_quota_us", str(int(cores * 100000)) if cores else None)
        _limit(directory / "memory.limit_in_bytes", str(memory) if memory else None)
        yield directory
    if hierarchies.v2 is not None:
        directory = _cgroup(Path(hierarchies.v2.mountpoint), name)
        _limit(directory / "cpu.max", f"{int(cores * 100000)} 100000" if cores else None)
        _limit(directory / "memory.max", str(memory) if memory else None)
        yield directory


def _cgroup(mountpoint: Path, name: str) -> Path:
    parent = mountpoint / f"falcon-demo-{os.getpid()}"
    parent.mkdir(exist_ok=True)
    for level in (mountpoint, parent):
        control = level / "cgroup.subtree_control"
        if control.exists():
            there = (level / "cgroup.controllers").read_text().split()
            control.write_text(" ".join(f"+{one}" for one in _CONTROLLERS if one in there))
    directory = parent / name
    directory.mkdir()
    return directory


def _limit(file: Path, value: str | None) -> None:
    if value is not None and file.exists():
        file.write_text(value)


def _remove_cgroup(directory: Path) -> None:
    """Delete the cgroup and, after the last one, its parent; the kernel takes a moment to let the dead go."""
    until = time.monotonic() + _WAIT_SECONDS
    while directory.exists() and time.monotonic() < until:
        try:
            directory.rmdir()
        except OSError:
            time.sleep(0.02)
    with contextlib.suppress(OSError):
        directory.parent.rmdir()
