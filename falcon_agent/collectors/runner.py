"""Runs the collectors over the containers, contains their failures, and turns samples into records."""

from __future__ import annotations

import logging
import time
from itertools import groupby
from operator import gt, itemgetter
from typing import TYPE_CHECKING, TypeAlias

from falcon_agent.cgroupfs import Cgroup
from falcon_agent.collectors.base import Target, TellsOfEnded
from falcon_agent.collectors.subjects import Bearer, Subjects
from falcon_agent.errors import FalconAgentError, GoneError
from falcon_agent.metric import counter_places, part_of, record_of
from falcon_agent.procfs.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from falcon_agent.cgroupfs import Hierarchies
    from falcon_agent.collectors.base import Collector, Scope
    from falcon_agent.collectors.subjects import Naming
    from falcon_agent.container import Container
    from falcon_agent.metric import Record, Report, Sample, Tags
    from falcon_agent.procfs.endings import Endings
    from falcon_agent.selfstat import SelfStat

log = logging.getLogger(__name__)

_TAGS = itemgetter(2)
_OPEN, _KEPT = 1, 4
"""Descriptors for a process, and more for one that is watched: its end, net/sockstat, sockstat6, and sock_diag."""
Measured: TypeAlias = "tuple[Container | None, Record]"
"""A record and whom it is about; None is the agent itself."""

_Said: TypeAlias = "tuple[Container | None, list[Report]]"
"""What one collector says of one target."""


