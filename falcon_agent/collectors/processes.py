"""What the processes of a container hold: threads and open files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from falcon_agent.errors import DeniedError, GoneError
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.metric import Metric, Source
from falcon_agent.procfs.fd import count_open_files
from falcon_agent.procfs.limits import parse_max_open_files
from falcon_agent.procfs.threads import parse_num_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from falcon_agent.collectors.base import Scope, Target
    from falcon_agent.metric import Sample

_Outcome: TypeAlias = int | float | str
"""A value, or in words why there is none."""

MOST_PROCESSES = 1000
"""Of one container; with more it is left out."""

MOST_SECONDS = 0.25
"""For all containers of one cycle; those after that are left out."""

_PROCS = Source("cgroup.procs")
_NEEDS = "CAP_DAC_READ_SEARCH before Linux 6.2"

COUNT = Metric(
    "container.proc.count",
    "GAUGE",
    "processes",
    "Processes of the container.",
    "lines of cgroup.procs here and below",
    (_PROCS,),
)
THREADS = Metric(
    "container.threads",
    "GAUGE",
    "threads",
    "Threads of its processes.",
    "sum of num_threads, field 20",
    (_PROCS, Source("stat")),
)
FDS = Metric(
    "container.fds",
    "GAUGE",
    "descriptors",
    "File descriptors that its processes have open; one that two of them share counts twice.",
    "sum of the entries",
    (_PROCS, Source("fd")),
    needs=_NEEDS,
)
FDS_MAX_PERCENT = Metric(
    "container.fds.max.percent",
    "GAUGE",
    "percent",
    "Of the process that is nearest to its limit of open files: the share of the limit that is used up.",
    "the largest of open descriptors / soft limit of Max open files x 100",
    (_PROCS, Source("fd"), Source("limits", ("Max open files",))),
    needs=_NEEDS,
)


class _UncountableError(DeniedError):
    """The open files of a process, and only these, may not be counted."""


class _Sums(NamedTuple):
    """What the processes of one container hold together; in words why a value is not known."""

    threads: _Outcome
    fds: _Outcome
    fullest: _Outcome


class ProcessesCollector:
    """Processes of containers, their threads and open files.

    Since Linux 6.2 it needs no privilege; before, counting the open files needs CAP_DAC_READ_SEARCH. It looks at every
    process, at about 0.03 ms each, so it is bounded: a container with more than 1,000 processes is left out, and after
    a quarter of a second so are all that follow in that cycle. The agent has to run in the host's PID namespace:
    elsewhere the kernel does not tell it the numbers of a container's processes.

    Args:
        proc: where /proc is.
        clock: monotonic seconds.
    """

    name = "processes"
    scope: Scope = "container"
    metrics: tuple[Metric, ...] = (COUNT, THREADS, FDS, FDS_MAX_PERCENT)

    def __init__(self, proc: str = "/proc", clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._deadline = 0.0
        self._absent: dict[str, dict[str, str]] = {}

    def begin(self, targets: Sequence[Target]) -> None:
        """Start the time that all containers share."""
        self._deadline = self._clock() + MOST_SECONDS

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """The samples of one container; errors as the methods of `Cgroup`."""
        if target is None:
            return
        absent = self._absent[target.container.key] = {}
        for metric, outcome in self._outcomes(target):
            if isinstance(outcome, str):
                absent[metric.name] = outcome
            else:
                yield metric, outcome, ()

    def forget(self, target: Target) -> None:
        """Drop what was said about a container that left."""
        self._absent.pop(target.container.key, None)

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why `metric` had no value for `target` in the last cycle."""
        return self._absent.get(target.container.key, {}).get(metric.name)

    def _outcomes(self, target: Target) -> Iterable[tuple[Metric, _Outcome]]:
        """Every metric with its value or the reason why there is none."""
        numbers = self._numbers(target)
        if isinstance(numbers, str):
            for metric in self.metrics:
                yield metric, numbers
            return
        yield COUNT, len(numbers)
        sums = self._sums(numbers)
        yield THREADS, sums.threads
        yield FDS, sums.fds
        yield FDS_MAX_PERCENT, sums.fullest

    def _numbers(self, target: Target) -> list[int] | str:
        """Its processes, or in words why they are not known."""
        if self._clock() > self._deadline:
            return _too_slow()
        numbers = target.cgroup.processes(MOST_PROCESSES)
        if numbers is None:
            return f"it has no cgroup, or more than {MOST_PROCESSES} processes or cgroups in it"
        if target.process.pid not in numbers:
            return (
                "cgroup.procs does not name its first process: the agent is not in the host's PID namespace"
            )
        return numbers

    def _sums(self, numbers: list[int]) -> _Sums:
        threads = fds = 0
        fullest = 0.0
        denied: str | None = None
        for number in numbers:
            if self._clock() > self._deadline:
                return _Sums(*[_too_slow()] * 3)
            process = f"{self._proc}/{number}"
            try:
                threads += parse_num_threads(read_to_eof(f"{process}/stat"))
                if denied is None:
                    count, share = _open_files(process)
                    fds += count
                    fullest = max(fullest, share)
            except GoneError:
                continue  # it ended meanwhile
            except _UncountableError as error:
                denied = str(error)
        if denied is not None:
            return _Sums(threads, denied, denied)
        return _Sums(threads, fds, round(fullest, 3))


def _open_files(process: str) -> tuple[int, float]:
    """How many descriptors a process has open, and what percentage of its limit that is."""
    try:
        count = count_open_files(process)
    except DeniedError as error:
        raise _UncountableError(
            error.path, f"{error.reason}; before Linux 6.2 this needs CAP_DAC_READ_SEARCH"
        ) from None
    content = read_to_eof(f"{process}/limits")
    # A zombie has no limits any more. One that is 0 is no base, and a program may set it to that.
    limit = parse_max_open_files(content) if content else None
    return count, count / limit * 100 if limit else 0.0


def _too_slow() -> str:
    return f"the processes of all containers together took longer than {MOST_SECONDS * 1000:.0f} ms in this cycle"
