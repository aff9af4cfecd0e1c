"""What the agent counts about itself; every part adds to it, the `agent` collector reports it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from threading import Lock


@dataclass
class SelfStat:
    """Counters and last values, safe to use from any thread.

    `counts` only grow; a key is `(name, reason)`, e.g. `("records.invalid", "value")`, with an empty reason
    where there is none. `values` hold the latest reading of something, e.g. `push.latency` in milliseconds.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    values: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def count(self, name: str, reason: str = "", n: int = 1) -> None:
        """Add `n` to a counter."""
        with self._lock:
            self.counts[name, reason] += n

    def set(self, name: str, value: float) -> None:
        """Keep the latest value of a reading."""
        with self._lock:
            self.values[name] = value

    def total(self, name: str) -> int:
        """The sum of a counter over all reasons."""
        with self._lock:
            return sum(n for (key, _), n in self.counts.items() if key == name)

    def reasons(self, name: str) -> dict[str, int]:
        """A counter by reason."""
        with self._lock:
            return {reason: n for (key, reason), n in self.counts.items() if key == name}

    def value(self, name: str) -> float | None:
        """The latest value of a reading, or None before the first."""
        with self._lock:
            return self.values.get(name)
