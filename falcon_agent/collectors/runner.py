"""Runs the collectors over the containers, contains their failures, and turns samples into records."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeAlias

from falcon_agent.cgroupfs import Cgroup
from falcon_agent.collectors.base import Target, TellsOfEnded
from falcon_agent.errors import FalconAgentError, GoneError
from falcon_agent.metric import Record
from falcon_agent.naming import clean_name, join_tags
from falcon_agent.procfs.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from falcon_agent.cgroupfs import Hierarchies
    from falcon_agent.collectors.base import Collector
    from falcon_agent.container import Container, Template
    from falcon_agent.metric import Metric, Sample, Tags
    from falcon_agent.selfstat import SelfStat

log = logging.getLogger(__name__)

_COUNTER_MEMORY = 10
"""Cycles for which a COUNTER's last value is remembered after its series fell silent."""


Measured: TypeAlias = "tuple[Container | None, Record]"
"""A record and whom it is about; None is the agent itself."""


class Naming:
    """Who a record is about: the endpoint and the tags of a container's records.

    Args:
        hostname: this host.
        endpoint: template of the endpoint; where it comes out empty the host name stands in.
        tags: added to every record; everything more specific wins over them.
        container_tags: templates added to every container's records; one that comes out empty is left out.
    """

    def __init__(
        self,
        hostname: str,
        endpoint: Template,
        tags: Mapping[str, str],
        container_tags: Mapping[str, Template],
    ) -> None:
        self._hostname = hostname
        self._endpoint = endpoint
        self._tags = tuple(tags.items())
        self._container_tags = tuple(container_tags.items())

    def endpoint(self, container: Container | None) -> str:
        """The endpoint for a container's records, or (None) for those of the agent itself."""
        if container is None and self._endpoint.about_container:
            return clean_name(self._hostname)
        return clean_name(self._endpoint.expand(self._hostname, container)) or clean_name(self._hostname)

    def tags(self, container: Container | None, *, of_namespace: bool) -> Tags:
        """The tags that all records of a container share, least specific first.

        With `of_namespace` they are about its network namespace: inside a pod that is the pod's, not one container's.
        """
        if container is None:
            return self._tags
        filled = ((key, text.expand(self._hostname, container)) for key, text in self._container_tags)
        pairs = [*self._tags, *(pair for pair in filled if pair[1])]
        pod = container.pod
        if pod is None or not of_namespace:
            pairs.append(("name", container.name))
        if pod is not None:
            pairs += [("pod", pod.name or pod.uid), ("namespace", pod.namespace)]
        return tuple(pair for pair in pairs if pair[1])


class _Series:
    """The constant part of one target's records, so that tags are joined once and not in every cycle."""

    __slots__ = ("_base", "_joined", "endpoint")

    def __init__(self, endpoint: str, base: Tags) -> None:
        self.endpoint = endpoint
        self._base = base
        self._joined: dict[Tags, str] = {}

    def tags(self, own: Tags) -> str:
        joined = self._joined.get(own)
        if joined is None:
            joined = self._joined[own] = join_tags((*self._base, *own))
        return joined


