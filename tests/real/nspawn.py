"""A real systemd-nspawn container of a busybox root, without systemd on the host."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.real.engine import EngineError, removed, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOP_SECONDS = 120.0
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_HIERARCHIES = ("systemd", "unified")
"""Those that nspawn itself makes cgroups in where v1 is mounted; the others it leaves to the unit's settings."""

# A tmpfs hides the host's /run/systemd, so that nspawn looks for no manager; TERM lets it end the container.
_SCRIPT = """\
for procs in {procs}; do echo $$ > "$procs"; done
exec unshare --mount sh -c 'mount -t tmpfs none /run/systemd; exec systemd-nspawn \\
  --directory={root} --machine={machine} --register=no --keep-unit --private-network --as-pid2 /bin/sleep 86400'
"""


class Nspawn:
    """A running container.

    Attributes:
        unit: path of the cgroup that it runs in, as the unit `systemd-nspawn@MACHINE.service` would be.
        machine: its name.
        pid: its first process.
    """

    def __init__(self) -> None:
        for program in ("systemd-nspawn", "unshare", "busybox"):
            if shutil.which(program) is None:
                raise EngineError(f"cannot start systemd-nspawn: {program} missing; run `make setup`")
        self.machine = f"falcon-{secrets.token_hex(4)}"
        self.unit = f"/{self.machine}.slice/systemd-nspawn@{self.machine}.service"
        self.pid = 0
        self._root = Path(tempfile.mkdtemp(prefix="falcon-nspawn-"))
        self._cgroups = [_CGROUP_ROOT / hierarchy / self.unit[1:] for hierarchy in _HIERARCHIES]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when its first process runs."""
        for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "run", "root", "var", "usr/lib"):
            (self._root / name).mkdir(parents=True)
        shutil.copy2(shutil.which("busybox") or "", self._root / "bin/busybox")
        (self._root / "bin/sleep").symlink_to("busybox")
        (self._root / "usr/lib/os-release").touch()
        for directory in self._cgroups:
            directory.mkdir(parents=True)
        procs = " ".join(f"{directory}/cgroup.procs" for directory in self._cgroups)
        script = _SCRIPT.format(procs=procs, root=self._root, machine=self.machine)
        os.makedirs("/run/systemd", exist_ok=True)
        self._process = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        wait_until(self._find_first, "systemd-nspawn runs its first process")

    def stop(self) -> None:
        """End it, and remove all of it."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=_STOP_SECONDS)
        for directory in self._cgroups:
            for inner in (*directory.glob("*"), directory, directory.parent):
                if inner.is_dir():
                    wait_until(partial(removed, inner), f"{inner} is removed")
        shutil.rmtree(self._root, ignore_errors=True)

    def _find_first(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            stderr = self._process.communicate()[1].decode(errors="replace")
            raise EngineError(f"systemd-nspawn ended at once\n{stderr}")
        try:
            pids = (self._cgroups[0] / "payload/cgroup.procs").read_text().split()
        except FileNotFoundError:
            return False
        # The stub that is its first process, and `sleep`.
        if len(pids) < 2:
            return False
        self.pid = int(pids[0])
        return True


@contextlib.contextmanager
def nspawn() -> Iterator[Nspawn]:
    """A running container for the length of a test."""
    made = Nspawn()
    try:
        made.start()
        yield made
    finally:
        made.stop()
