from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from falcon_agent.errors import GoneError
from falcon_agent.kernelfile import recording
from falcon_agent.procfs.fd import count_open_files
from tests.namespaces.lab import in_child

SIZE_IS_THE_NUMBER = Path("/proc/self/fd").stat().st_size > 0
"""Since Linux 6.2."""

AS_NOBODY = ("setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
COUNT = "import sys; from falcon_agent.procfs.fd import count_open_files as c; print(c(sys.argv[1]))"


@pytest.mark.real
def test_where_the_size_says_nothing_the_entries_are_counted(tmp_path: Path) -> None:
    # As before Linux 6.2: another directory of procfs, of size 0 and with entries.
    (tmp_path / "fd").symlink_to("/proc/1/ns")
    assert os.stat(tmp_path / "fd").st_size == 0
    assert count_open_files(str(tmp_path)) == len(os.listdir("/proc/1/ns")) > 0


def test_a_process_that_is_gone() -> None:
    with pytest.raises(GoneError):
        count_open_files("/proc/0")


@pytest.mark.real
def test_its_own_process() -> None:
    def counts() -> None:
        process = f"/proc/{os.getpid()}"
        before = count_open_files(process)
        with Path(os.devnull).open("rb"), recording() as seen:
            assert count_open_files(process) == before + 1
        assert seen == [(f"{process}/fd", b"%d entries\n" % (before + 1))]
        assert count_open_files(process) == before

    # In one of its own, where nothing of earlier tests closes meanwhile.
    assert in_child(counts, before=gc.disable) == "None"


@pytest.mark.real
def test_without_privilege() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # It opens files while it starts; once it answers that is over.
        process.stdin.write(b"x\n")
        process.stdin.flush()
        process.stdout.readline()
        directory = f"/proc/{process.pid}"
        argv = [*AS_NOBODY, sys.executable, "-c", COUNT, directory]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        expected = len(os.listdir(f"{directory}/fd"))
        process.kill()
    if SIZE_IS_THE_NUMBER:
        assert done.stdout == f"{expected}\n", done.stderr
    else:
        assert "DeniedError" in done.stderr
