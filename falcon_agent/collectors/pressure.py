"""For how long the work of a container stood still for want of CPU, memory or I/O."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from falcon_agent.errors import KernelFileError
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.metric import Metric, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from falcon_agent.cgroupfs import Pressure
    from falcon_agent.cgroupfs.pressure import Resource
    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample

_Outcome: TypeAlias = float | str
"""A value, or in words why there is none."""

_USEC_PER_SECOND = 1_000_000

_NEEDS_TWO = "a rate needs two samples"
_WENT_BACK = "the counter went back"
_NO_TIME = "no time has passed since the last sample"
_NO_ACCOUNT = (
    "the kernel keeps no pressure account of this cgroup (it takes cgroup v2, and cgroup.pressure not 0)"
)
_NO_FULL = "the kernel does not tell when all tasks waited"


def _metric(resource: Resource, line: str, meaning: str) -> Metric:
    return Metric(
        f"container.pressure.{resource}.{line}",
        "GAUGE",
        "percent",
        f"Share of the time since the last cycle in which {meaning}.",
        f"delta total of the line {line!r} / delta time x 100",
        (Source(f"{resource}.pressure", (line,), "v2"),),
    )


class _Pair(NamedTuple):
    """The two metrics of one resource."""

    resource: Resource
    some: Metric
    full: Metric


def _pair(resource: Resource, wanted: str) -> _Pair:
    return _Pair(
        resource,
        _metric(resource, "some", f"a task or more waited for {wanted}"),
        _metric(resource, "full", f"all tasks that had work waited for {wanted} at once"),
    )


_PAIRS = (
    _pair("cpu", "a CPU"),
    _pair("memory", "memory: reclaim, swap, refaults"),
    _pair("io", "I/O"),
)


class _Reading(NamedTuple):
    """What was read of one file, and when, on the monotonic clock in seconds."""

    at: float
    pressure: Pressure


class PressureCollector:
    """For how long containers stood still for want of CPU, memory or I/O (PSI); needs no privilege.

    Exact for the time between two cycles, unlike the kernel's own averages, so a new container has no value in its
    first one. It takes cgroup v2 (also where it is mounted beside v1 and the runtime uses it) and a kernel that was
    not booted with psi=0. Three files are read for each container (0.05 ms of CPU), none where the host keeps no
    such account.

    Args:
        proc: where /proc is.
        clock: monotonic seconds.
    """

    name = "pressure"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = tuple(metric for pair in _PAIRS for metric in (pair.some, pair.full))

    def __init__(self, proc: str = "/proc", clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._off: str | None = None
        self._last: dict[str, dict[Resource, _Reading]] = {}
        self._absent: dict[str, dict[str, str]] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Find out whether the host keeps pressure accounts at all."""
        try:
            read_to_eof(f"{self._proc}/pressure/cpu")
        except KernelFileError as error:
            # Absent, or since it is off "Operation not supported", depending on the kernel's age.
            self._off = f"the host keeps no pressure accounts ({error}; boot it with psi=1)"
        else:
            self._off = None

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The samples of one container; errors as the methods of `Cgroup`."""
        if target is None:
            return
        key = target.container.key
        absent = self._absent[key] = {}
        if self._off is not None:
            absent.update((metric.name, self._off) for metric in self.metrics)
            return
        last = self._last.setdefault(key, {})
        for resource, some, full in _PAIRS:
            pressure = target.cgroup.pressure(resource)
            if pressure is None:
                # The three files are there together or not at all.
                last.clear()
                absent.update((metric.name, _NO_ACCOUNT) for metric in self.metrics)
                return
            now = _Reading(self._clock(), pressure)
            before = last.get(resource)
            last[resource] = now
            for metric, outcome in zip((some, full), _outcomes(before, now), strict=True):
                if isinstance(outcome, str):
                    absent[metric.name] = outcome
                else:
                    yield metric, outcome, ()

    def forget(self, target: Target) -> None:
        """Drop the last reading of a container that left."""
        self._last.pop(target.container.key, None)
        self._absent.pop(target.container.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why `metric` had no value for `target` in the last cycle."""
        return self._absent.get(target.container.key, {}).get(metric.name)


def _outcomes(before: _Reading | None, now: _Reading) -> tuple[_Outcome, _Outcome]:
    """`some` and `full`."""
    if before is None:
        some: _Outcome = _NEEDS_TWO
        full: _Outcome = _NO_FULL if now.pressure.full_usec is None else _NEEDS_TWO
        return some, full
    seconds = now.at - before.at
    some = _percent(before.pressure.some_usec, now.pressure.some_usec, seconds)
    if before.pressure.full_usec is None or now.pressure.full_usec is None:
        return some, _NO_FULL
    return some, _percent(before.pressure.full_usec, now.pressure.full_usec, seconds)


def _percent(before_usec: int, now_usec: int, seconds: float) -> _Outcome:
    if now_usec < before_usec:
        return _WENT_BACK
    if seconds <= 0:
        return _NO_TIME
    # The clock is read after the file, so a standstill that lasts may come out a trifle above all of the time.
    return round(min((now_usec - before_usec) / _USEC_PER_SECOND / seconds, 1.0) * 100, 3)
