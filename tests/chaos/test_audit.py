"""Each way of breaking the promise is seen, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.chaos.audit import settle
from tests.chaos.ledger import Arrival, Journal, Loss, Put, read_journal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.ledger import Key

PACE = 0.3


def keys(timestamp: int, *series: str) -> tuple[Key, ...]:
    return tuple((one, timestamp) for one in series or ("a", "b"))


def puts(*timestamps: int) -> tuple[Put, ...]:
    return tuple(Put(1, float(timestamp), keys(timestamp), promised=True) for timestamp in timestamps)


def arrived(at: float, timestamp: int, *series: str, told: bool = True, fault: str = "") -> Arrival:
    return Arrival(at, 1000.0, keys(timestamp, *series), told, fault)


def faults(journal: Journal, *arrivals: Arrival, ends: tuple[float, ...] = ()) -> str:
    return "\n".join(settle(journal, arrivals, PACE, ends).faults)


def test_a_kept_promise() -> None:
    account = settle(Journal(puts(1, 2), ()), [arrived(0, 1), arrived(1, 2)], PACE)
    assert not account.faults
    assert (account.cycles, account.produced, account.accepted, account.duplicates) == (2, 4, 4, 0)


def test_a_silent_loss() -> None:
    assert "2 records vanished in silence" in faults(Journal(puts(1, 2), ()), arrived(0, 1))


def test_a_counted_loss() -> None:
    journal = Journal(puts(1, 2), (Loss(1, "records.lost", "age", 2),))
    assert not faults(journal, arrived(0, 1))
    assert settle(journal, [arrived(0, 1)], PACE).lost == {"age": 2}


def test_what_was_not_promised_may_be_missing_or_accepted() -> None:
    journal = Journal((*puts(1), Put(1, 2.0, keys(2))), ())
    assert not faults(journal, arrived(0, 1))
    assert not faults(journal, arrived(0, 1), arrived(1, 2))


def test_a_loss_that_is_none() -> None:
    journal = Journal(puts(1), (Loss(1, "records.lost", "age", 2),))
    assert "2 records were counted as lost that are not missing" in faults(journal, arrived(0, 1))
    # Accepted, but the agent could not know.
    assert not faults(journal, arrived(0, 1, told=False))


def test_a_second_put_of_the_same_points_may_be_refused_or_delivered() -> None:
    twice = (*puts(1), *puts(1))
    assert not faults(Journal(twice, (Loss(1, "records.lost", "clock_back", 2),)), arrived(0, 1))
    assert not faults(Journal(twice, ()), arrived(0, 1), arrived(1, 1))


def test_points_that_nobody_measured() -> None:
    assert "nobody measured: c@1" in faults(Journal(puts(1), ()), arrived(0, 1, "a", "b", "c"))


def test_points_out_of_order() -> None:
    journal = Journal(puts(1, 2), ())
    text = faults(journal, arrived(0, 2), arrived(1, 1))
    assert "2 points came after a newer one of their series" in text
    # A duplicate of what was accepted in its turn does no harm.
    lost_reply = arrived(0, 1, told=False)
    assert not faults(journal, lost_reply, arrived(1, 2), arrived(2, 1, told=False))


def test_points_from_the_future() -> None:
    assert "2 points came from the future" in faults(Journal(puts(1062), ()), arrived(0, 1062))
    assert not faults(Journal(puts(1060), ()), arrived(0, 1060))


def test_a_pace_that_graph_cannot_follow() -> None:
    journal = Journal(puts(1, 2), ())
    assert "within 0.200 s" in faults(journal, arrived(0, 1), arrived(0.2, 2))
    assert not faults(journal, arrived(0, 1), arrived(0.3, 2))
    # The halves of one timestamp need no pause.
    assert not faults(Journal(puts(1), ()), arrived(0, 1, "a"), arrived(0.001, 1, "b"))


def test_two_timestamps_in_one_post() -> None:
    both = Arrival(0.0, 1000.0, (("a", 1), ("b", 1), ("a", 2), ("b", 2)))
    assert "one POST held 2 timestamps" in faults(Journal(puts(1, 2), ()), both)


def test_points_pushed_again_after_they_were_acknowledged() -> None:
    journal = Journal(puts(1), ())
    again = (arrived(0, 1), arrived(1, 1))
    assert "2 points were pushed again" in faults(journal, *again)
    assert not faults(journal, *again, ends=(0.5,))
    assert not faults(journal, arrived(0, 1, told=False), arrived(1, 1))
    assert not faults(journal, arrived(0, 1, fault="invalid"), arrived(1, 1))
    assert "pushed again" in faults(journal, arrived(0, 1, told=False), *again)


def test_an_answer_that_the_agent_did_not_wait_for() -> None:
    unheard = replace(arrived(0, 1), push="1-1")
    again = replace(arrived(1, 1), push="1-2")
    pushed = {"1-1": -0.1, "1-2": 0.9}
    assert not faults(Journal(puts(1), (), pushed, {"1-2"}), unheard, again)
    assert "pushed again" in faults(Journal(puts(1), (), pushed, {"1-1", "1-2"}), unheard, again)
    # It was given up, and accepted only after the one that came instead.
    late = replace(arrived(2, 1, told=False), push="1-1")
    assert not faults(Journal(puts(1), (), pushed, {"1-2"}), again, late)
    pushed["1-1"] = 1.5
    assert "pushed again" in faults(Journal(puts(1), (), pushed, {"1-2"}), again, late)


def test_a_journal_whose_writer_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert not read_journal(path).puts
    path.write_text(
        '{"what": "offered", "life": 1, "at": 5.0, "number": 0, "keys": [["a", 1]]}\n'
        '{"what": "promised", "life": 1, "at": 5.1, "number": 0}\n'
        '{"what": "lost", "life": 1, "at": 5.2, "name": "records.lost", "reason": "age", "records": 3}\n'
        '{"what": "pushed", "life": 1, "at": 5.3, "push": "1-1"}\n'
        '{"what": "heard", "life": 1, "at": 5.4, "push": "1-1"}\n'
        '{"what": "offered", "life": 1, "at": 6.0, "number": 1, "ke'
    )
    journal = read_journal(path)
    assert journal.puts == (Put(1, 5.0, (("a", 1),), promised=True),)
    assert journal.lost == 3
    assert (journal.pushed, journal.heard) == ({"1-1": 5.3}, {"1-1"})


def test_a_record_that_was_refused_and_then_taken_while_the_bad_ones_were_searched() -> None:
    journal = Journal(puts(1), (Loss(1, "records.invalid", "transfer", 1),))
    refused = Arrival(0.0, 1000.0, (("a", 1),), fault="invalid", refused=(("b", 1),))
    assert not faults(journal, refused)
    assert not faults(journal, refused, arrived(1, 1, "b"))


def test_what_was_in_a_damaged_spool_is_set_aside_unless_it_was_counted() -> None:
    account = settle(Journal(puts(1, 2), ()), [arrived(0, 1)], PACE, excused=keys(2))
    assert (account.faults, account.set_aside, len(account.missing)) == ([], 2, 2)
    counted = Journal(puts(1, 2), (Loss(1, "records.lost", "damaged", 2),))
    account = settle(counted, [arrived(0, 1)], PACE, excused=keys(2))
    assert (account.faults, account.set_aside) == ([], 0)
