"""The guest as a process tree of this machine: User-mode Linux, booted for one job and ended with all it made."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.guest.console import BEGIN, END, Console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REPOSITORY = Path(__file__).parents[2]
MODULES = Path("/usr/lib/uml/modules")
_MEMORY = "2048M"
_BOOT_SECONDS = 180.0
"""The tests begin after 15 s on a quiet machine."""
_SILENCE_SECONDS = 300.0
"""Every test prints a line, and none takes this long: a guest that says nothing any more hangs."""

BOOT = {
    "v2": ("systemd.unified_cgroup_hierarchy=1",),
    # systemd mounts cpu and cpuacct together, and the unified hierarchy beside them for itself.
    "v1": ("systemd.unified_cgroup_hierarchy=0",),
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a guest ended.

    Attributes:
        code: the exit code of pytest; None if the guest did not say, because it crashed or was ended.
        report: pytest's report, JUnit XML; empty if there is none.
        why: what happened, if `code` is None.
        tail: the end of the console.
        begun: whether it came as far as the tests.
    """

    code: int | None
    report: str
    why: str
    tail: str
    begun: bool = True


@contextlib.contextmanager
def laid_out(arguments: Sequence[str], packages: Path) -> Iterator[Path]:
    """The directory that a guest mounts, with the working tree as it is now; removed after the block."""
    with tempfile.TemporaryDirectory(prefix="falcon-guest-") as made:
        directory = Path(made)
        listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        for name in filter(None, listed):
            source = REPOSITORY / name
            if source.is_file():  # not if it was deleted
                target = directory / "tree" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        (directory / "arguments").write_text("".join(f"{one}\n" for one in arguments))
        modules = max(MODULES.glob("*/modules.dep")).parents[1]
        settings = {"PACKAGES": packages, "MODULES": modules, "BEGIN": f"'{BEGIN}'", "END": f"'{END}'"}
        (directory / "settings").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        yield directory


def boot(image: Path, directory: Path, layout: str, seconds: float, show: Callable[[str], object]) -> Ending:
    """Boot a guest on a copy-on-write view of the image and stay until it has ended.

    Args:
        image: the disk, not written to.
        directory: as `laid_out` made it.
        layout: a key of `BOOT`.
        seconds: after which the guest is ended.
        show: gets what the tests print, as it comes.
    """
    console = Console(show)
    written = directory / "written"
    # Where the files are that stand for the guest's memory, if it can be had: in the host's.
    memory = "/dev/shm" if os.path.ismount("/dev/shm") else tempfile.gettempdir()
    guest = subprocess.Popen(
        [
            # Whatever ends this program ends the guest; and it ends itself, with its processes, at a TERM.
            *("setpriv", "--pdeathsig", "TERM", "taskset", "--cpu-list", str(_cpu())),
            *("linux.uml", f"mem={_MEMORY}"),
            *(f"ubd0={written},{image}", "root=/dev/ubda", "rw", "con=null", "con0=null,fd:1", "con1=null"),
            *(
                "quiet",
                "loglevel=3",
                "systemd.show_status=0",
                "systemd.log_target=journal",
                "apparmor=0",
                "panic=1",
            ),
            *(*BOOT[layout], f"falcon.run={directory}"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"TMPDIR": memory},
        start_new_session=True,
    )
    try:
        why = _follow(guest, written, time.monotonic() + seconds, console)
    finally:
        # Also after its first process has ended: the group is all processes of the guest.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guest.pid, signal.SIGKILL)
        guest.wait()
        if guest.stdout is not None:
            guest.stdout.close()
    code = _text(directory / "exit-code").strip()
    return Ending(
        int(code) if code else None,
        _text(directory / "report.xml"),
        "" if code else why,
        console.tail,
        console.begun,
    )


def _cpu() -> int:
    """The CPU for all of a guest's processes: they take turns, and to wake each other on another CPU takes longer."""
    return max(os.sched_getaffinity(0))


def _follow(guest: subprocess.Popen[bytes], written: Path, until: float, console: Console) -> str:
    """Read what the guest prints until it ends or is to be ended; returns which, in words."""
    if guest.stdout is None:
        raise AssertionError("its output is a pipe")
    up_until = time.monotonic() + _BOOT_SECONDS
    while (left := until - time.monotonic()) > 0:
        patience = _SILENCE_SECONDS if console.begun else max(up_until - time.monotonic(), 0.0)
        if not select.select([guest.stdout], [], [], min(left, patience))[0]:
            if left < patience:
                break
            if console.begun:
                return f"the guest was ended because it had printed nothing for {patience:.0f} s"
            return f"the guest was ended because no test had begun after {_BOOT_SECONDS:.0f} s"
        piece = os.read(guest.stdout.fileno(), 65536)
        if not piece:
            return "the guest ended without a result"
        console.feed(piece)
        if console.begun:
            # The guest has it open; without a name nothing can leave it behind.
            written.unlink(missing_ok=True)
    return "the guest was ended because its time was over"


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
