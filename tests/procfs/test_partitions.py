from __future__ import annotations

import re
from pathlib import Path

import pytest

from falcon_agent.errors import ParseError
from falcon_agent.procfs.partitions import parse_partitions
from tests.cgroupfs.trees import captured

HEADER = b"major minor  #blocks  name\n\n"


def test_captured_files() -> None:
    assert {"7:0": "loop0", "254:0": "vda"} in [
        parse_partitions(content) for content in captured("partitions")
    ]
    assert {"98:0": "ubda"} in [parse_partitions(content) for content in captured("partitions")]


def test_numbers_of_any_width_and_names_with_a_slash() -> None:
    lines = b" 104        0  142253280 cciss/c0d0\n 259   100000 1 nvme0n1p1\n"
    assert parse_partitions(HEADER + lines) == {"104:0": "cciss/c0d0", "259:100000": "nvme0n1p1"}


def test_a_host_without_disks() -> None:
    assert parse_partitions(b"") == {}
    assert parse_partitions(HEADER) == {}


@pytest.mark.parametrize("line", [b"   7        0      65536 loop0", b"   7        0      loop0\n", b"x\n"])
def test_other_forms_are_refused(line: bytes) -> None:
    with pytest.raises(ParseError, match="/proc/partitions"):
        parse_partitions(HEADER + line)


@pytest.mark.real
def test_the_host_itself() -> None:
    # Before and after: a disk may come or go in between.
    stats = Path("/proc/diskstats").read_text()
    found = parse_partitions(Path("/proc/partitions").read_bytes())
    stats += Path("/proc/diskstats").read_text()
    named = {f"{major}:{minor}": name for major, minor, name in re.findall(r"(\d+) +(\d+) (\S+)", stats)}
    assert found
    assert found.items() <= named.items()
