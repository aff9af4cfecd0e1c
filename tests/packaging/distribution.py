"""What a distribution gives, told to rpm, so that the package's own requirements are really checked."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.packaging.booted import Booted

# Debian's rpm knows of no package. One that claims to be the distribution provides what is really there: programs
# that exist, Debian's systemd, and what rpm's own generator reads from the C library. The last line is written by
# hand in every distribution's glibc too.
_PROVIDED = """\
for file in /bin/sh /usr/bin/python3.11 /usr/bin/systemctl /usr/bin/systemd-sysusers; do
  test -x $file && echo $file
done
dpkg-query --showformat '${Package}\\n' --show systemd
for name in 'ld-linux*.so.*' libc.so.6 libm.so.6 libdl.so.2 libgcc_s.so.1 libpthread.so.0 librt.so.1; do
  find /usr/lib/*-linux-gnu -name "$name" | /usr/lib/rpm/elfdeps --provides
done
echo 'rtld(GNU_HASH)'
"""
_SPEC = """\
Name: distribution
Version: 12
Release: 1
Summary: What the distribution has
License: none
BuildArch: noarch
{provides}
%description
What the distribution has.
%files
"""


def distribution(machine: Booted, directory: Path) -> Path:
    """Build the package that provides what the machine has."""
    provided = dict.fromkeys(machine.run("sh", "-c", _PROVIDED).splitlines())
    spec = directory / "distribution.spec"
    spec.write_text(_SPEC.format(provides="\n".join(f"Provides: {each}" for each in provided)))
    command = [
        "rpmbuild",
        "-bb",
        "--quiet",
        "--define",
        f"_topdir {directory}",
        "--define",
        f"_rpmdir {directory}",
    ]
    done = subprocess.run([*command, str(spec)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory / "noarch/distribution-12-1.noarch.rpm"


def install(machine: Booted, package: Path, directory: Path) -> None:
    """Install the RPM with all that it requires."""
    machine.run("rpm", "-i", machine.give(distribution(machine, directory)))
    machine.run("rpm", "-i", machine.give(package))
