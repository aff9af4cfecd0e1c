"""A host as the documents mean one: Docker at its usual socket, containers, a transfer, the usual directories.

A mount namespace of its own puts all of that to the places that the documents name, without touching the machine's.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.real.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

TREE = Path(__file__).parent.parent.parent
PATIENCE = 120.0

_SETUP = """
set -e
cp -a /etc "$2/etc"
mount --bind "$2/etc" /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
ln -s "$1" /run/docker.sock
rm -rf /etc/falcon-agent
mkdir -p /etc/falcon-agent /var/lib/falcon-agent
cp -r "$3/config/." /etc/falcon-agent
# Whatever else runs on this machine is none of the documents' business.
sed -i 's/^#runtimes = .*/runtimes = ["docker"]/' /etc/falcon-agent/agent.toml
printf '127.0.0.1 localhost transfer.example.com n9e.example.com\\n' >/etc/hosts
echo ready
exec sleep infinity
"""

WORK = """
nc -ll -p 8000 -e cat &
sleep 1
for n in 1 2 3; do sleep 86400 | nc 127.0.0.1 8000 >/dev/null & done
while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1; done
"""
"""A server with three connections to itself, and some use of the CPU."""


def is_at_work(pid: int) -> bool:
    """Whether the container that does WORK, by its first process, has its three connections, both ends of each."""
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    return sum(line.split()[3] == "01" for table in tables for line in table) == 2 * 3


class Stage:
    """Runs commands on that host.

    Args:
        engine: the Docker engine; its network namespace is the host's.
        directory: for copies, and the commands' working directory.
        holder: a process in the namespaces.
    """

    def __init__(self, engine: Engine, directory: Path, holder: subprocess.Popen[str]) -> None:
        self.engine = engine
        self.directory = directory
        self._holder = holder

    def argv(self, command: str) -> list[str]:
        """The shell command, to be run there by `subprocess`."""
        place = ["nsenter", "--target", str(self._holder.pid), "--mount", "--net"]
        inside = f"cd {shlex.quote(str(self.directory))} && {command}"
        return [*place, "bash", "-o", "pipefail", "-c", inside]

    def environment(self) -> dict[str, str]:
        """As a root shell's, with the program in PATH, and no setting of the agent."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FALCON_AGENT__")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return clean | {"PATH": path, "HOME": str(self.directory), "COLUMNS": "110"}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command to its end."""
        return subprocess.run(
            self.argv(command),
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command that stays in the foreground; who started it ends it."""
        return subprocess.Popen(
            self.argv(f"exec {command}"),
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextmanager
def stage(engine: Engine, directory: Path) -> Iterator[Stage]:
    """That host, with nothing on it yet but Docker."""
    holder = subprocess.Popen(
        engine.nsenter_argv(
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", _SETUP, "sh", str(engine.socket), str(directory), str(TREE)),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if holder.stdout is None or holder.stdout.readline() != "ready\n":
            raise EngineError(f"cannot make the documents' host: {holder.communicate(timeout=10)[1]}")
        home = directory / "home"
        home.mkdir()
        yield Stage(engine, home, holder)
    finally:
        holder.kill()
        holder.communicate()
