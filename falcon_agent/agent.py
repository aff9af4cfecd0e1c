"""The composition root: builds the parts from the settings, starts and stops them."""

from __future__ import annotations

import gc
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

from falcon_agent import __version__
from falcon_agent.cgroupfs import Hierarchies
from falcon_agent.cgroupfs.controlfiles import DescriptorBudget
from falcon_agent.collectors import Options, make_collectors
from falcon_agent.collectors.runner import Runner
from falcon_agent.collectors.subjects import Naming
from falcon_agent.container import Template
from falcon_agent.discovery.filters import Filter
from falcon_agent.discovery.inventory import Inventory
from falcon_agent.discovery.sources import Places, make_sources
from falcon_agent.errors import FalconAgentError
from falcon_agent.kernelfile import read_to_eof
from falcon_agent.metric import part_of
from falcon_agent.procfs.endings import Endings
from falcon_agent.procfs.limits import parse_max_open_files
from falcon_agent.scheduler import Scheduler, floor_to_step
from falcon_agent.transfer.heartbeat import Heartbeat
from falcon_agent.transfer.outbox import Outbox
from falcon_agent.transfer.sender import Sender
from falcon_agent.transfer.spool import DiskSpool
from falcon_agent.transfer.transport import make_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from falcon_agent.config import Settings, Target
    from falcon_agent.metric import Report
    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.delivery import Delivery
    from falcon_agent.transfer.queue import Spool
    from falcon_agent.transfer.spoolstatus import TargetStatus
    from falcon_agent.transfer.transport import Transport

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.2
"""How long a stopping agent tries to deliver what is queued; the whole stop stays below 2 s."""

_COLLECT_SECONDS = 600.0
"""Between two looks for all that is in rings. Nearly nothing is left to the collector, so it does not come to look at
what is old by itself (`allocator`)."""
_RELOAD_SECONDS = 10.0
_CYCLE_SECONDS = 0.3
"""How long a stopping agent waits for the cycle that is under way."""


def build_inventory(settings: Settings, stat: SelfStat) -> Inventory:
    """The part that knows which containers run; not started yet."""
    discovery, paths = settings.discovery, settings.paths
    places = Places(
        discovery.docker,
        discovery.podman,
        discovery.cri,
        paths.proc,
        paths.cgroup,
        Hierarchies.find(paths.proc, paths.cgroup).absolute,
    )
    sources = make_sources(discovery.runtimes, places, discovery.timeout)
    chosen = Filter(discovery.include, discovery.exclude)
    return Inventory(sources, chosen, stat, discovery.resync)


def build_naming(settings: Settings) -> Naming:
    """What says whom a record is about."""
    return Naming(
        socket.gethostname(),
        Template(settings.agent.endpoint),
        settings.tags,
        {key: Template(text) for key, text in settings.containers.tags.items()},
    )


def build_runner(settings: Settings, stat: SelfStat, inventory: Inventory) -> Runner:
    """The part that measures; the inventory tells it what it learns beside the containers that run."""
    paths = settings.paths
    options = Options(
        stat,
        paths.proc,
        ended=inventory.ended,
        censuses=inventory.censuses,
        veth_tag=settings.network.veth_tag,
        filesystem_timeout=settings.filesystem.timeout,
        filesystem_fuse=settings.filesystem.fuse,
        layersize_interval=settings.layersize.interval,
    )
    collectors = make_collectors(settings.collectors.enabled, options)
    hierarchies = Hierarchies.find(paths.proc, paths.cgroup)
    # Not by getrlimit(2), which the unit's filter of system calls refuses; of ourselves, wherever the host's procfs is.
    hierarchies.budget = DescriptorBudget(parse_max_open_files(read_to_eof("/proc/self/limits")))
    step, endings = settings.agent.step, Endings(paths.proc)
    return Runner(collectors, hierarchies, build_naming(settings), step, stat, paths.proc, endings)


def build_transport(target: Target, addresses: Sequence[str] | None = None) -> Transport:
    """The part that pushes to a target: to all its addresses, or those given."""
    return make_transport(
        addresses or target.addresses,
        target.timeout,
        username=target.username,
        password=target.password(),
        headers=target.headers,
        ca_file=target.ca_file,
        gzip=target.gzip,
    )


