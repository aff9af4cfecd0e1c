"""A Debian 12 with systemd, Docker and rpm to boot and to install into, made once for each form of this file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_CACHE = REPOSITORY / ".guest"
_RELEASE = "bookworm"
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "python3", "rpm"),
    *("docker.io", "iptables", "iproute2", "busybox-static"),
)
_MASKED = (
    *("containerd.service", "docker.service", "docker.socket", "console-getty.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "fstrim.timer", "systemd-tmpfiles-clean.timer", "rpm.timer"),
)
"""What takes time at every boot. Docker is started by the tests that want it."""


def tree() -> Path:
    """The directory; nobody may change it. Whoever comes first makes it, in one to two minutes."""
    made = _CACHE / f"tree-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}"
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / "lock-of-trees").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            for left in (*_CACHE.glob("tree-*"), *_CACHE.glob("growing-*")):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix="growing-", dir=_CACHE) as aside:
                _grow(Path(aside) / "tree")
                (Path(aside) / "tree").rename(made)
    return made


def _grow(root: Path) -> None:
    downloads = _CACHE / "tree-downloads"
    downloads.mkdir(exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--cache-dir={downloads}"]
    command += [f"--include={','.join(_PACKAGES)}", _RELEASE, str(root), _mirror()]
    _run(*command)
    units = root / "etc/systemd/system"
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        if unit.startswith(("docker", "containerd")):
            for wants in units.glob(f"*.wants/{unit}"):
                wants.unlink()
        else:
            (units / unit).symlink_to("/dev/null")
    (root / "etc/hostname").write_text("booted\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost booted\n::1 localhost\n")
    shutil.rmtree(downloads)


def _mirror() -> str:
    """The archive from which apt on this machine installs the release."""
    told = _run(
        "apt-get",
        *("indextargets", "--format", "$(REPO_URI)"),
        *("Created-By: Packages", f"Codename: {_RELEASE}", "Component: main"),
    ).split()
    assert told, (
        f"cannot make the tree: apt on this machine has no source for Debian {_RELEASE} main; add one"
    )
    return told[0]


def _run(*command: str) -> str:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
    assert done.returncode == 0, f"cannot make the tree: {' '.join(command[:2])} failed:\n{tail}"
    return done.stdout
