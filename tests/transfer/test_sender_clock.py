from __future__ import annotations

import logging

import pytest

from falcon_agent.transfer.failure import Rejected, Unreachable
from tests.transfer.bed import Bed

NOW = 1_800_000_000
"""The transfer's time at first."""

DOWN = Unreachable("cannot push to http://h/: connection refused; is a transfer running there?", "refused")


def bed_at(now: int = NOW) -> Bed:
    """A bed whose transfer says that it is `now`."""
    bed = Bed()
    bed.offset = now - bed.now
    return bed


def pushed(bed: Bed) -> list[int]:
    return [timestamp for _, timestamp in bed.pushed]


def test_the_time_is_asked_once_and_then_known_from_the_replies() -> None:
    bed = bed_at()
    bed.put(NOW - 120, NOW - 60, NOW)
    bed.turn(3)
    assert pushed(bed) == [NOW - 120, NOW - 60, NOW]
    assert bed.asked == 1
    assert bed.stat.total("push.ok") == 3
    assert bed.stat.values["clock.ahead", ""] == 0


def test_a_small_difference_of_the_clocks_holds_nothing_back() -> None:
    bed = bed_at()
    bed.put(NOW + 60)
    bed.turn()
    assert pushed(bed) == [NOW + 60]


def test_a_batch_of_the_future_waits_until_the_transfers_time_has_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bed = bed_at()
    bed.put(NOW + 3600, NOW + 3660)
    with caplog.at_level(logging.INFO):
        bed.turn()
        assert pushed(bed) == []
        assert bed.stat.values["clock.ahead", ""] == 3600
        while not pushed(bed):
            bed.turn()
    assert bed.offset is not None
    at = bed.pushed[0][0] + bed.offset
    assert NOW + 3600 - 60 <= at < NOW + 3600
    assert max(bed.slept) <= 16
    assert bed.stat.values["clock.ahead", ""] == 0
    assert len(caplog.messages) == 2
    assert "3600 s ahead of the transfer's time" in caplog.messages[0]
    assert "not ahead of the transfer's time any more" in caplog.messages[1]
    assert bed.stat.total("push.failed") == 0
    assert bed.stat.total("records.lost") == 0


def test_what_waits_may_be_dropped_for_what_is_right() -> None:
    bed = bed_at()
    bed.put(NOW + 3600)
    bed.turn()
    # As a spool does when the clock was set back.
    assert bed.queue._drop_oldest()
    bed.put(NOW)
    bed.turn()
    assert pushed(bed) == [NOW]


def test_a_transfer_whose_clock_was_mended_is_believed_at_once() -> None:
    bed = bed_at(NOW - 86400)
    bed.put(NOW)
    bed.turn()
    assert pushed(bed) == []
    bed.offset = NOW - bed.now
    bed.turn()
    assert pushed(bed) == [NOW]


def test_old_knowledge_holds_nothing_back() -> None:
    bed = bed_at(NOW - 86400)
    bed.put(NOW - 86400)
    bed.turn()
    bed.offset = NOW - bed.now
    bed.put(NOW)
    bed.turn()
    assert pushed(bed) == [NOW - 86400, NOW]
    assert bed.stat.values["clock.ahead", ""] == 0


def test_a_long_step_gives_a_wider_margin() -> None:
    bed = bed_at()
    bed.successor(step=300)
    bed.put(NOW + 300, NOW + 600)
    bed.turn()
    bed.turn()
    assert pushed(bed) == [NOW + 300]


def test_a_transfer_that_does_not_tell_the_time_holds_nothing_back() -> None:
    bed = Bed()
    bed.put(NOW * 2)
    bed.turn()
    assert pushed(bed) == [NOW * 2]
    assert bed.asked == 1


def test_it_asks_again_until_it_has_an_answer() -> None:
    bed = bed_at()
    bed.put(NOW + 3600)
    bed.trouble = DOWN
    bed.turn(2)
    assert bed.stat.reasons("push.failed") == {"refused": 2}
    bed.trouble = None
    bed.turn()
    assert (pushed(bed), bed.asked) == ([], 3)


@pytest.mark.parametrize(("status", "timestamps"), [(400, [NOW]), (401, [])])
def test_a_receiver_that_takes_no_empty_push(status: int, timestamps: list[int]) -> None:
    bed = bed_at()
    bed.put(NOW)
    bed.trouble = Rejected("http://h/", status, "no")
    bed.turn()
    assert pushed(bed) == timestamps


def test_pushing_once_says_that_it_is_too_early() -> None:
    bed = bed_at()
    bed.put(NOW + 3600)
    summary = bed.sender.send_once()
    assert not summary
    assert (summary.sent, summary.left) == (0, 2)
    assert "cannot push yet: the records are 3600 s ahead" in str(summary)


def test_each_target_has_a_clock() -> None:
    bed = bed_at()
    bed.successor(target="n9e")
    bed.put(NOW + 3600)
    bed.turn()
    assert bed.stat.labelled("clock.ahead") == {"n9e": 3600}
