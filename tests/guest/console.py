"""What a guest prints."""

from __future__ import annotations

import codecs
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN = "=== the tests begin ==="
END = "=== the tests have ended ==="
_TAIL = 60


class Console:
    """Shows what comes between the lines `BEGIN` and `END`, piece by piece, and keeps the last lines of all.

    Args:
        show: gets what is to be shown, as it comes; parts of lines too.
    """

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._line = ""
        self._shown = 0
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self.begun = False
        self.ended = False

    @property
    def tail(self) -> str:
        """The last lines, whether they were shown or not."""
        return "\n".join([*self._tail, self._line])

    def feed(self, piece: bytes) -> None:
        """Take what was printed since the last time."""
        *whole, self._line = (self._line + self._decode(piece).replace("\r", "")).split("\n")
        for line in whole:
            self._tail.append(line)
            self.ended = self.ended or line.endswith(END)
            self._show_rest(f"{line}\n")
            self._shown = 0
            self.begun = self.begun or line.endswith(BEGIN)
        if not END.startswith(self._line):
            self._show_rest(self._line)

    def _show_rest(self, line: str) -> None:
        if self.begun and not self.ended:
            self._show(line[self._shown :])
            self._shown = len(line)
