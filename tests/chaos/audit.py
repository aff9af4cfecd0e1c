"""The promise, checked: produced = accepted + counted lost, in order, at a pace, and not from the future."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from tests.chaos.ledger import Arrival, Journal, Key

FUTURE_SECONDS = 61.0
"""How far a point may lie ahead of the transfer's clock: the sender allows 60 s, and a Date has whole seconds."""

_SEARCHING = {"poison", "invalid", "413"}
"""Faults after which records are pushed again on purpose, to find the bad ones."""


@dataclass(slots=True)
class Account:
    """The books of one run.

    Attributes:
        cycles: calls that handed over records.
        produced: different points that were promised, or accepted without having been promised yet.
        accepted: different points that were accepted.
        duplicates: points that were accepted again.
        lost: records that the agents counted as lost, by reason.
        set_aside: points that are in a damaged spool that was moved aside, as far as they were not counted.
        missing: points promised and not accepted.
        faults: what is wrong, in words; empty if the promise was kept.
    """

    cycles: int = 0
    produced: int = 0
    accepted: int = 0
    duplicates: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    set_aside: int = 0
    missing: set[Key] = field(default_factory=set)
    out_of_order: int = 0
    future: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def uncounted(self) -> int:
        """Points that vanished in silence; negative where losses were counted that were none."""
        return len(self.missing) - self.set_aside - self.lost.total()


def settle(
    journal: Journal,
    arrivals: Sequence[Arrival],
    pace: float,
    ends: Sequence[float] = (),
    excused: Collection[Key] = (),
) -> Account:
    """Settle the accounts of a run that is over.

    Args:
        journal: what the agents promised and counted.
        arrivals: what one transfer accepted, in the order of acceptance.
        pace: least seconds between pushes of different timestamps.
        ends: when a life of the agent ended, by the monotonic clock: it may have died before it could note what
            was accepted.
        excused: points that were in a spool that was damaged on purpose.
    """
    # An agent that was held up may give up waiting for an answer that has been sent.
    arrivals = [
        replace(one, told=False) if one.push and one.push not in journal.heard else one for one in arrivals
    ]
    account = Account(cycles=len(journal.puts))
    offered = Counter(key for put in journal.puts for key in put.keys)
    promised = {key for put in journal.puts if put.promised for key in put.keys}
    accepted = Counter(key for arrival in arrivals for key in arrival.keys)
    for loss in journal.losses:
        account.lost[loss.reason] += loss.records
    account.accepted = len(accepted)
    account.duplicates = accepted.total() - len(accepted)
    account.produced = len(promised | accepted.keys())
    account.missing = promised - accepted.keys()
    account.set_aside = max(0, min(len(account.missing.intersection(excused)), account.uncounted))
    account.faults += _balance(account, journal, arrivals, offered)
    if invented := accepted.keys() - offered.keys():
        account.faults.append(f"{len(invented)} points accepted that nobody measured: {_some(invented)}")
    account.faults += _order(account, arrivals)
    account.faults += _pace(arrivals, pace)
    account.faults += _repeats(journal, arrivals, ends, offered)
    return account


def _balance(
    account: Account, journal: Journal, arrivals: Sequence[Arrival], offered: Counter[Key]
) -> Iterator[str]:
    if account.uncounted > 0:
        yield f"{account.uncounted} records vanished in silence, of these: {_some(account.missing)}"
    # What may be counted as lost although the point is there: a second record of the same point (the first cycle
    # after a restart within one step), a record whose acceptance the agent could not know of, one whose `put` did
    # not return any more, and one that a transfer refused and then took while the agent searched for the bad ones.
    repeats = offered.total() - len(offered)
    told = {key for arrival in arrivals if arrival.told for key in arrival.keys}
    untold = {key for arrival in arrivals for key in arrival.keys} - told
    refused = {key for arrival in arrivals for key in arrival.refused}.intersection(told)
    broken_off = sum(len(put.keys) for put in journal.puts if not put.promised)
    if -account.uncounted > repeats + len(untold) + len(refused) + broken_off:
        yield f"{-account.uncounted} records were counted as lost that are not missing"


def _order(account: Account, arrivals: Sequence[Arrival]) -> Iterator[str]:
    newest: dict[str, int] = {}
    seen: set[Key] = set()
    late: list[Key] = []
    future: list[Key] = []
    for arrival in arrivals:
        for key in arrival.keys:
            series, timestamp = key
            if timestamp < newest.get(series, timestamp) and key not in seen:
                late.append(key)
            if timestamp > arrival.wall + FUTURE_SECONDS:
                future.append(key)
            newest[series] = max(newest.get(series, timestamp), timestamp)
            seen.add(key)
    account.out_of_order, account.future = len(late), len(future)
    if late:
        yield f"{len(late)} points came after a newer one of their series: {_some(late)}"
    if future:
        yield f"{len(future)} points came from the future: {_some(future)}"


def _pace(arrivals: Sequence[Arrival], pace: float) -> Iterator[str]:
    seen: set[Key] = set()
    last: Arrival | None = None
    for arrival in arrivals:
        stamps = {timestamp for _, timestamp in arrival.keys}
        if len(stamps) > 1:
            yield f"one POST held {len(stamps)} timestamps"
        if seen.issuperset(arrival.keys):
            continue
        seen.update(arrival.keys)
        if last is not None and stamps != {timestamp for _, timestamp in last.keys}:
            gap = arrival.at - last.at
            if gap < pace:
                yield f"two timestamps were pushed within {gap:.3f} s: {_some(last.keys)}, {_some(arrival.keys)}"
        last = arrival


def _repeats(
    journal: Journal, arrivals: Sequence[Arrival], ends: Sequence[float], offered: Counter[Key]
) -> Iterator[str]:
    acknowledged: dict[Key, float] = {}
    searched: set[Key] = set()
    repeated = []
    for arrival in arrivals:
        if arrival.fault in _SEARCHING:
            searched.update(arrival.keys)
        for key in arrival.keys:
            before = acknowledged.get(key)
            # One that had been given up may be accepted later than the one that came after it.
            begun = journal.pushed.get(arrival.push, arrival.at)
            # A point that was measured twice, by two lives within one step, may be pushed twice.
            excused = key in searched or offered[key] > 1
            if (
                before is not None
                and before < begun
                and not excused
                and not any(before < end < arrival.at for end in ends)
            ):
                repeated.append(key)
            if arrival.told:
                acknowledged[key] = arrival.at
    if repeated:
        yield f"{len(repeated)} points were pushed again after they had been acknowledged: {_some(repeated)}"


def _some(keys: Collection[Key]) -> str:
    return ", ".join(f"{series}@{timestamp}" for series, timestamp in sorted(keys)[:3])
