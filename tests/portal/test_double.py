from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.portal.record import EXCHANGES, SERIES, ask

if TYPE_CHECKING:
    from tests.portal.double import Portal


def test_the_double_answers_what_the_real_api_answered(portal: Portal) -> None:
    portal.series = SERIES
    exchanges = json.loads(EXCHANGES.read_text())
    for number, exchange in enumerate(exchanges):
        status, answer = ask(portal.address, exchange)
        what = f"exchange {number}: {exchange['method']} {exchange['path']} {exchange.get('body')}"
        assert status == exchange["status"], what
        if status < 400 or status == 404:
            assert answer == exchange["answer"], what
        else:
            # The words of an error are Go's and MySQL's.
            assert set(answer) == set(exchange["answer"]) == {"error"}, what
    assert len(exchanges) > 100
