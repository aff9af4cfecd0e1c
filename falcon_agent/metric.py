"""What a metric is, and the record that goes over the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

CounterType: TypeAlias = Literal["GAUGE", "COUNTER"]

Tags: TypeAlias = tuple[tuple[str, str], ...]
"""The tags that one sample adds, `(key, value)`, e.g. `(("iface", "eth0"),)`; most samples add none."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a metric's number comes from.

    Attributes:
        file: end of the path of the kernel file, e.g. `cpu.stat` or `net/sockstat`; for netlink the name of the
            request, e.g. `sock_diag`.
        keys: the words that begin the lines used; empty means the whole file.
        layout: `v1` or `v2` where the file exists only in that cgroup version.
    """

    file: str
    keys: tuple[str, ...] = ()
    layout: Literal["", "v1", "v2"] = ""

    def __str__(self) -> str:
        words = [f"{self.layout}: " if self.layout else "", self.file]
        if self.keys:
            words.append(f" ({', '.join(self.keys)})")
        return "".join(words)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One row of the catalogue; declared once, in the module of the collector that yields it, and told by identity.

    Attributes:
        name: Open-Falcon metric name.
        counter_type: how graph stores it: GAUGE as it is, COUNTER as the rate per second.
        unit: of the value that is sent, e.g. `percent`, `bytes`, `sockets`.
        help: meaning in one sentence.
        formula: how the value follows from the sources, in words and kernel field names.
        sources: the kernel files it is read from.
        tags: keys that its records carry beside those of the container.
        needs: the privilege without which it is absent, in words; empty if none.
        is_counter: whether `counter_type` is COUNTER.
    """

    name: str
    counter_type: CounterType
    unit: str
    help: str
    formula: str
    sources: tuple[Source, ...] = ()
    tags: tuple[str, ...] = ()
    needs: str = ""
    is_counter: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_counter", self.counter_type == "COUNTER")


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """Whom a value is about. There is one object for each, so that what is worked out for it can be kept by identity.

    Attributes:
        endpoint: usually the host.
        tags: `key=value` pairs, sorted by key, joined by commas.
        counted: the last values of metrics among which there are COUNTERs; none of these is in two of them.
    """

    endpoint: str
    tags: str
    counted: dict[tuple[Metric, ...], tuple[int | float, ...]] = field(default_factory=dict)


Sample: TypeAlias = tuple[Metric, int | float, Tags]
"""What a collector yields: the metric, its value in the metric's unit, and the tags it adds."""


Report: TypeAlias = tuple[Subject, tuple[Metric, ...], tuple[int | float, ...]]
"""What was measured of a subject in a cycle: at least one metric, and the value of each. The subject's tags hold those
of the samples; with step and timestamp each value is a record."""


@lru_cache(maxsize=1024)
def counter_places(metrics: tuple[Metric, ...]) -> tuple[int, ...]:
    """The places of those that are COUNTERs."""
    return tuple(at for at, metric in enumerate(metrics) if metric.is_counter)


def part_of(report: Report, places: Sequence[int]) -> Report:
    """The values at these places, of which there is one at least."""
    subject, metrics, values = report
    return subject, tuple([metrics[at] for at in places]), tuple([values[at] for at in places])


@dataclass(slots=True)
class Record:
    """One item of a push, with the wire's own field names (Open-Falcon contract, `POST /api/push`).

    Attributes:
        endpoint: whom the value belongs to, usually the host.
        metric: metric name.
        value: a finite number; a whole one for COUNTER.
        step: seconds between two records of the series.
        counterType: GAUGE or COUNTER.
        tags: `key=value` pairs, sorted by key, joined by commas.
        timestamp: seconds since the epoch, a multiple of step.
    """

    endpoint: str
    metric: str
    value: int | float
    step: int
    counterType: str  # noqa: N815  the wire's name
    tags: str
    timestamp: int


def record_of(subject: Subject, metric: Metric, value: float, step: int, timestamp: int) -> Record:
    """A sample about a subject as the wire's item."""
    return Record(subject.endpoint, metric.name, value, step, metric.counter_type, subject.tags, timestamp)
