"""What a transfer accepted, in which order and when; and what an agent promised to deliver."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

Key: TypeAlias = tuple[str, int]
"""A point: the series it belongs to, and its timestamp."""


def key_of(item: Mapping[str, Any]) -> Key:
    """The point that an item of a push stands for."""
    return f"{item['endpoint']}/{item['metric']}/{item['tags']}", item["timestamp"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One POST whose records were accepted.

    Attributes:
        at: when, in seconds of the monotonic clock.
        wall: when, in seconds since the epoch.
        keys: the accepted points, as they were ordered in the POST.
        told: whether the agent was answered that they were accepted.
        fault: how the transfer behaved at that moment.
        refused: the points of the POST that it called invalid.
        push: what the agent's journal calls it; empty if it does not keep one.
    """

    at: float
    wall: float
    keys: tuple[Key, ...]
    told: bool = True
    fault: str = ""
    refused: tuple[Key, ...] = ()
    push: str = ""


class Ledger:
    """Every accepted POST, in the order of acceptance; safe to use from any thread."""

    def __init__(self) -> None:
        self._arrivals: list[Arrival] = []
        self._lock = threading.Lock()

    def accept(self, arrival: Arrival) -> None:
        """Write down a POST."""
        with self._lock:
            self._arrivals.append(arrival)

    def read(self) -> list[Arrival]:
        """What was accepted so far."""
        with self._lock:
            return list(self._arrivals)

    def timestamps(self) -> set[int]:
        """The timestamps of all points accepted so far."""
        return {timestamp for arrival in self.read() for _, timestamp in arrival.keys}


@dataclass(slots=True)
class Put:
    """The records of one cycle, as they were handed over for delivery.

    Attributes:
        life: process id of the agent that measured them.
        at: when, in seconds of the monotonic clock.
        keys: the points.
        promised: whether the call returned; from then on they must not be lost in silence.
    """

    life: int
    at: float
    keys: tuple[Key, ...]
    promised: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that the agent itself counted as given up or refused.

    Attributes:
        life: process id of the agent.
        name: of the counter.
        reason: as counted.
        records: how many.
    """

    life: int
    name: str
    reason: str
    records: int


@dataclass(frozen=True, slots=True)
class Journal:
    """What the tapped agents of one run wrote down, over all their lives.

    Attributes:
        puts: what was handed over.
        losses: what was given up or refused.
        pushed: when each POST was begun, in seconds of the monotonic clock.
        heard: those whose answer was heard.
    """

    puts: Sequence[Put]
    losses: Sequence[Loss]
    pushed: Mapping[str, float] = field(default_factory=dict)
    heard: Collection[str] = frozenset()

    @property
    def lost(self) -> int:
        """Records that were counted as lost, for whatever reason."""
        return sum(loss.records for loss in self.losses)


def read_journal(path: Path) -> Journal:
    """Parse a journal; the last line may be cut short, for its writer may have been killed."""
    puts: dict[tuple[int, int], Put] = {}
    losses: list[Loss] = []
    pushed: dict[str, float] = {}
    heard: set[str] = set()
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        life = entry["life"]
        match entry["what"]:
            case "offered":
                keys = tuple((series, timestamp) for series, timestamp in entry["keys"])
                puts[life, entry["number"]] = Put(life, entry["at"], keys)
            case "promised":
                puts[life, entry["number"]].promised = True
            case "lost":
                losses.append(Loss(life, entry["name"], entry["reason"], entry["records"]))
            case "pushed":
                pushed[entry["push"]] = entry["at"]
            case "heard":
                heard.add(entry["push"])
    return Journal(tuple(puts.values()), tuple(losses), pushed, heard)
