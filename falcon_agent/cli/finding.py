"""What `check` found out, a line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warn", "fail"]
LEVELS: dict[Level, tuple[int, str]] = {
    "ok": (0, "green"),
    "note": (0, "cyan"),
    "warn": (1, "yellow"),
    "fail": (2, "bold red"),
}
"""Exit code and colour of each."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Levels: `ok`; `note`, worth knowing and as it should be; `warn`, something will be missing; `fail`, it cannot do
    its work.
    """

    level: Level
    subject: str
    text: str