def build_transports(settings: Settings) -> dict[str, Transport]:
    """What pushes to each target, by its name."""
    return {target.name: build_transport(target) for target in settings.transfer.targets}


def build_spool(settings: Settings, targets: Iterable[str], stat: SelfStat) -> DiskSpool:
    """What keeps records until every target has them.

    Raises:
        SpoolError: another agent uses it, or a newer version wrote it.
    """
    spool = settings.spool
    return DiskSpool(
        spool.directory,
        tuple(targets),
        stat,
        max_bytes=spool.max_bytes,
        max_age=spool.max_age,
        memory_bytes=settings.transfer.queue_bytes,
    )


def build_sender(
    settings: Settings,
    target: str,
    transport: Transport,
    queue: Spool,
    stat: SelfStat,
    resume: Delivery | None = None,
    *,
    succeeds: bool = True,
) -> Sender:
    """What delivers to one target; `resume` and `succeeds` as for `Sender`."""
    step = settings.agent.step
    # Catching up must be faster than falling behind, also at a step of one second.
    pace = min(settings.spool.pace, step / 2)
    return Sender(
        transport, queue, stat, pace=pace, target=target, step=step, resume=resume, succeeds=succeeds
    )


def build_heartbeat(settings: Settings, stat: SelfStat) -> Heartbeat | None:
    """What reports this host to hbs, if that is wanted."""
    heartbeat = settings.heartbeat
    if not heartbeat.address:
        return None
    hostname = heartbeat.hostname or build_naming(settings).endpoint(None)
    return Heartbeat(heartbeat.address, hostname, heartbeat.ip, __version__, stat, heartbeat.interval)


