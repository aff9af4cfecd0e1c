"""The Python packages that the tests need in the guest, as the lock file pins them, made once for each lock file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements-dev.lock"
_PYTHON = "3.11"  # what the guest's release has


def name() -> str:
    """What the directory of this lock file is called."""
    return f"packages-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"


def build(directory: Path) -> None:
    """Fill the directory.

    Raises:
        RuntimeError: pip failed; with the end of what it printed.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", _PYTHON]
    command += ["--target", str(directory), "--requirement", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise RuntimeError(f"cannot install the guest's Python packages: pip failed:\n{tail}")
