"""What is selected has to be there: pytest says nothing of a test that is left out and has another name by now."""

from __future__ import annotations

import re

import pytest

from tests.guest.machine import BOOT, REPOSITORY
from tests.guest.selection import SELECTIONS


def test_each_layout_has_a_selection() -> None:
    assert SELECTIONS.keys() == BOOT.keys()


@pytest.mark.parametrize("layout", SELECTIONS)
def test_what_is_named_is_there(layout: str) -> None:
    selection = SELECTIONS[layout]
    for path in selection.paths:
        assert (REPOSITORY / path).exists(), path
    for left_out in selection.without:
        path, _, test = left_out.partition("::")
        assert path in selection.paths or any(path.startswith(f"{one}/") for one in selection.paths), left_out
        assert re.search(
            rf"^def {re.escape(test.partition('[')[0])}\(", (REPOSITORY / path).read_text(), re.MULTILINE
        )