class Runner:
    """One cycle of measuring after another.

    Args:
        collectors: what to measure, asked in this order.
        hierarchies: the host's cgroup mounts.
        naming: makes endpoints and tags.
        step: seconds between cycles.
        stat: the agent's own counters.
        proc: where /proc is.
        endings: what watches the containers' first processes, so that more can stay open; without it less does.
    """

    def __init__(
        self,
        collectors: Sequence[Collector],
        hierarchies: Hierarchies,
        naming: Naming,
        step: int,
        stat: SelfStat,
        proc: str = "/proc",
        endings: Endings | None = None,
    ) -> None:
        self.collectors = collectors
        # Looked up once: it takes Python longer than asking the collector.
        self._telling = [one if isinstance(one, TellsOfEnded) else None for one in collectors]
        self._hierarchies = hierarchies
        self._naming = naming
        self._step = step
        self._stat = stat
        self._proc = proc
        self._endings = endings
        self._targets: dict[str, Target] = {}
        self._opened_for: Sequence[Container] = ()
        self._asked: dict[Scope, list[Target]] = {}
        self._subjects = Subjects()
        # By whether they speak for their network namespace.
        self._bearers: dict[bool, dict[Target | None, Bearer]] = {False: {}, True: {}}
        self._complaints: dict[tuple[str, str], str] = {}

    def reports(self, containers: Iterable[Container]) -> Iterator[Report]:
        """Measure every container once, one collector after the other.

        What was measured may be used up while the rest is still to come: that is what keeps a cycle small.

        Args:
            containers: those that run now.

        Yields:
            What was measured, nothing twice: a second sample of a series is left out and counted.
        """
        for _, reports in self._measure(containers):
            yield from reports

    def measure(self, containers: Iterable[Container], timestamp: int) -> list[Measured]:
        """Like `reports`, as records, with the container that each is about.

        Args:
            containers: those that run now.
            timestamp: of all records of the cycle: its start, floored to step.
        """
        return [
            (container, record_of(subject, metric, value, self._step, timestamp))
            for container, reports in self._measure(containers)
            for subject, metrics, values in reports
            for metric, value in zip(metrics, values, strict=True)
        ]

    def _measure(self, containers: Iterable[Container]) -> Iterator[_Said]:
        started = time.monotonic()
        self._subjects.new_cycle()
        self._hierarchies.new_cycle()
        self._open(list(containers))
        for collector, telling in zip(self.collectors, self._telling, strict=True):
            if collector.scope == "host":
                # Asked last of all (see COLLECTORS), so it sees what this cycle cost.
                self._stat.set("collect.duration", (time.monotonic() - started) * 1000)
            said = self._ask(collector, self._asked.get(collector.scope))
            passing: list[Bearer] = []
            if telling is not None:
                said += self._ask_of_ended(telling, passing)
            # No two collectors have a metric in common.
            kept = self._without_doubles(said) if self._subjects.shared else said
            for bearer in passing:
                bearer.release()
            yield from kept

    def target(self, container: Container) -> Target | None:
        """The open target of a container of the last cycle, or None if it was gone by then."""
        return self._targets.get(container.key)

    def still_runs(self, container: Container) -> bool | None:
        """Whether a container's first process has not ended; None if the last cycle did not know it."""
        target = self._targets.get(container.key)
        return None if target is None else target.process.still_runs()

    def speaker(self, container: Container) -> Target | None:
        """The target under whose name a container's network namespace is reported; None for the host's."""
        if container.host_network:
            return None
        key = _namespace(container)
        owners = namespace_owners(self._targets.values())
        return next((owner for owner in owners if _namespace(owner.container) == key), None)

    def close(self) -> None:
        """Let every container go, and stop watching."""
        self._open(())
        if self._endings is not None:
            self._endings.close()

    def _ask(self, collector: Collector, targets: Sequence[Target] | None) -> list[_Said]:
        """What one collector says of its targets; its failures are counted, logged once, and end nothing else.

        Args:
            collector: whom to ask.
            targets: of its scope; None for the host.
        """
        started = time.thread_time()
        try:
            collector.begin(targets or ())
        except Exception as error:  # noqa: BLE001  a faulty collector must not end the cycle
            self._failed(collector, None, error)
            return []
        of_namespace = collector.scope == "netns"
        bearers = self._bearers[of_namespace]
        said: list[_Said] = []
        for target in [None] if targets is None else targets:
            try:
                found = collector.collect(target)
                samples = found if isinstance(found, list) else list(found)
                bearer = bearers.get(target) or self._new_bearer(target, of_namespace=of_namespace)
                reports = _reports(bearer, samples)
            except GoneError:
                continue
            except Exception as error:  # noqa: BLE001  the same
                self._failed(collector, target, error)
                continue
            said.append((target.container if target else None, reports))
        self._stat.set("collect.cpu", (time.thread_time() - started) * 1000, collector.name)
        return said

    def _ask_of_ended(self, collector: TellsOfEnded, passing: list[Bearer]) -> list[_Said]:
        """What is left to say of containers that are no targets any more, by bearers that exist for that only."""
        try:
            found = list(collector.ended())
        except Exception as error:  # noqa: BLE001  a faulty collector must not end the cycle
            self._failed(collector, None, error)
            return []
        said: list[_Said] = []
        for container, (metric, value, tags) in found:
            bearer = self._bearer_of(container, of_namespace=False)
            passing.append(bearer)
            # The next life's COUNTERs are not to be held against the last one's.
            subject = bearer.subject(tags) if tags else bearer.plain
            said.append((container, [(subject, (metric,), (value,))]))
        return said

    def _new_bearer(self, target: Target | None, *, of_namespace: bool) -> Bearer:
        container = target.container if target else None
        if of_namespace and (container is None or container.pod is None):
            # Only a pod has a name of its own for what its containers share.
            bearer = self._bearers[False].get(target) or self._new_bearer(target, of_namespace=False)
        else:
            bearer = self._bearer_of(container, of_namespace=of_namespace)
        self._bearers[of_namespace][target] = bearer
        return bearer

    def _bearer_of(self, container: Container | None, *, of_namespace: bool) -> Bearer:
        return Bearer(
            self._subjects,
            self._naming.endpoint(container),
            self._naming.tags(container, of_namespace=of_namespace),
        )

    def _without_doubles(self, said: list[_Said]) -> list[_Said]:
        """Two containers may come out under one name; graph would keep either point, so the second is named lost."""
        shared = self._subjects.shared
        seen = set()
        kept: list[_Said] = []
        for container, reports in said:
            single: list[Report] = []
            for report in reports:
                subject, metrics, _ = report
                if subject not in shared:
                    single.append(report)
                    continue
                first = [at for at, metric in enumerate(metrics) if (subject, metric) not in seen]
                seen |= {(subject, metric) for metric in metrics}
                if len(first) < len(metrics):
                    self._stat.count("records.invalid", "duplicate", len(metrics) - len(first))
                    text = "a second container has the same endpoint and tags"
                    self._complain("duplicate", subject.tags, text)
                if first:
                    single.append(part_of(report, first))
            kept.append((container, single))
        return kept

    def _open(self, containers: Sequence[Container]) -> None:
        """Make the open targets those of `containers`."""
        if len(containers) == len(self._targets) and containers == self._opened_for:
            return
        wanted = {container.key: container for container in containers}
        for key in self._targets.keys() - wanted.keys():
            target = self._targets.pop(key)
            for collector in self.collectors:
                collector.forget(target)
            self._close(target.process)
            target.cgroup.close()
            self._drop_bearers(target)
            self._complaints = {k: v for k, v in self._complaints.items() if k[1] != target.container.name}
        for key, container in wanted.items():
            known = self._targets.get(key)
            if known is not None:
                if known.container is not container and known.container != container:
                    known.container = container  # renamed, or its labels are known only now
                    self._drop_bearers(known)
                continue
            try:
                process = self._opened(container)
            except GoneError:
                continue
            except FalconAgentError as error:
                self._complain("open", container.name, str(error))
                self._stat.count("collect.failed", "open")
                continue
            self._targets[key] = Target(container, process, Cgroup(self._hierarchies, container.cgroup))
        targets = self._targets.values()
        self._asked = {
            "container": [target for target in targets if not target.container.pause],
            "netns": namespace_owners(targets),
        }
        self._opened_for = containers

    def _opened(self, container: Container) -> Process:
        process = Process(self._proc, container.pid, container.starttime)
        budget = self._hierarchies.budget
        # Nothing can be measured without it: it is counted, and opened in any case.
        budget.give(-_OPEN)
        if self._endings is None or not budget.take(_KEPT):
            return process
        try:
            watched = self._endings.watch(process)
        except GoneError:
            process.close()
            budget.give(_OPEN + _KEPT)
            raise
        if not watched:
            budget.give(_KEPT)
        return process

    def _close(self, process: Process) -> None:
        if self._endings is not None and process.is_watched:
            self._endings.forget(process)
            self._hierarchies.budget.give(_KEPT)
        process.close()
        self._hierarchies.budget.give(_OPEN)

    def _drop_bearers(self, target: Target) -> None:
        for bearer in {bearers.pop(target, None) for bearers in self._bearers.values()}:
            if bearer is not None:
                bearer.release()

    def _failed(self, collector: Collector, target: Target | None, error: Exception) -> None:
        self._stat.count("collect.failed", collector.name)
        expected = isinstance(error, FalconAgentError)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        name = target.container.name if target else ""
        if self._complain(collector.name, name, text) and not expected:
            log.error("unexpected error in collector %s", collector.name, exc_info=error)

    def _complain(self, subject: str, name: str, text: str) -> bool:
        """Log a complaint unless it is the last one said of this subject and container."""
        if self._complaints.get((subject, name)) == text:
            return False
        self._complaints[subject, name] = text
        log.warning("%s %r: %s", subject, name, text)
        return True


