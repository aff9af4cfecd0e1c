"""Events as lines: what the journal reads, and what a container's words cannot do to it."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.journal import EventFormatter, EventHandler, is_journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE_MAX = 48 * 1024
"""LineMax= of journald.conf(5): where the journal cuts a line, and reads a priority again."""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A logger that is nobody else's, and the lines it wrote."""

    def __init__(self, *, to_journal: bool = True) -> None:
        self.clock = Clock()
        self._stream = io.StringIO()
        self.handler = EventHandler(self._stream, to_journal=to_journal, clock=self.clock)
        self.logger = logging.Logger("falcon_agent.transfer.sender")  # noqa: LOG001  known to nobody else
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.handler.close()


@pytest.mark.parametrize(
    ("level", "priority", "word"),
    [
        (logging.CRITICAL, 2, "critical"),
        (logging.ERROR, 3, "error"),
        (logging.WARNING, 4, "warning"),
        (logging.INFO, 6, "info"),
        (logging.DEBUG, 7, "debug"),
    ],
)
def test_the_journal_gets_a_priority_and_no_time(log: Log, level: int, priority: int, word: str) -> None:
    log.logger.log(level, "cannot push to %s", "http://a/push")
    assert log.lines == [f'<{priority}>level={word} part=transfer.sender msg="cannot push to http://a/push"']


def test_anybody_else_gets_a_time_and_no_priority() -> None:
    log = Log(to_journal=False)
    log.logger.info("ready")
    assert len(log.lines) == 1
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d level=info part=transfer\.sender msg=ready",
        log.lines[0],
    )


def test_a_name_from_a_container_neither_begins_a_line_nor_sets_a_priority(log: Log) -> None:
    name = 'web\n<0>level=error msg="all is lost"\r\x1b[2J\u2028\x85\0 "quoted" \\'
    log.logger.warning("container %s: %s", name, "x")
    (line,) = log.lines
    assert line.startswith(
        '<4>level=warning part=transfer.sender msg="container web\\n<0>level=error msg=\\"'
    )
    assert '\\r\\x1b[2J\\u2028\\x85\\x00 \\"quoted\\" \\\\: x"' in line
    assert line.isprintable()
    # As a reader of logfmt sees it: the forged keys are within the message.
    assert [field.split("=", 1)[0] for field in shlex.split(line)] == ["<4>level", "part", "msg"]


@given(
    st.text(st.characters(codec=None, exclude_categories=()), max_size=300),
    st.sampled_from([1, 40, 400, 4000]),
)
def test_any_text_is_one_line_that_the_journal_does_not_cut(text: str, times: int) -> None:
    try:
        raise ValueError(text * times)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, text * times, None, sys.exc_info())
    line = EventFormatter(to_journal=True).format(record)
    assert line.isprintable()
    assert len(line.encode()) < LINE_MAX


def test_a_traceback_is_part_of_its_event(log: Log) -> None:
    try:
        raise KeyError("by\ndesign")
    except KeyError:
        log.logger.exception("cannot deliver a batch")
    (line,) = log.lines
    assert 'msg="cannot deliver a batch" traceback="Traceback (most recent call last):\\n' in line
    assert "by" in line.rsplit("KeyError", 1)[1]


def test_a_log_call_that_is_wrong_is_one_line_too_and_fails_nothing(log: Log) -> None:
    log.logger.warning("%d containers", "many")
    log.logger.info("%d containers", "many")
    assert len(log.lines) == 2
    assert all(line.startswith("<3>level=error") and "test_journal.py" in line for line in log.lines)


