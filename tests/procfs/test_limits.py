from __future__ import annotations

import resource
from pathlib import Path

import pytest

from falcon_agent.errors import ParseError
from falcon_agent.procfs.limits import parse_max_open_files

HEADER = b"Limit                     Soft Limit           Hard Limit           Units     \n"
LINE = b"Max open files            %s                 524288               files     \n"


@pytest.mark.parametrize(("soft", "expected"), [(b"1024", 1024), (b"0", 0), (b"unlimited", None)])
def test_the_soft_limit(soft: bytes, expected: int | None) -> None:
    assert parse_max_open_files(HEADER + LINE % soft) == expected


@pytest.mark.parametrize("content", [b"", HEADER, LINE % b"-1", b"x" + LINE % b"1"])
def test_other_forms_are_refused(content: bytes) -> None:
    with pytest.raises(ParseError, match="/proc/PID/limits"):
        parse_max_open_files(content)


@pytest.mark.real
def test_its_own_process() -> None:
    content = Path("/proc/self/limits").read_bytes()
    assert parse_max_open_files(content) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
