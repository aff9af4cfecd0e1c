"""Graph keeps every point of a long outage: 2,000 series, ten cycles, and a live one while they are drained."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import graphmodel
from tests.chaos.backlog import STEP
from tests.chaos.double import Transfer

pytestmark = pytest.mark.real

SERIES = 2000
CYCLES = 10
PACE = 0.3


def test_graph_keeps_everything_after_an_outage(tmp_path: Path) -> None:
    transfer = Transfer(random.Random(1))
    transfer.fault = "refuse"
    arguments = (transfer.address, str(tmp_path), str(SERIES), str(CYCLES), str(PACE))
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.backlog", *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        transfer.fault = ""
        said, _ = child.communicate(timeout=240)
    finally:
        child.kill()
        child.communicate()
        transfer.close()
    assert said == "drained\n"
    arrivals = transfer.ledger.read()
    points = {key for arrival in arrivals for key in arrival.keys}
    stamps = sorted({timestamp for _, timestamp in points})
    assert len(points) == SERIES * (CYCLES + 1)
    assert [later - stamps[0] for later in stamps] == [number * STEP for number in range(CYCLES + 1)]
    assert graphmodel.sure(arrivals) == points
    assert graphmodel.stored(arrivals, random.Random(1)) == points
    # No record was sent twice: nothing went wrong that would have called for it.
    assert sum(len(arrival.keys) for arrival in arrivals) == len(points)
