from __future__ import annotations

import threading
from pathlib import Path

import pytest

from falcon_agent.errors import ParseError
from falcon_agent.procfs.threads import parse_num_threads

STAT = b"7 (a) b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 31 0 12345 0 0"


def test_field_20_whatever_the_name() -> None:
    assert parse_num_threads(STAT) == 31


@pytest.mark.parametrize("stat", [b"", b"7 (a) S 1 7", STAT.replace(b" 31 ", b" x ")])
def test_other_forms_are_refused(stat: bytes) -> None:
    with pytest.raises(ParseError, match="field 20"):
        parse_num_threads(stat)


@pytest.mark.real
def test_its_own_process() -> None:
    release = threading.Event()
    before = parse_num_threads(Path("/proc/self/stat").read_bytes())
    threads = [threading.Thread(target=release.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert parse_num_threads(Path("/proc/self/stat").read_bytes()) == before + 3
    release.set()
    for thread in threads:
        thread.join()