def _reports(bearer: Bearer, samples: Sequence[Sample]) -> list[Report]:
    """The samples of one target by subject, less the COUNTERs that fell since the last: a restart, not a rate."""
    if not samples:
        return []
    metrics, values, tags = zip(*samples)  # noqa: B905  triples, all of them
    own: Tags = tags[0]
    if tags.count(own) != len(tags):  # those of one interface or mount come together
        return [one for _, group in groupby(samples, _TAGS) for one in _reports(bearer, list(group))]
    report = (bearer.subject(own) if own else bearer.plain), metrics, values
    fallen = _fallen(report)
    if not fallen:
        return [report]
    kept = [at for at in range(len(metrics)) if at not in fallen]
    return [part_of(report, kept)] if kept else []


def _fallen(report: Report) -> Sequence[int]:
    """The places of the COUNTERs that are less than they were in the last report about the subject."""
    subject, metrics, values = report
    places = counter_places(metrics)
    if not places:
        return ()
    before = subject.counted.get(metrics) or _counted(report, places)
    subject.counted[metrics] = values
    # None has, nearly always: so they are not looked at one by one.
    if len(places) == len(values) and not any(map(gt, before, values)):
        return ()
    return [at for at in places if before[at] > values[at]]


def _counted(report: Report, places: Sequence[int]) -> tuple[int | float, ...]:
    """The last values of the COUNTERs where these came with other metrics, from whom they are taken away."""
    subject, metrics, values = report
    before = dict(zip(metrics, values, strict=True))
    for others, last in list(subject.counted.items()):
        if any(metrics[at] in others for at in places):
            before.update(zip(others, last, strict=True))
            del subject.counted[others]
            if rest := [at for at, one in enumerate(others) if one.is_counter and one not in metrics]:
                _, left, values_left = part_of((subject, others, last), rest)
                subject.counted[left] = values_left
    return tuple([before[metric] for metric in metrics])


def namespace_owners(targets: Iterable[Target]) -> list[Target]:
    """One target for each network namespace that is not the host's.

    Namespaces are told apart by inode, or, where the kernel does not let us see it, by what the runtime says. Of
    several containers in one the owner stands for it: a pod's sandbox, the one the others joined, else the one that
    ran first.
    """
    owners: dict[int | str, Target] = {}
    for target in targets:
        container = target.container
        if container.host_network:
            continue
        key = _namespace(container)
        owner = owners.get(key)
        if owner is None or _precedence(container) < _precedence(owner.container):
            owners[key] = target
    return list(owners.values())


def _namespace(container: Container) -> int | str:
    if container.netns is not None:
        return container.netns
    # The key of a pod first: who found it by its cgroup alone does not know whose sandbox is whose.
    return container.pod.key if container.pod is not None else container.network_of or container.id


def _precedence(container: Container) -> tuple[bool, bool, int, int]:
    joined_another = container.network_of not in {"", container.id}
    return not container.pause, joined_another, container.starttime, container.pid
