"""A guest that does not come up, or hangs later. Stand-ins print what a guest would: a hang cannot be had to order."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guest import __main__ as command
from tests.guest import machine
from tests.guest.console import BEGIN, Console
from tests.guest.machine import Ending

if TYPE_CHECKING:
    from collections.abc import Iterator

HUNG = Ending(None, "", "it hung", "", begun=False)
HUNG_LATER = Ending(None, "", "it hung later", "")
PASSED = Ending(0, '<testsuite tests="9" failures="0" errors="0" skipped="0"/>', "", "")


@pytest.mark.parametrize(
    ("endings", "code", "said"),
    [
        ([PASSED], 0, "guest v2: passed"),
        ([HUNG, PASSED], 0, "guest v2: the guest did not come up (it hung); once more"),
        ([HUNG, HUNG], 1, "guest v2: FAILED"),
        ([HUNG_LATER], 1, "guest v2: FAILED"),
        ([HUNG, HUNG_LATER], 1, "guest v2: FAILED"),
    ],
)
def test_a_guest_that_does_not_come_up_gets_one_more_try(
    endings: list[Ending],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = iter(endings)

    @contextlib.contextmanager
    def nothing(*args: object, **kwargs: object) -> Iterator[tuple[Path, Path]]:
        yield Path(), Path()

    for name in ("ready", "laid_out"):
        monkeypatch.setattr(command, name, nothing)
    monkeypatch.setattr(command, "boot", lambda *args: next(left))
    monkeypatch.setattr("sys.argv", ["guest", "--layout", "v2", "--", "one.py"])
    assert command.main() == code
    assert list(left) == []
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("printed", "limit", "why"),
    [
        ("booting", "_BOOT_SECONDS", "no test had begun after 0 s"),
        (f"{BEGIN}\n.", "_SILENCE_SECONDS", "had printed nothing for 0 s"),
    ],
)
def test_who_says_nothing_is_ended(
    printed: str, limit: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, limit, 0.2)
    console = Console(lambda _: None)
    with subprocess.Popen(
        ["sh", "-c", f"printf '%s' '{printed}'; exec sleep 600"], stdout=subprocess.PIPE
    ) as process:
        try:
            assert why in machine._follow(process, tmp_path / "written", float("inf"), console)
        finally:
            process.kill()
    assert console.begun == (BEGIN in printed)
