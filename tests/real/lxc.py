"""Real LXC containers (lxc-start) of a busybox root, with a directory of their own."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.real.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAMS = ("lxc-start", "lxc-stop", "lxc-info", "busybox", "ip", "nsenter")
_COMMAND_SECONDS = 60.0
_CGROUP_ROOT = Path("/sys/fs/cgroup")

_CONFIG = """\
lxc.rootfs.path = dir:{rootfs}
lxc.uts.name = {hostname}
lxc.init.cmd = /bin/busybox sleep 86400
lxc.apparmor.profile = unconfined
lxc.mount.auto = proc:mixed
{network}
"""

NO_NETWORK = "lxc.net.0.type = empty"


class Lxc:
    """Containers below one `lxcpath`; names are made unique, since LXC's cgroups have no other part.

    Attributes:
        path: for `-P`.
        netns: path of the network namespace that LXC runs in, where the host's sides of veth pairs are.
    """

    def __init__(self) -> None:
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if missing:
            raise EngineError(f"cannot start LXC containers: {', '.join(missing)} missing; run `make setup`")
        self.path = Path(tempfile.mkdtemp(prefix="falcon-lxc-"))
        self.netns = Path("/run/netns") / self.path.name
        self._names: list[str] = []
        _call(["ip", "netns", "add", self.netns.name])

    def create(self, name: str, network: str = NO_NETWORK) -> str:
        """Prepare a container; its unique name."""
        unique = f"{name}-{secrets.token_hex(4)}"
        rootfs = self.path / unique / "rootfs"
        for directory in ("bin", "proc", "sys", "dev", "etc", "tmp"):
            (rootfs / directory).mkdir(parents=True)
        shutil.copy2(shutil.which("busybox") or "", rootfs / "bin/busybox")
        config = _CONFIG.format(rootfs=rootfs, hostname=name, network=network)
        (self.path / unique / "config").write_text(config)
        self._names.append(unique)
        return unique

    def start(self, name: str) -> None:
        """Returns when it runs."""
        self._run("lxc-start", name)

    def stop(self, name: str) -> None:
        """Kill it; returns when it is stopped."""
        self._run("lxc-stop", name, "--kill")

    def pid(self, name: str) -> int:
        """Its first process, as LXC says."""
        return int(self._run("lxc-info", name, "--pid", "--no-humanize"))

    def addresses(self, name: str) -> list[str]:
        """What `lxc-info -i` says, which looks inside."""
        return self._run("lxc-info", name, "--ips", "--no-humanize").split()

    def close(self) -> None:
        """Stop and remove all."""
        for name in self._names:
            with contextlib.suppress(EngineError):
                self.stop(name)
        _call(["ip", "netns", "delete", self.netns.name])
        shutil.rmtree(self.path, ignore_errors=True)
        # What a start that failed leaves behind, and where lxc-stop puts itself while it removes the others.
        for pattern in ("lxc.pivot", *(f"lxc.*.{name}" for name in self._names)):
            for directory in _CGROUP_ROOT.glob(f"*/{pattern}"):
                with contextlib.suppress(OSError):
                    directory.rmdir()

    def outside(self, *argv: str) -> str:
        """What a command prints that runs on the host's side of the network."""
        return _call(["nsenter", f"--net={self.netns}", *argv])

    def _run(self, program: str, name: str, *options: str) -> str:
        return self.outside(program, "--name", name, "--lxcpath", str(self.path), *options)


def _call(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    if done.returncode != 0:
        raise EngineError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def lxc() -> Iterator[Lxc]:
    """LXC for the length of a test."""
    made = Lxc()
    try:
        yield made
    finally:
        made.close()
