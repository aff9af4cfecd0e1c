"""Samples become the items of a POST at once, as text; what is the same in every cycle is worked out once."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import orjson

from falcon_agent.metric import record_of
from falcon_agent.transfer.contract import (
    COUNTER_LIMIT,
    COUNTER_TYPES,
    is_good_time,
    metric_size,
    room_for_metric,
    takes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from falcon_agent.metric import Metric, Report, Subject
    from falcon_agent.selfstat import SelfStat


class ItemMaker:
    """Makes the items of one cycle after another.

    An item is what its metric, its timestamp and step say (once per cycle for all subjects), the value, and what its
    subject says (once for all cycles). What is obviously storable is not looked at again; everything else is held
    against the whole contract.

    Args:
        stat: told what was refused, by reason.
    """

    def __init__(self, stat: SelfStat) -> None:
        self._stat = stat
        self._tails: dict[Subject, tuple[str, int]] = {}

    def items(self, reports: Iterable[Report], step: int, timestamp: int) -> Iterator[list[str]]:
        """For each report the samples that Open-Falcon can store, as JSON objects, in their order.

        Args:
            reports: of one cycle.
            step: seconds between two cycles.
            timestamp: of all of them, in seconds since the epoch.
        """
        heads: dict[Metric, tuple[str, int, bool]] = {}
        tails: dict[Subject, tuple[str, int]] = {}
        for subject, samples in reports:
            tail, room = tails[subject] = self._tails.get(subject) or _tail(subject)
            items: list[str] = []
            for metric, value, _ in samples:
                try:
                    head, size, is_counter = heads[metric]
                except KeyError:
                    head, size, is_counter = heads[metric] = _head(metric, step, timestamp)
                if size <= room and (
                    0 <= value < COUNTER_LIMIT
                    if type(value) is int
                    else type(value) is float and isfinite(value) and not is_counter
                ):
                    items.append(f"{head}{value}{tail}")
                    continue
                record = record_of(subject, metric, value, step, timestamp)
                if takes(record, self._stat):
                    items.append(orjson.dumps(record).decode())
            yield items
        # Of the subjects that are spoken of no more nothing is kept.
        self._tails = tails


def _head(metric: Metric, step: int, timestamp: int) -> tuple[str, int, bool]:
    """How an item of a metric begins, how much room its name needs, and whether it is a COUNTER."""
    size = metric_size(metric.name)
    if size is None or metric.counter_type not in COUNTER_TYPES or not is_good_time(step, timestamp):
        return "", COUNTER_LIMIT, False  # no subject has so much room: the contract says why
    name, kind = orjson.dumps(metric.name).decode(), orjson.dumps(metric.counter_type).decode()
    head = f'{{"metric":{name},"counterType":{kind},"step":{step},"timestamp":{timestamp},"value":'
    return head, size, metric.counter_type == "COUNTER"


def _tail(subject: Subject) -> tuple[str, int]:
    """How an item of a subject ends, and how much room it leaves for the metric's name."""
    room = room_for_metric(subject.endpoint, subject.tags)
    if room is None:
        return "", -1
    endpoint, tags = orjson.dumps(subject.endpoint).decode(), orjson.dumps(subject.tags).decode()
    return f',"endpoint":{endpoint},"tags":{tags}}}', room
