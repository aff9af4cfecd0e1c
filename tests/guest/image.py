"""The guest's disk: Debian 12 with systemd and Docker, made once for each form of this very file, its recipe."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

_RELEASE = "bookworm"
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod"),
    *("docker.io", "tini", "iptables", "iproute2", "procps"),
    *("python3", "busybox-static"),
)
_SIZE = "4G"  # a sparse file; what the guest writes goes elsewhere

_TESTS = """\
[Unit]
Description=The tests that the host has laid out
Wants=dbus.socket
After=dbus.socket systemd-tmpfiles-setup.service
FailureAction=poweroff-force
SuccessAction=poweroff-force
[Service]
Type=oneshot
Delegate=yes
LimitNOFILE=1048576
ExecStart=/bin/sh /usr/local/sbin/run-tests
StandardOutput=tty
StandardError=tty
TTYPath=/dev/tty0
[Install]
WantedBy=default.target
"""
_RUN_TESTS = """\
directory=$(sed -n 's/.*falcon[.]run=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
mkdir -p /host && mount -t hostfs -o "$directory" none /host && exec /bin/sh /host/tree/tests/guest/start.sh
"""
# What takes time at every boot and no test needs; the tests start Docker engines of their own.
_MASKED = (
    *("docker.service", "docker.socket", "containerd.service", "getty@tty1.service"),
    *("e2scrub_reap.service", "systemd-update-utmp.service", "systemd-random-seed.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("fstrim.timer", "systemd-tmpfiles-clean.timer", "systemd-journal-flush.service"),
    *("modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service"),
    *("modprobe@efi_pstore.service", "modprobe@fuse.service", "modprobe@loop.service"),
)


def name() -> str:
    """What the image of this recipe is called."""
    return f"image-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}"


def build(image: Path, downloads: Path) -> None:
    """Make the image, in the directory it is to be in.

    Args:
        image: the file to make.
        downloads: where Debian packages are kept for the next build.

    Raises:
        RuntimeError: a program failed; with the end of what it printed.
    """
    root = image.with_name("root")
    downloads.mkdir(exist_ok=True)
    _run(
        "debootstrap",
        *("--variant=minbase", f"--cache-dir={downloads}", f"--include={','.join(_PACKAGES)}"),
        *(_RELEASE, str(root), _mirror()),
    )
    for program in ("iptables", "ip6tables"):
        _link(root / "etc/alternatives" / program, f"/usr/sbin/{program}-legacy")
    units = root / "etc/systemd/system"
    for unit in _MASKED:
        _link(units / unit, "/dev/null")
    (units / "tests.service").write_text(_TESTS)
    (units / "default.target.wants").mkdir(exist_ok=True)
    _link(units / "default.target.wants/tests.service", "/etc/systemd/system/tests.service")
    (root / "usr/local/sbin/run-tests").write_text(_RUN_TESTS)
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost guest\n::1 localhost\n")
    shutil.rmtree(root / "var/cache/apt")
    shutil.rmtree(root / "usr/share/doc")
    _run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(image), _SIZE)
    shutil.rmtree(root)


def _mirror() -> str:
    """The archive from which apt on this machine installs the release."""
    told = _run(
        "apt-get",
        *("indextargets", "--format", "$(REPO_URI)"),
        *("Created-By: Packages", f"Codename: {_RELEASE}", "Component: main"),
    ).split()
    if not told:
        raise RuntimeError(
            f"cannot build the guest's image: apt on this machine has no source for Debian {_RELEASE} main; add one"
        )
    return told[0]


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _run(*command: str) -> str:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise RuntimeError(f"cannot build the guest's image: {' '.join(command[:2])} failed:\n{tail}")
    return done.stdout
