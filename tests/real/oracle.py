"""Comparison with what others say of a thing that also changes by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Told = TypeVar("Told")
    Measured = TypeVar("Measured")

_ATTEMPTS = 20


def at_rest(told: Callable[[], Told], measure: Callable[[], Measured]) -> tuple[Told, Measured]:
    """What another source tells, and what was measured while that stayed the same.

    Between two readings the kernel sends a packet, writes a page back, or frees memory. So the other source is
    asked before and after, and what was measured counts only where both answers are equal.
    """
    for _ in range(_ATTEMPTS):
        before = told()
        measured = measure()
        if told() == before:
            return before, measured
    raise AssertionError(f"it never stayed the same, last: {before}")
