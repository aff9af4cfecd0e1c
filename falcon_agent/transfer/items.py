"""Samples become the items of a POST at once, as text; what is the same in every cycle is worked out once."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import orjson

from falcon_agent.metric import record_of
from falcon_agent.transfer.contract import COUNTER_LIMIT, room_for_metric, takes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from falcon_agent.metric import Metric, Report, Subject
    from falcon_agent.selfstat import SelfStat


_USUAL_SIZE = 64
"""Bytes. A longer name of a metric is held against the contract each time; so is a subject with less room for it."""


_NONE: Mapping[Metric, str] = {}


class ItemMaker:
    """Makes the items of one cycle after another.

    An item is what its metric, its timestamp and step say (once per cycle for all subjects), the value, and what its
    subject says (once for all cycles). What is obviously storable is not looked at again; everything else, and each
    metric's first item in a cycle, is held against the whole contract.

    Args:
        stat: told what was refused, by reason.
    """

    def __init__(self, stat: SelfStat) -> None:
        self._stat = stat
        self._tails: dict[Subject, str] = {}

    def items(self, reports: Iterable[Report], step: int, timestamp: int) -> Iterator[list[str]]:
        """For each report the samples that Open-Falcon can store, as JSON objects, in their order.

        Args:
            reports: of one cycle.
            step: seconds between two cycles.
            timestamp: of all of them, in seconds since the epoch.
        """
        # How an item begins, by what kind of value the metric may have.
        whole: dict[Metric, str] = {}
        real: dict[Metric, str] = {}
        tails: dict[Subject, str] = {}
        for subject, samples in reports:
            tail = tails[subject] = self._tails.get(subject) or _tail(subject)
            wholes, reals = (whole, real) if tail else (_NONE, _NONE)
            items: list[str] = []
            append = items.append
            for metric, value, _ in samples:
                # Thirty times for each container: as few steps as can be.
                try:
                    if type(value) is int:
                        if 0 <= value < COUNTER_LIMIT:
                            append(f"{wholes[metric]}{value}{tail}")
                            continue
                    elif type(value) is float and isfinite(value):
                        append(f"{reals[metric]}{value}{tail}")
                        continue
                except KeyError:
                    pass  # not in this cycle yet, or not to be had
                record = record_of(subject, metric, value, step, timestamp)
                if takes(record, self._stat):
                    append(orjson.dumps(record).decode())
                    if len(metric.name.encode()) <= _USUAL_SIZE:
                        whole[metric] = head = _head(metric, step, timestamp)
                        if metric.counter_type == "GAUGE":
                            real[metric] = head
            yield items
        # Of the subjects that are spoken of no more nothing is kept.
        self._tails = tails


def _head(metric: Metric, step: int, timestamp: int) -> str:
    """How an item of a metric begins."""
    name, kind = orjson.dumps(metric.name).decode(), orjson.dumps(metric.counter_type).decode()
    return f'{{"metric":{name},"counterType":{kind},"step":{step},"timestamp":{timestamp},"value":'


def _tail(subject: Subject) -> str:
    """How an item of a subject ends; empty if it leaves less room for the metric's name than is usual."""
    room = room_for_metric(subject.endpoint, subject.tags)
    if room is None or room < _USUAL_SIZE:
        return ""
    endpoint, tags = orjson.dumps(subject.endpoint).decode(), orjson.dumps(subject.tags).decode()
    return f',"endpoint":{endpoint},"tags":{tags}}}'
