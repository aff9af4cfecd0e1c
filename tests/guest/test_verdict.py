"""What counts as success of a guest. The endings are made up: a crash cannot be had to order."""

from __future__ import annotations

import re

import pytest

from tests.guest.machine import Ending
from tests.guest.verdict import judge


def report(tests: int, failures: int = 0, errors: int = 0, skipped: int = 0) -> str:
    counts = f'tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}"'
    return f"<testsuites><testsuite {counts}></testsuite></testsuites>"


def test_all_passed() -> None:
    verdict = judge(Ending(0, report(5), "", ""), 5)
    assert verdict.passed
    assert verdict.text == "5 tests ran, 0 failed, 0 errors, 0 skipped"


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (Ending(0, report(4), "", ""), "4 tests ran, .*; at least 5 are expected"),
        (Ending(5, report(0), "", ""), "0 tests ran, .*; at least 5 are expected"),
        (Ending(0, report(6, skipped=1), "", ""), "1 skipped"),
        (Ending(0, report(6, failures=1), "", ""), "1 failed"),
        (Ending(1, report(6), "", ""), "pytest's exit code 1"),
        (Ending(0, "", "", ""), "cannot read pytest's report"),
        (Ending(0, "<testsuite tests='x'/>", "", ""), "cannot read pytest's report"),
        (Ending(None, report(6), "the guest ended", "Kernel panic"), "(?s)the guest ended; .*Kernel panic"),
    ],
)
def test_anything_else_failed(ending: Ending, text: str) -> None:
    verdict = judge(ending, 5)
    assert not verdict.passed
    assert re.search(text, verdict.text)
