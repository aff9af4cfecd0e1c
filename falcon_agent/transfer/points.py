"""What a cycle measured as it waits for delivery: values by subject, checked, of which a POST is made when it is due.

A record of a POST is 220 bytes, nearly all of which its neighbours say too. So what waits is a document that says each
thing once; packing it and keeping it costs a tenth of what the body of the POST would.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING

import orjson

from falcon_agent.metric import counter_places, part_of, record_of
from falcon_agent.transfer.contract import room_for_metric, takes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from falcon_agent.metric import Metric, Report, Subject
    from falcon_agent.selfstat import SelfStat

_USUAL_SIZE = 64
"""Bytes. A longer name of a metric is held against the contract each time; so is a subject with less room for it."""

_EMPTY_SIZE = len("[]")
_HEAD_SIZE = len(
    '{"metric":,"counterType":,"step":4294967296,"timestamp":4294967296,"value":-1.7976931348623157e+308,'
)
"""What an item has beside the names, at most."""

_SIGNS = b"0123456789.,"
"""What a list of numbers consists of that every GAUGE may have: none has a sign or an exponent, and none is missing."""

_POINT = ord(".")


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """What becomes one POST.

    Attributes:
        document: JSON. `step` and `timestamp` are those of all records; `layouts` are lists of `[metric,
            counterType]`; each of `reports` is `[endpoint, tags, layout, values]`, with a value for each metric of
            the layout with that number. Values are text, with a comma between two: they are not read again.
        count: records in it.
        timestamp: of all of them, in seconds since the epoch.
    """

    document: bytes
    count: int
    timestamp: int


def body_of_points(document: bytes) -> bytes:
    """The body of the POST: a JSON array of items, as UTF-8.

    Raises:
        ValueError: it is no such document.
    """
    try:
        content = orjson.loads(document)
        time = f'"step":{content["step"]},"timestamp":{content["timestamp"]},"value":'
        layouts = [
            [f'{{"metric":{_json(metric)},"counterType":{_json(kind)},{time}' for metric, kind in layout]
            for layout in content["layouts"]
        ]
        portions = ["["]
        for endpoint, tags, layout, text in content["reports"]:
            heads, values = layouts[layout], text.split(",")
            if len(heads) != len(values):
                raise ValueError(f"{len(values)} values for {len(heads)} metrics")
            tail = f',"endpoint":{_json(endpoint)},"tags":{_json(tags)}}},'
            portions += tail.join(map(add, heads, values)), tail
        portions[-1] = portions[-1].removesuffix(",") + "]"
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"no document of points: {error}") from None
    return "".join(portions).encode()


def _json(text: str) -> str:
    return orjson.dumps(text).decode()


@dataclass(slots=True, eq=False)
class _About:
    """How a subject is written.

    Attributes:
        text: how a report about it begins; empty if nothing may be said of it.
        size: bytes that it takes in each item.
        usual: whether every metric with a name of usual length may be said of it.
    """

    text: bytes
    size: int
    usual: bool


@dataclass(slots=True, eq=False)
class _Layout:
    """How the metrics of a report are written, all of which the contract takes.

    Attributes:
        text: of them all.
        size: bytes that the items take, but for what their subject takes.
        counters: places of those whose values must be whole.
        usual: whether all names are of usual length.
    """

    text: bytes
    size: int
    counters: tuple[int, ...]
    usual: bool


class _Sheet:
    """A document in the making."""

    __slots__ = ("count", "layouts", "reports", "size")

    def __init__(self) -> None:
        self.reports: list[bytes] = []
        self.layouts: dict[bytes, bytes] = {}
        """The number of each, by its text."""
        self.count = 0
        self.size = _EMPTY_SIZE
        """Bytes of the body that becomes of it, at most."""

    def add(self, about: _About, layout: _Layout, values: bytes, count: int, size: int) -> None:
        """A report more, of so many values, which take so many bytes in the body."""
        number = self.layouts.get(layout.text)
        if number is None:
            number = self.layouts[layout.text] = b'%d,"' % len(self.layouts)
        self.reports.append(about.text + number + values[1:-1])
        self.count += count
        self.size += size

    def points(self, step: int, timestamp: int) -> Points:
        """What it is when nothing more comes."""
        document = b'{"step":%d,"timestamp":%d,"layouts":[%b],"reports":[%b"]]}' % (
            step,
            timestamp,
            b",".join(self.layouts),
            b'"],'.join(self.reports),
        )
        return Points(document, self.count, timestamp)


class PointMaker:
    """Makes the points of one cycle after another.

    What is obviously storable is not looked at value by value; everything else, and the first report of each layout in
    a cycle, is held against the whole contract.

    Args:
        stat: told what was refused, by reason.
        batch_size: most records in one POST.
        max_bytes: longest body of one; a single record that is longer still goes alone.
    """

    def __init__(self, stat: SelfStat, batch_size: int, max_bytes: int) -> None:
        self._stat = stat
        self._batch_size = batch_size
        self._max_bytes = max_bytes
        self._abouts: dict[Subject, _About] = {}
        self._layouts: dict[tuple[Metric, ...], _Layout] = {}

    def points(self, reports: Iterable[Report], step: int, timestamp: int) -> Iterator[Points]:
        """What Open-Falcon can store of these reports, in their order, each portion as soon as it is full.

        Args:
            reports: of one cycle.
            step: seconds between two cycles.
            timestamp: of all of them, in seconds since the epoch.
        """
        # What is used is kept for the next cycle, so that nothing is kept of what nobody speaks of any more.
        abouts: dict[Subject, _About] = {}
        proven: dict[tuple[Metric, ...], _Layout] = {}
        sheet = _Sheet()
        for report in reports:
            subject, metrics, values = report
            about = abouts[subject] = self._abouts.get(subject) or _about(subject)
            layout = proven.get(metrics) if about.usual else None
            text = _plain(values, layout) if layout is not None else None
            if layout is None or text is None:
                good = self._storable(report, step, timestamp)
                if not good:
                    continue
                if len(good) < len(values):
                    _, metrics, values = part_of(report, good)
                layout = self._layouts.get(metrics) or _layout(metrics)
                if layout.usual:
                    proven[metrics] = layout
                text = orjson.dumps(values)
            count = len(values)
            size = count * about.size + layout.size
            if sheet.count + count <= self._batch_size and sheet.size + size <= self._max_bytes:
                sheet.add(about, layout, text, count, size)
                continue
            for part in self._parts(about, metrics, values):
                if sheet.count:
                    yield sheet.points(step, timestamp)
                    sheet = _Sheet()
                sheet.add(*part)
        if sheet.count:
            yield sheet.points(step, timestamp)
        self._abouts, self._layouts = abouts, proven

    def _storable(self, report: Report, step: int, timestamp: int) -> list[int]:
        """The places of the values that the contract takes; the others are counted."""
        subject, metrics, values = report
        return [
            at
            for at, (metric, value) in enumerate(zip(metrics, values, strict=True))
            if takes(record_of(subject, metric, value, step, timestamp), self._stat)
        ]

    def _parts(
        self, about: _About, metrics: tuple[Metric, ...], values: tuple[int | float, ...]
    ) -> Iterator[tuple[_About, _Layout, bytes, int, int]]:
        """A report in pieces that each have room in a body, as `_Sheet.add` takes them."""
        layout, count = _layout(metrics), len(values)
        size = count * about.size + layout.size
        if count > 1 and (count > self._batch_size or size + _EMPTY_SIZE > self._max_bytes):
            middle = (count + 1) // 2
            yield from self._parts(about, metrics[:middle], values[:middle])
            yield from self._parts(about, metrics[middle:], values[middle:])
        else:
            yield about, layout, orjson.dumps(values), count, size


def _plain(values: tuple[int | float, ...], layout: _Layout) -> bytes | None:
    """Values as text, if it is plain that every metric of the layout may have its own; each is a finite number then."""
    try:
        text = orjson.dumps(values, option=orjson.OPT_STRICT_INTEGER)
    except TypeError:
        return None
    if text[1:-1].strip(_SIGNS):
        return None
    if _POINT in text:
        for at in layout.counters:
            if type(values[at]) is not int:
                return None
    return text


def _about(subject: Subject) -> _About:
    room = room_for_metric(subject.endpoint, subject.tags)
    if room is None:
        return _About(b"", 0, usual=False)
    endpoint, tags = orjson.dumps(subject.endpoint), orjson.dumps(subject.tags)
    return _About(
        b"[%b,%b," % (endpoint, tags),
        len(',"endpoint":,"tags":}') + len(endpoint) + len(tags),
        usual=room >= _USUAL_SIZE,
    )


def _layout(metrics: tuple[Metric, ...]) -> _Layout:
    text = orjson.dumps([(metric.name, metric.counter_type) for metric in metrics])
    return _Layout(
        text,
        len(text) + len(metrics) * _HEAD_SIZE,
        counter_places(metrics),
        usual=all(len(metric.name.encode()) <= _USUAL_SIZE for metric in metrics),
    )
