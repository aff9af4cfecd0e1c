"""What time it is at the transfer, so that no point of the future is sent to it.

graph keeps a point of the future, and from then on drops all that are older: one cycle with a clock that is an
hour ahead silences every series for an hour (Open-Falcon contract, "what graph stores").
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def boot_seconds() -> float:
    """Seconds since the machine started, those that it slept included; nobody can set this clock (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ServerClock:
    """The time that a transfer's replies tell, carried on until the next one.

    Args:
        elapsed: seconds that have passed since some moment; it must neither jump nor stand still.
    """

    def __init__(self, elapsed: Callable[[], float] = boot_seconds) -> None:
        self._elapsed = elapsed
        self._offset: float | None = None

    def learn(self, server_time: float | None) -> None:
        """A reply has just come; None, where it told no time, leaves what is known."""
        if server_time is not None:
            self._offset = server_time - self._elapsed()

    def now(self) -> float | None:
        """The transfer's time in seconds since the epoch, or None if it never told."""
        return None if self._offset is None else self._offset + self._elapsed()

    def ahead(self, timestamp: float) -> float:
        """Seconds by which `timestamp` lies in the transfer's future; 0 where it does not, or nothing is known."""
        now = self.now()
        return 0.0 if now is None else max(0.0, timestamp - now)
