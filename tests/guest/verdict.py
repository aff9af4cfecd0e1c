"""Whether what a guest did counts as success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from tests.guest.machine import Ending


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a guest's run.

    Attributes:
        passed: whether all is well.
        text: one line that says how many tests ran, or what is wrong.
    """

    passed: bool
    text: str


def judge(ending: Ending, at_least: int) -> Verdict:
    """Success is: pytest said so, its report says so, and enough tests ran, none of them skipped."""
    if ending.code is None:
        return Verdict(passed=False, text=f"{ending.why}; the end of its console:\n{ending.tail}")
    try:
        suites = ET.fromstring(ending.report).iter("testsuite")  # noqa: S314  our own pytest wrote it
        counted = [{key: int(suite.get(key, "0")) for key in _COUNTS} for suite in suites]
    except (ET.ParseError, ValueError) as error:
        return Verdict(passed=False, text=f"cannot read pytest's report (exit code {ending.code}): {error}")
    tests, failures, errors, skipped = (sum(one[key] for one in counted) for key in _COUNTS)
    text = f"{tests} tests ran, {failures} failed, {errors} errors, {skipped} skipped"
    if tests < at_least:
        return Verdict(passed=False, text=f"{text}; at least {at_least} are expected")
    if ending.code != 0:
        return Verdict(passed=False, text=f"{text}; pytest's exit code {ending.code}")
    return Verdict(passed=not (failures or errors or skipped), text=text)


_COUNTS = ("tests", "failures", "errors", "skipped")
