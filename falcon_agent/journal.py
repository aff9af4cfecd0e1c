"""How events are written: a line each, `key=value` (logfmt), for systemd's journal or whoever reads standard error.

The journal gets the priority in front (sd-daemon(3)) and keeps the time itself; anybody else gets the time. Names of
containers and words of other programs stay within their quotes: no newline of theirs begins an event or sets a
priority.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger("falcon_agent")

_MAX_MESSAGE = 3000
_MAX_TRACEBACK = 6000
"""Characters; the journal cuts lines of more than 48 KiB in two (LineMax= in journald.conf(5)), and then reads a
priority in the second."""

_WINDOW = 600.0
"""Seconds in which an event that is the same again is only counted."""
_MAX_REMEMBERED = 64
_A_MINUTE = 60

_BARE = re.compile(r"[\w./:@+-]+", re.ASCII)
_OWN = "falcon_agent."


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether the journal reads what is written there (`JOURNAL_STREAM` in systemd.exec(5))."""
    with suppress(OSError, ValueError):
        status = os.fstat(stream.fileno())
        return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


class EventFormatter(logging.Formatter):
    """An event as one line.

    Args:
        to_journal: begin with the priority instead of the time.
    """

    def __init__(self, *, to_journal: bool) -> None:
        super().__init__()
        self._to_journal = to_journal

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        fields = {
            "level": record.levelname.lower(),
            "part": record.name.removeprefix(_OWN),
            "msg": _clipped(record.getMessage(), _MAX_MESSAGE),
        }
        if record.exc_info and record.exc_info[0]:
            fields["traceback"] = _clipped(self.formatException(record.exc_info), _MAX_TRACEBACK)
        text = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        if self._to_journal:
            return f"<{_priority(record.levelno)}>{text}"
        when = datetime.fromtimestamp(record.created).astimezone()
        return f"time={when.isoformat(timespec='milliseconds')} {text}"


def _priority(level: int) -> int:
    """As syslog(3) numbers them."""
    for least, priority in (
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
    ):
        if level >= least:
            return priority
    return 7


def _quoted(value: str) -> str:
    if _BARE.fullmatch(value):
        return value
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(char: str) -> str:
    if char in {'"', "\\"}:
        return "\\" + char
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _clipped(text: str, limit: int) -> str:
    """The text without its middle if it is too long: of a traceback both ends matter."""
    if len(text) > limit:
        text = f"{text[: limit // 3]} … {text[-limit + limit // 3 :]}"
    # Text that is nearly all escapes is nobody's words.
    if sum(len(_escaped(char)) for char in text) > 2 * limit:
        return text[: limit // 10] + " …"
    return text


@dataclass(slots=True)
class _Repeated:
    """An event that came before: when it was last written (monotonic seconds), and how often it came since."""

    since: float
    times: int = 0


class EventHandler(logging.StreamHandler[TextIO]):
    """Writes events, and folds those that repeat themselves.

    A warning or an error is written at once; while it is the same again a line in ten minutes says how often it came.

    Args:
        stream: where to.
        to_journal: whether that is the journal; kept as an attribute.
        clock: seconds, monotonic.
    """

    def __init__(
        self, stream: TextIO, *, to_journal: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream)
        self.setFormatter(EventFormatter(to_journal=to_journal))
        self.to_journal = to_journal
        self._clock = clock
        self._seen: dict[tuple[str, int, str], _Repeated] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write an event, or count it."""
        try:
            self._write_due()
            repeated = record.levelno >= logging.WARNING and self._counted(record)
        except Exception:  # noqa: BLE001  as of every handler: who says something does not fail for it
            self.handleError(record)
            return
        if not repeated:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  overrides
        """Say in one line that an event cannot be written: a message that does not fit its arguments, or no reader."""
        where = f"{record.pathname}:{record.lineno}"
        with suppress(Exception):
            text = f"cannot write an event of {where}: {sys.exception()!r}"
            self.stream.write(
                self.format(logging.LogRecord(record.name, logging.ERROR, "", 0, text, None, None)) + "\n"
            )
            self.flush()

    def write_due(self) -> None:
        """Say what was repeated and has waited for its ten minutes; otherwise the next event brings it."""
        self.acquire()
        try:
            self._write_due()
        finally:
            self.release()

    def write_all(self) -> None:
        """Say what was repeated so far, and take everything that comes for new."""
        self.acquire()
        try:
            for key in list(self._seen):
                self._write_repeated(key, self._seen.pop(key))
        finally:
            self.release()

    def close(self) -> None:
        """Say what was repeated so far, and write nothing more."""
        self.write_all()
        super().close()

    def _counted(self, record: logging.LogRecord) -> bool:
        """Whether the event is one of the last ones again; if not it is remembered."""
        cause = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() if cause is None else f"{record.getMessage()}: {cause!r}"
        key = (record.name, record.levelno, _clipped(text, _MAX_MESSAGE))
        known = self._seen.get(key)
        if known is not None:
            known.times += 1
            return True
        if len(self._seen) >= _MAX_REMEMBERED:
            oldest = next(iter(self._seen))
            self._write_repeated(oldest, self._seen.pop(oldest))
        self._seen[key] = _Repeated(self._clock())
        return False

    def _write_due(self) -> None:
        now = self._clock()
        for key, known in list(self._seen.items()):
            if now - known.since >= _WINDOW:
                del self._seen[key]
                if known.times:
                    self._write_repeated(key, known)
                    # It may go on, and then the next line is due in ten minutes again.
                    self._seen[key] = _Repeated(now)

    def _write_repeated(self, key: tuple[str, int, str], known: _Repeated) -> None:
        if not known.times:
            return
        seconds = self._clock() - known.since
        span = f"{seconds:.0f} s" if seconds < _A_MINUTE else f"{seconds / 60:.0f} min"
        name, level, text = key
        times = "once" if known.times == 1 else f"{known.times} times"
        words = f"{text} (repeated {times} in {span})"
        super().emit(logging.LogRecord(name, level, "", 0, words, None, None))


def take_over(stream: TextIO, environment: Mapping[str, str]) -> EventHandler:
    """Have everything that is said in this process written as events: logging, warnings, and exceptions nobody caught.

    An exception in a thread ends the thread; one in the main thread is for the caller to end the process with. A signal
    that ends the process for a fault, as the watchdog's SIGABRT does, has first written where each thread was.
    """
    handler = EventHandler(stream, to_journal=is_journal(stream, environment))
    root = logging.getLogger()
    for known in list(root.handlers):
        root.removeHandler(known)
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _unraisable
    faulthandler.enable(stream)
    return handler


def _thread_failed(failed: threading.ExceptHookArgs, /) -> None:
    error = failed.exc_value
    if error is not None and not isinstance(error, SystemExit):
        name = failed.thread.name if failed.thread else "that is gone"
        log.error("unexpected error ended the thread %s", name, exc_info=error)


def _unraisable(failed: sys.UnraisableHookArgs, /) -> None:
    log.error("unexpected error in %r", failed.object, exc_info=failed.exc_value)
