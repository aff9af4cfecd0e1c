"""What is made once and kept: safe against an interrupted build and against two at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.guest import image, packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DIRECTORY = Path(__file__).parents[2] / ".guest"
_BUILDING = "building-"
_DOWNLOADS = "downloads"
# Who uses what is there holds the first, who makes something the second: one that waits to build must not wait
# until the other's tests are over.
_USED = "lock"
_BUILT = "lock-of-builders"


@contextlib.contextmanager
def ready(directory: Path = DIRECTORY, say: Callable[[str], object] = print) -> Iterator[tuple[Path, Path]]:
    """The image and the Python packages, made if they are missing; nobody replaces them during the block.

    Raises:
        RuntimeError: one of them could not be made.
    """
    wanted: dict[str, Callable[[Path], None]] = {
        image.name(): lambda path: image.build(path, directory / _DOWNLOADS),
        packages.name(): packages.build,
    }
    directory.mkdir(exist_ok=True)
    with _opened(directory / _USED) as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        while not all((directory / name).exists() for name in wanted):
            with _opened(directory / _BUILT) as built:
                fcntl.flock(built, fcntl.LOCK_EX)
                _build(directory, wanted, say)
                # If somebody uses what may be old, the next build clears it away.
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _clear(directory, wanted)
            # Whether that succeeded or not, for a moment nothing was held; hence the loop.
            fcntl.flock(used, fcntl.LOCK_SH)
        yield directory / image.name(), directory / packages.name()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file to lock, which is unlocked when it is closed."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield lock
    finally:
        os.close(lock)


def _build(directory: Path, wanted: dict[str, Callable[[Path], None]], say: Callable[[str], object]) -> None:
    """Make what is missing aside, and move it to its place."""
    for left in directory.glob(f"{_BUILDING}*"):
        shutil.rmtree(left)
    for name, build in wanted.items():
        if (directory / name).exists():
            continue
        say(f"guest: making {name.partition('-')[0]}, once ...")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=directory) as aside:
            build(Path(aside) / name)
            (Path(aside) / name).rename(directory / name)
        say(f"guest: made {name} in {time.monotonic() - started:.0f} s")


def _clear(directory: Path, wanted: Iterable[str]) -> None:
    """Remove what nobody wants any more."""
    for old in directory.iterdir():
        if old.name not in wanted and old.name.startswith(("image-", "packages-")):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