class Runner:
    """One cycle of measuring after another.

    Args:
        collectors: what to measure, asked in this order.
        hierarchies: the host's cgroup mounts.
        naming: makes endpoints and tags.
        step: seconds between cycles.
        stat: the agent's own counters.
        proc: where /proc is.
    """

    def __init__(
        self,
        collectors: Sequence[Collector],
        hierarchies: Hierarchies,
        naming: Naming,
        step: int,
        stat: SelfStat,
        proc: str = "/proc",
    ) -> None:
        self.collectors = collectors
        self._hierarchies = hierarchies
        self._naming = naming
        self._step = step
        self._stat = stat
        self._proc = proc
        self._targets: dict[str, Target] = {}
        self._series: dict[tuple[str, bool], _Series] = {}
        self._counters: dict[tuple[str, str, str], tuple[int | float, int]] = {}
        self._cycles = 0
        self._complaints: dict[tuple[str, str], str] = {}

    def cycle(self, containers: Iterable[Container], timestamp: int) -> list[Record]:
        """Measure every container once.

        Args:
            containers: those that run now.
            timestamp: of all records of the cycle: its start, floored to step.

        Returns:
            The records, none of them twice: a second one of a series is left out and counted.
        """
        return [record for _, record in self.measure(containers, timestamp)]

    def measure(self, containers: Iterable[Container], timestamp: int) -> list[Measured]:
        """Like `cycle`, with the container that each record is about."""
        started = time.monotonic()
        self._cycles += 1
        self._hierarchies.new_cycle()
        self._open(containers)
        namespaces = namespace_owners(self._targets.values())
        everyone = [target for target in self._targets.values() if not target.container.pause]
        measured: list[Measured] = []
        for collector in self.collectors:
            if collector.scope == "host":
                # Asked last of all (see COLLECTORS), so it sees what this cycle cost.
                self._stat.set("collect.duration", (time.monotonic() - started) * 1000)
                measured += self._records(collector, [None], timestamp)
            else:
                of_scope = namespaces if collector.scope == "netns" else everyone
                measured += self._records(collector, of_scope, timestamp)
            if isinstance(collector, TellsOfEnded):
                measured += self._records_of_ended(collector, timestamp)
        self._forget_silent_counters()
        return self._without_doubles(measured)

    def target(self, container: Container) -> Target | None:
        """The open target of a container of the last cycle, or None if it was gone by then."""
        return self._targets.get(container.key)

    def speaker(self, container: Container) -> Target | None:
        """The target under whose name a container's network namespace is reported; None for the host's."""
        if container.host_network:
            return None
        key = _namespace(container)
        owners = namespace_owners(self._targets.values())
        return next((owner for owner in owners if _namespace(owner.container) == key), None)

    def close(self) -> None:
        """Let every container go."""
        self._open(())

    def samples(
        self, collector: Collector, targets: Sequence[Target | None]
    ) -> Iterable[tuple[Target | None, Sample]]:
        """What one collector says of its targets; its failures are counted, logged once, and end nothing else."""
        try:
            collector.begin([target for target in targets if target is not None])
        except Exception as error:  # noqa: BLE001  a faulty collector must not end the cycle
            self._failed(collector, None, error)
            return
        for target in targets:
            try:
                found = list(collector.collect(target))
            except GoneError:
                continue
            except Exception as error:  # noqa: BLE001  the same
                self._failed(collector, target, error)
                continue
            for sample in found:
                yield target, sample

    def _records(
        self, collector: Collector, targets: Sequence[Target | None], timestamp: int
    ) -> Iterable[Measured]:
        started = time.thread_time()
        of_namespace = collector.scope == "netns"
        step = self._step
        for target, (metric, value, tags) in self.samples(collector, targets):
            series = self._series_of(target, of_namespace=of_namespace)
            joined = series.tags(tags)
            if metric.counter_type == "COUNTER" and self._went_back(series.endpoint, metric, joined, value):
                continue
            record = Record(series.endpoint, metric.name, value, step, metric.counter_type, joined, timestamp)
            yield target.container if target else None, record
        self._stat.set("collect.cpu", (time.thread_time() - started) * 1000, collector.name)

    def _records_of_ended(self, collector: TellsOfEnded, timestamp: int) -> list[Measured]:
        """What is left to say of containers that are no targets any more; they have no series that is kept."""
        try:
            found = list(collector.ended())
        except Exception as error:  # noqa: BLE001  a faulty collector must not end the cycle
            self._failed(collector, None, error)
            return []
        measured: list[Measured] = []
        for container, (metric, value, tags) in found:
            endpoint = self._naming.endpoint(container)
            joined = join_tags((*self._naming.tags(container, of_namespace=False), *tags))
            record = Record(endpoint, metric.name, value, self._step, metric.counter_type, joined, timestamp)
            measured.append((container, record))
        return measured

    def _series_of(self, target: Target | None, *, of_namespace: bool) -> _Series:
        key = (target.container.key if target else "", of_namespace)
        series = self._series.get(key)
        if series is None:
            container = target.container if target else None
            series = _Series(
                self._naming.endpoint(container), self._naming.tags(container, of_namespace=of_namespace)
            )
            self._series[key] = series
        return series

    def _went_back(self, endpoint: str, metric: Metric, tags: str, value: float) -> bool:
        """Whether a COUNTER fell since its last sample: a restart, not a rate; one sample is left out."""
        key = (endpoint, metric.name, tags)
        last = self._counters.get(key)
        self._counters[key] = (value, self._cycles)
        return last is not None and value < last[0]

    def _forget_silent_counters(self) -> None:
        oldest = self._cycles - _COUNTER_MEMORY
        silent = [key for key, (_, seen) in self._counters.items() if seen < oldest]
        for key in silent:
            del self._counters[key]

    def _without_doubles(self, measured: list[Measured]) -> list[Measured]:
        """Two containers may come out under one name; graph would keep either point, so the second is named lost."""
        seen: set[tuple[str, str, str]] = set()
        kept = []
        for item in measured:
            record = item[1]
            key = (record.endpoint, record.metric, record.tags)
            if key in seen:
                self._stat.count("records.invalid", "duplicate")
                self._complain("duplicate", record.tags, "a second container has the same endpoint and tags")
            else:
                seen.add(key)
                kept.append(item)
        return kept

    def _open(self, containers: Iterable[Container]) -> None:
        """Make the open targets those of `containers`."""
        wanted = {container.key: container for container in containers}
        for key in self._targets.keys() - wanted.keys():
            target = self._targets.pop(key)
            for collector in self.collectors:
                collector.forget(target)
            target.process.close()
            self._drop_series(key)
            self._complaints = {k: v for k, v in self._complaints.items() if k[1] != target.container.name}
        for key, container in wanted.items():
            known = self._targets.get(key)
            if known is not None:
                if known.container != container:  # renamed, or its labels are known only now
                    known.container = container
                    self._drop_series(key)
                continue
            try:
                process = Process(self._proc, container.pid, container.starttime)
            except GoneError:
                continue
            except FalconAgentError as error:
                self._complain("open", container.name, str(error))
                self._stat.count("collect.failed", "open")
                continue
            self._targets[key] = Target(container, process, Cgroup(self._hierarchies, container.cgroup))

    def _drop_series(self, key: str) -> None:
        self._series.pop((key, False), None)
        self._series.pop((key, True), None)

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
