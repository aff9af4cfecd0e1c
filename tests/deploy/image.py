"""The container image, built without registry and network, on a base made of this machine's Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from tests.real.engine import call, make_busybox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

IMAGE = "falcon-test/agent"
REPOSITORY = Path(__file__).parents[2]

_BASE = "falcon-test/python"
_BUILD_SECONDS = 300.0
# What the agent cannot need and would make the base twenty times as large.
_LEFT_OUT = (
    "test",
    "site-packages",
    "dist-packages",
    "tkinter",
    "idlelib",
    "lib2to3",
    "config-3*",
    "__pycache__",
)


def build_image(engine: Engine, scratch: Path) -> str:
    """Build the image in the engine; its tag.

    Raises:
        EngineError: a program failed; with what it printed.
    """
    base = scratch / "base"
    _make_python(base)
    engine.import_image(base, _BASE)
    context = scratch / "context"
    context.mkdir()
    for name in ("Dockerfile", ".dockerignore", "LICENSE", "requirements.lock"):
        shutil.copy2(REPOSITORY / name, context)
    for name in ("falcon_agent", "config"):
        shutil.copytree(REPOSITORY / name, context / name)
    (context / "secret").write_text("must not get into the image")
    _download_wheels(context / "wheels")
    arguments = ("--build-arg", f"BASE={_BASE}", "--build-arg", "PIP_NO_INDEX=1")
    # BuildKit is not part of every Docker; what its predecessor can build both can.
    call(
        ["docker", "--host", engine.url, "build", "--network=none", *arguments, "--tag", IMAGE, str(context)],
        timeout=_BUILD_SECONDS,
        env=os.environ | {"DOCKER_BUILDKIT": "0"},
    )
    return IMAGE


def _download_wheels(directory: Path) -> None:
    lock = ("--require-hashes", "--only-binary=:all:", "--requirement", str(REPOSITORY / "requirements.lock"))
    quiet = ("--quiet", "--disable-pip-version-check")
    call(
        [sys.executable, "-m", "pip", "download", *quiet, *lock, "--dest", str(directory)],
        timeout=_BUILD_SECONDS,
    )


def _make_python(root: Path) -> None:
    """A root directory with busybox and this machine's Python at the place where it is here."""
    make_busybox(root)
    stdlib = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(
        stdlib, root / stdlib.relative_to("/"), ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True
    )
    program = (Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}").resolve()
    # The wheels bring none of the C library's parts (libgcc_s), which every distribution has.
    wheels_need = Path(sysconfig.get_path("purelib")).glob("*pydantic*/*.so")
    for file in {program, *_libraries(program, *stdlib.glob("lib-dynload/*.so"), *wheels_need)}:
        copy = root / file.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    # Where Debian keeps what venv installs.
    wheels = Path("/usr/share/python-wheels")
    if wheels.is_dir():
        shutil.copytree(wheels, root / wheels.relative_to("/"))
    (root / "usr/local/bin").mkdir(parents=True)
    (root / "usr/local/bin/python3").symlink_to(program)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")


def _libraries(*programs: Path) -> Iterator[Path]:
    """The shared libraries that programs and extension modules are linked to (ldd(1))."""
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True).stdout
    for line in told.splitlines():
        words = line.split()
        found = words[2] if "=>" in words else words[0]
        if found.startswith("/") and not found.endswith(":"):
            yield Path(found)