class Agent:
    """The daemon: an inventory that keeps itself current, a cycle at every step, a sender for every target.

    Args:
        settings: the validated configuration.
        stat: counters, kept over reloads.
        cycle_ended: called when a cycle's records are in the spool, by the thread that measured; it must not wait.

    Raises:
        FalconAgentError: it cannot be built; nothing was started.
    """

    def __init__(
        self, settings: Settings, stat: SelfStat, cycle_ended: Callable[[], None] = lambda: None
    ) -> None:
        self._stat = stat
        self._cycle_ended = cycle_ended
        self._cycle_lock = threading.Lock()
        self._collected_at = time.monotonic()
        transports, inventory = build_transports(settings), build_inventory(settings, stat)
        runner = build_runner(settings, stat, inventory)
        self._spool = build_spool(settings, transports, stat)
        # A spool has one agent at a time: another one that used this one has ended by now, and pushes no more.
        succeeds = self._spool.newest is not None
        self._assemble(settings, transports, inventory, runner, {}, succeeds=succeeds)

    def _assemble(
        self,
        settings: Settings,
        transports: Mapping[str, Transport],
        inventory: Inventory,
        runner: Runner,
        unfinished: Mapping[str, Delivery | None],
        *,
        succeeds: bool = True,
    ) -> None:
        stat = self._stat
        self._settings = settings
        self._runner = runner
        self._inventory = inventory
        self._outbox = Outbox(self._spool, settings.transfer.batch_size, stat)
        self._senders = {
            name: build_sender(
                settings,
                name,
                transport,
                self._spool.queue(name),
                stat,
                unfinished.get(name),
                succeeds=succeeds,
            )
            for name, transport in transports.items()
        }
        self._heartbeat = build_heartbeat(settings, stat)
        self._scheduler = Scheduler(
            settings.agent.step,
            lambda: self._cycle(runner),
            lambda: stat.count("collect.skipped"),
        )

    def start(self, *, whole: bool = False) -> None:
        """Find the containers, report at once what needs no history, and go on at every step.

        Args:
            whole: as of `Inventory.start`: for an agent that reported them all a moment ago.
        """
        self._inventory.start(whole=whole)
        for sender in self._senders.values():
            sender.start()
        if self._heartbeat is not None:
            self._heartbeat.start()
        # This cycle runs between two steps. A COUNTER would be read as a rate over a whole step that was none, so
        # only GAUGEs are sent; the scheduled cycles then have something to measure against. Where an agent has
        # reported this step before, its records are the better ones.
        self._cycle(self._runner, only_gauges=True)
        self._scheduler.start()

    def _cycle(self, runner: Runner, *, only_gauges: bool = False) -> None:
        """Measure and queue what was measured; nothing if the runner was replaced while this waited for its turn."""
        with self._cycle_lock:
            if runner is not self._runner:
                return
            step = self._settings.agent.step
            timestamp = floor_to_step(time.time(), step)
            reports = runner.reports(self._inventory.snapshot(runner.still_runs))
            if only_gauges:
                reports = self._gauges(reports, timestamp)
            self._outbox.put(reports, step, timestamp)
        self._cycle_ended()
        if time.monotonic() - self._collected_at >= _COLLECT_SECONDS:
            gc.collect()
            self._collected_at = time.monotonic()

    def _gauges(self, reports: Iterable[Report], timestamp: int) -> Iterator[Report]:
        """What may be sent between two steps; nothing if an agent has reported this one already."""
        newest = self._spool.newest
        for report in reports:
            gauges = [at for at, metric in enumerate(report[1]) if not metric.is_counter]
            if gauges and (newest is None or timestamp > newest):
                yield part_of(report, gauges)

    def waiting(self) -> tuple[TargetStatus, ...]:
        """What waits for each target."""
        return self._spool.status().targets

    def reload(self, settings: Settings) -> None:
        """Go on with other settings; what waits for a target that stays goes on waiting.

        Raises:
            FalconAgentError: they cannot be used, or a cycle is stuck; the old parts go on.
        """
        transports, inventory = build_transports(settings), build_inventory(settings, self._stat)
        runner = build_runner(settings, self._stat, inventory)
        if not self._cycle_lock.acquire(timeout=_RELOAD_SECONDS):
            raise FalconAgentError(f"cannot reload: the cycle under way did not end in {_RELOAD_SECONDS:g} s")
        try:
            old = self._settings
            elsewhere = settings.spool.directory != old.spool.directory
            # One that another agent uses is refused here, while nothing has been stopped.
            spool = build_spool(settings, transports, self._stat) if elsewhere else None
            # What only memory holds, because the disk is full, must outlive a reload that is about other things.
            keep = settings.spool == old.spool and transports.keys() == self._senders.keys()
            self._scheduler.stop()
            unfinished = {name: sender.pause() for name, sender in self._senders.items()}
            if self._heartbeat is not None:
                self._heartbeat.stop()
            self._inventory.stop()
            self._runner.close()
            if not keep:
                self._spool.close()
                self._spool = spool or build_spool(settings, transports, self._stat)
            self._assemble(settings, transports, inventory, runner, {} if elsewhere else unfinished)
        finally:
            self._cycle_lock.release()
        self.start(whole=True)
        # The old parts refer to each other, and hold threads and descriptors until they are collected.
        gc.collect()

    def stop(self) -> bool:
        """Stop measuring, deliver what can be delivered within `FLUSH_SECONDS`, and let everything go.

        Returns:
            False if a cycle is stuck, e.g. in a read that the kernel does not end: its thread is still there.
        """
        self._scheduler.stop()
        # At once, for each may wait: for its last push, or for a name that nobody resolves.
        stoppers = [
            threading.Thread(target=sender.stop, args=(FLUSH_SECONDS,)) for sender in self._senders.values()
        ]
        if self._heartbeat is not None:
            stoppers.append(threading.Thread(target=self._heartbeat.stop))
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()
        self._inventory.stop()
        ended = self._cycle_lock.acquire(timeout=_CYCLE_SECONDS)
        if ended:
            self._runner.close()
            self._cycle_lock.release()
        else:
            log.warning("the last cycle hangs and is abandoned")
        waiting = self._spool.status()
        lost = self._spool.close()
        in_memory = (waiting.memory_records or 0) if lost else 0
        for target in waiting.targets:
            if target.records > in_memory:
                on_disk = target.records - in_memory
                log.warning("%d records for %s wait on disk for the next start", on_disk, target.name)
        if lost:
            log.warning("%d records are lost: the disk did not take them", lost)
        return ended
