"""What a person sees: progress on standard error, figures on standard output."""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NS_PER_MS = 1_000_000


def progress(text: str, *, passing: bool = False) -> None:
    """Say what is being done; `passing` is overwritten by the next, and said on a terminal only."""
    if sys.stderr.isatty():
        end = "\r" if passing else "\n"
        print(f"\033[K  {text}", end=end, file=sys.stderr, flush=True)
    elif not passing:
        print(f"  {text}", file=sys.stderr, flush=True)


def median_ms(nanoseconds: Iterable[int]) -> float:
    """The median, in milliseconds."""
    return median(nanoseconds) / _NS_PER_MS


def min_ms(nanoseconds: Iterable[int]) -> float:
    """The smallest, in milliseconds."""
    return min(nanoseconds) / _NS_PER_MS


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Plain text that lines up: the first column to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    printed = [f"\n{title}"]
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        printed.append("  " + "  ".join(cells).rstrip())
    return "\n".join(printed)