def test_what_repeats_itself_is_written_once_and_then_counted(log: Log) -> None:
    for _ in range(38):
        log.logger.warning("a cycle was %s", "skipped")
        log.logger.warning("another thing")
        log.clock.now += 10
    assert len(log.lines) == 2
    log.clock.now = 1000.0 + 599
    log.handler.write_due()
    assert len(log.lines) == 2
    log.clock.now += 1
    log.handler.write_due()
    assert log.lines[2:] == [
        '<4>level=warning part=transfer.sender msg="a cycle was skipped (repeated 37 times in 10 min)"',
        '<4>level=warning part=transfer.sender msg="another thing (repeated 37 times in 10 min)"',
    ]


def test_what_goes_on_is_said_every_ten_minutes_and_what_ended_is_new_when_it_comes_back(log: Log) -> None:
    for _ in range(121):
        log.logger.error("broken")
        log.clock.now += 10
    assert [line[line.index("msg=") :] for line in log.lines] == [
        "msg=broken",
        'msg="broken (repeated 59 times in 10 min)"',
        'msg="broken (repeated 60 times in 10 min)"',
    ]
    log.clock.now += 1200
    log.handler.write_due()
    log.clock.now += 1200
    log.handler.write_due()
    log.logger.error("broken")
    assert log.lines[-1].endswith("msg=broken")


def test_only_what_is_quite_the_same_is_folded(log: Log) -> None:
    for name in ("web", "worker"):
        log.logger.warning("%s: no answer", name)
        log.logger.error("%s: no answer", name)
        log.logger.info("reloaded")
    for error in (ValueError("a"), ValueError("b")):
        log.logger.error("unexpected", exc_info=error)
    assert len(log.lines) == 8


def test_what_was_counted_is_said_at_the_end_and_on_demand(log: Log) -> None:
    log.logger.error("broken")
    log.logger.error("broken")
    log.handler.write_all()
    assert log.lines[-1].endswith('msg="broken (repeated once in 0 s)"')
    log.logger.error("broken")
    assert log.lines[-1].endswith("msg=broken")
    log.logger.error("broken")
    log.handler.close()
    assert len(log.lines) == 4


def test_ever_new_errors_are_not_remembered_for_ever(log: Log) -> None:
    for number in range(1000):
        log.logger.error("container %d %s", number, "x" * 10_000)
        log.logger.error("container %d %s", number, "x" * 10_000)
    assert len(log.handler._seen) <= 64
    assert all(len(text) <= 3100 for _, _, text in log.handler._seen)
    # Nothing is lost by that: what had been counted is said when it is forgotten.
    assert sum("repeated once" in line for line in log.lines) == 1000 - 64


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream, (tmp_path / "other").open("w") as other:
        status = os.fstat(stream.fileno())
        told = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(stream, told)
        assert not is_journal(other, told), "standard error was sent elsewhere since"
        assert not is_journal(stream, {})
        assert not is_journal(stream, {"JOURNAL_STREAM": "x"})
    assert not is_journal(io.StringIO(), told)


PROGRAM = """
import os, sys, threading, warnings
from falcon_agent.journal import take_over
take_over(sys.stderr, {"JOURNAL_STREAM": "%d:%d" % (os.fstat(2).st_dev, os.fstat(2).st_ino)})
class Odd:
    def __del__(self):
        raise ValueError("in a finalizer")
def work():
    raise ValueError("in a thread\\n<1>")
thread = threading.Thread(target=work, name="feed")
thread.start()
thread.join()
del thread
Odd()
warnings.warn("mind the step")
if len(sys.argv) > 1:
    os.abort()
"""


def test_what_nobody_caught_is_one_event_each() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 3, lines
    assert lines[0].startswith(
        '<3>level=error part=falcon_agent msg="unexpected error ended the thread feed" '
    )
    assert "in a thread\\n<1>" in lines[0]
    assert "in a finalizer" in lines[1]
    assert lines[2].startswith("<4>level=warning part=py.warnings ")


def test_an_abort_says_where_every_thread_was() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "abort"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -6
    assert "Fatal Python error: Aborted" in done.stderr
    assert re.search(r'File "<string>", line \d+ in <module>', done.stderr)
