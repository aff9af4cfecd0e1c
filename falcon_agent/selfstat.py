"""What the agent counts about itself; every part adds to it, the `agent` collector reports it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from threading import Lock


@dataclass
class SelfStat:
    """Counters and last values, safe to use from any thread.

    `counts` only grow; a key is `(name, reason)`, e.g. `("records.invalid", "value")`, with an empty reason
    where there is none. `values` hold the latest reading of something by `(name, label)`, e.g. `("push.latency", "")`
    in milliseconds or `("collect.cpu", "sockets")`.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    values: dict[tuple[str, str], float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def count(self, name: str, reason: str = "", n: int = 1) -> None:
        """Add `n` to a counter."""
        with self._lock:
            self.counts[name, reason] += n

    def set(self, name: str, value: float, label: str = "") -> None:
        """Keep the latest value of a reading."""
        with self._lock:
            self.values[name, label] = value

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
            return self.values.get((name, ""))

    def labelled(self, name: str) -> dict[str, float]:
        """The latest values of a reading by label, those with a label only."""
        with self._lock:
            return {label: value for (key, label), value in self.values.items() if key == name and label}
