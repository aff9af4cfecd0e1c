"""What a collector is: one subject, one module, data about its metrics and a function that yields samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, cast, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from falcon_agent.cgroupfs import Cgroup
    from falcon_agent.container import Container
    from falcon_agent.metric import Metric, Sample, Tags
    from falcon_agent.procfs.process import Process

Scope: TypeAlias = Literal["container", "netns", "host"]
"""How often a collector is asked: per container, per network namespace but the host's, or per cycle."""

Outcome: TypeAlias = int | float | str
"""A value, or in words why there is none."""


@dataclass(slots=True, eq=False)
class Target:
    """A container, opened for measuring.

    The runner opens it when the container appears and closes it when it leaves. For collectors of scope `netns`
    it is the one container that stands for its network namespace.

    Attributes:
        container: what discovery knows.
        process: its first process, bound to /proc/PID.
        cgroup: its cgroup, in whatever layout the host has.
        key: `container.key`, by which collectors keep what they know of it.
    """

    container: Container
    process: Process
    cgroup: Cgroup
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.container.key


class Collector(Protocol):
    """A subject that can be measured.

    Attributes:
        name: as in `[collectors] enabled`.
        scope: how often it is asked.
        metrics: everything it may yield.
    """

    name: str
    scope: Scope
    metrics: tuple[Metric, ...]

    def begin(self, targets: Sequence[Target]) -> None:
        """Called once at the start of each cycle with all targets of its scope, for what is cheaper at once.

        Errors: as `collect`; then the collector yields nothing in this cycle.
        """

    def collect(self, target: Target | None) -> Iterable[Sample]:
        """Measure one target now. What is not known is left out: never 0 or -1 for it.

        Raises:
            GoneError: the container ended meanwhile (nothing is reported, nothing is wrong).
            FalconAgentError: it could not be measured; counted and logged by the runner, others go on.
        """

    def forget(self, target: Target) -> None:
        """The container left: drop what was kept for it (by `target.container.key`)."""

    def absent(self, metric: Metric, target: Target) -> str | None:
        """Why `metric` had no value for `target` in the last cycle, in words, or None if nothing is known."""


@runtime_checkable
class TellsOfEnded(Collector, Protocol):
    """A collector that also has something to say of containers that ended, when they are no targets any more."""

    def ended(self) -> Iterable[tuple[Container, Sample]]:
        """Called once in each cycle, after the targets were measured; what it yields is reported as theirs.

        Raises:
            FalconAgentError: counted and logged by the runner, others go on.
        """


def with_value(outcomes: Iterable[tuple[Metric, Outcome, Tags]]) -> list[Sample]:
    """The outcomes that are samples."""
    return cast("list[Sample]", [one for one in outcomes if type(one[1]) is not str])
