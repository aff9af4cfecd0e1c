"""A machine to install into: the tree, booted with systemd as its first process, gone afterwards as if never there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.packaging.tree import tree
from tests.real.engine import removed, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_CGROUPS = Path("/sys/fs/cgroup")
_BOOT_SECONDS = 180.0
_SCRIPT = """\
for procs in {procs}; do echo $$ > "$procs"; done
export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
exec unshare --mount sh -c 'mount -t tmpfs none /run/systemd; exec systemd-nspawn --quiet \\
  --directory={root} --machine={name} --register=no --keep-unit --private-network --volatile=overlay \\
  --capability=all --system-call-filter="@keyring bpf" --bind={shared}:/shared --bind={docker}:/var/lib/docker --boot'
"""
"""KILL to nspawn itself would leave what runs in it."""

_RECEIVER = """\
[Service]
ExecStart=/usr/bin/falcon-agent receive --json --min-step 1
StandardOutput=append:/shared/received
"""
_BOX = """\
# A container of bare namespaces whose processes are another user's; it listens on one port.
unshare --net --pid --uts --ipc --mount-proc --fork sh -c '
  read -r _; ip link set lo up
  exec setpriv --reuid 65534 --regid 65534 --clear-groups busybox nc -ll -p 9000 -e cat' < /shared/go &
sleep 0.01
exec 3> /shared/go
until pid=$(cat /proc/$!/task/$!/children) && test -n "$pid"; do sleep 0.01; done
for procs in /sys/fs/cgroup/*/cgroup.procs; do
  box=${procs%/*}/box; mkdir -p $box
  case $box in */cpuset/box)
    cat ${box%/*}/cpuset.cpus > $box/cpuset.cpus; cat ${box%/*}/cpuset.mems > $box/cpuset.mems;;
  esac
  echo $pid > $box/cgroup.procs
done
echo go >&3
wait
"""


class Booted:
    """The running machine.

    Attributes:
        shared: what it sees as /shared.
    """

    def __init__(self) -> None:
        self._name = f"falcon-{secrets.token_hex(4)}"
        self._directory = Path(tempfile.mkdtemp(prefix="falcon-booted-"))
        self.shared = self._directory / "shared"
        self._docker = self._directory / "docker"
        self._leader = 0
        # In each hierarchy: what runs inside then sees no cgroup but its own and those below.
        self._cgroups = [one.parent / self._name for one in _CGROUPS.glob("*/cgroup.procs")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it has come up."""
        root = tree()
        self.shared.mkdir()
        self._docker.mkdir()
        os.mkfifo(self.shared / "go")
        for directory in self._cgroups:
            directory.mkdir()
            # A v1 cpuset takes no process before it has CPUs and memory nodes.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (directory.parent / "cpuset.mems").exists():
                    (directory / file).write_text((directory.parent / file).read_text())
        procs = " ".join(f"{directory}/cgroup.procs" for directory in self._cgroups)
        script = _SCRIPT.format(
            procs=procs, root=root, name=self._name, shared=self.shared, docker=self._docker
        )
        os.makedirs("/run/systemd", exist_ok=True)
        console = (self._directory / "console").open("wb")
        self._process = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=console, stderr=console
        )
        console.close()
        wait_until(self._is_up, "the machine has come up", _BOOT_SECONDS)
        self.run("systemctl", "is-system-running", "--wait")
        for directory in self._cgroups:
            self.run("mount", "-o", "remount,bind,rw", f"/sys/fs/cgroup/{directory.parent.name}")

    def _is_up(self) -> bool:
        console = (self._directory / "console").read_text(errors="replace")
        assert self._process is not None
        assert self._process.poll() is None, f"the machine ended at once\n{console}"
        if not self._leader:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
            for pid in children.split():
                with contextlib.suppress(OSError):  # the one that mounts has ended
                    if os.stat(f"/proc/{pid}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino:
                        self._leader = int(pid)
        return bool(self._leader) and self.try_run("test", "-S", "/run/systemd/private").returncode == 0

    def stop(self) -> None:
        """End it, and remove all of it."""
        if self._process is not None:
            # The end of its first process is the end of all of them; nspawn then clears up.
            if self._leader:
                os.kill(self._leader, signal.SIGKILL)
            else:
                self._process.terminate()
            self._process.wait(timeout=120.0)
        for directory in self._cgroups:
            for inner in sorted(directory.rglob("*/"), reverse=True):
                wait_until(partial(removed, inner), f"{inner} is removed")
            wait_until(partial(removed, directory), f"{directory} is removed")
        shutil.rmtree(self._directory, ignore_errors=True)

    def try_run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program as root, however it ends."""
        inside = [
            "nsenter",
            "--target",
            str(self._leader),
            "--all",
            "--root",
            "--wd",
            "env",
            "--ignore-environment",
        ]
        inside += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"]
        return subprocess.run(
            [*inside, *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    def run(self, *command: str) -> str:
        """Run a program as root to a good end, and return what it printed."""
        done = self.try_run(*command)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def sh(self, script: str) -> str:
        """The same with a shell's commands."""
        return self.run("sh", "-ec", script)

    def give(self, path: Path) -> str:
        """Put a file into the machine; returns where."""
        shutil.copy2(path, self.shared)
        return f"/shared/{path.name}"

    def show(self, name: str, unit: str = "falcon-agent") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def journal(self) -> str:
        """What the agent and systemd said about its unit."""
        return self.run("journalctl", "--unit", "falcon-agent", "--no-pager", "--output", "cat")

    def status(self) -> dict[str, str]:
        """/proc/PID/status of the agent's main process."""
        lines = self.run("cat", f"/proc/{self.show('MainPID')}/status").splitlines()
        return {key: " ".join(rest.split()) for key, _, rest in (line.partition(":") for line in lines)}

    # What the agent is to work with

    def start_receiver(self) -> None:
        """A transfer on 127.0.0.1:6060, the agent's default; `records` is what it got."""
        self._file("/run/systemd/system/receiver.service", _RECEIVER)
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "start", "receiver")

    def hold_receiver(self) -> None:
        """It takes connections and answers nobody."""
        self.run("systemctl", "kill", "--signal=STOP", "receiver")

    def release_receiver(self) -> None:
        """It goes on."""
        self.run("systemctl", "kill", "--signal=CONT", "receiver")

    def start_box(self) -> None:
        """A container that no runtime knows, called `box`, of another user."""
        self._file("/shared/box.sh", _BOX)
        self.run(
            "systemd-run",
            "--quiet",
            "--unit=box-maker",
            "--property=KillSignal=SIGKILL",
            "sh",
            "/shared/box.sh",
        )

    def set_step(self, seconds: int) -> None:
        """Edit the configuration as a person would."""
        self.run("sed", "-i", f"s/^#step = 60/step = {seconds}/", "/etc/falcon-agent/agent.toml")

    def records(self) -> list[dict[str, Any]]:
        """Every item that the receiver got so far."""
        # The last line may be written just now.
        lines = (self.shared / "received").read_text().rpartition("\n")[0].splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return [one["item"] for one in said if "item" in one]

    def forget_records(self) -> None:
        """From now on `records` are the new ones."""
        os.truncate(self.shared / "received", 0)

    def _file(self, path: str, text: str) -> None:
        (self.shared / "new").write_text(text)
        self.run("cp", "/shared/new", path)


@contextlib.contextmanager
def booted() -> Iterator[Booted]:
    """A running machine for the length of the block."""
    made = Booted()
    try:
        made.start()
        yield made
    finally:
        made.stop()
