"""`python -m tests.guest`: the real tests on cgroup v2 with systemd and Docker, in a guest that is booted for them."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from tests.guest.cache import ready
from tests.guest.machine import BOOT, boot, laid_out
from tests.guest.selection import SELECTIONS
from tests.guest.verdict import Verdict, judge

if TYPE_CHECKING:
    from pathlib import Path

    from tests.guest.machine import Ending

_PROGRAMS = ("debootstrap", "mke2fs", "linux.uml", "setpriv", "taskset", "git")


def main() -> int:
    """Run the tests in each layout; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.guest", description=__doc__)
    parser.add_argument(
        "--layout", choices=BOOT, help="of the cgroups; both, one after the other, if not given"
    )
    parser.add_argument("--seconds", type=float, default=1800.0, help="after which a guest is ended")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest in place of the selection; after --")
    options = parser.parse_args()
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        why = f"{', '.join(missing)} missing" if missing else "not root"
        print(f"guest: cannot run: {why}; run `make setup` as root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, _terminated)
    try:
        verdicts = _run_all(
            [options.layout] if options.layout else list(BOOT), options.pytest, options.seconds
        )
    except RuntimeError as error:
        print(f"guest: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("guest: interrupted", file=sys.stderr)
        return 130
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _run_all(layouts: list[str], arguments: list[str], seconds: float) -> list[Verdict]:
    verdicts = []
    with ready(say=_say) as (image, packages):
        for layout in layouts:
            selection = SELECTIONS[layout]
            if not arguments:
                for left_out, reason in selection.without.items():
                    _say(f"guest {layout}: without {left_out}: {reason}")
            started = time.monotonic()
            ending = _run(image, packages, layout, arguments or selection.arguments(), seconds)
            if not ending.begun:
                # User-mode Linux hangs before init now and then, whatever it is to run; a second time is no chance.
                _say(f"guest {layout}: the guest did not come up ({ending.why}); once more")
                ending = _run(image, packages, layout, arguments or selection.arguments(), seconds)
            if ending.code is None:
                _say("")  # it stopped somewhere in a line
            verdict = judge(ending, 1 if arguments else selection.at_least)
            word = "passed" if verdict.passed else "FAILED"
            _say(f"guest {layout}: {word} in {time.monotonic() - started:.0f} s: {verdict.text}")
            verdicts.append(verdict)
    return verdicts


def _run(image: Path, packages: Path, layout: str, arguments: list[str], seconds: float) -> Ending:
    with laid_out(arguments, packages) as directory:
        return boot(image, directory, layout, seconds, _show)


def _say(text: str) -> None:
    print(text, flush=True)


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _terminated(number: int, frame: object) -> NoReturn:
    """A TERM unwinds like Ctrl-C, so that the guest ends and its files go."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
