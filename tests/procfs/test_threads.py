from __future__ import annotations

import threading
from pathlib import Path

import pytest

from falcon_agent.errors import ParseError
from falcon_agent.procfs.threads import parse_num_threads
from tests.namespaces.lab import in_child

STAT = b"7 (a) b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 31 0 12345 0 0"


def test_field_20_whatever_the_name() -> None:
    assert parse_num_threads(STAT) == 31


@pytest.mark.parametrize("stat", [b"", b"7 (a) S 1 7", STAT.replace(b" 31 ", b" x ")])
def test_other_forms_are_refused(stat: bytes) -> None:
    with pytest.raises(ParseError, match="field 20"):
        parse_num_threads(stat)


@pytest.mark.real
def test_its_own_process() -> None:
    def counts() -> tuple[int, int]:
        before = parse_num_threads(Path("/proc/self/stat").read_bytes())
        for _ in range(3):
            threading.Thread(target=threading.Event().wait).start()
        return before, parse_num_threads(Path("/proc/self/stat").read_bytes())

    # In one of its own, where no thread of an earlier test ends meanwhile.
    assert in_child(counts, before=lambda: None) == "(1, 4)"
