"""The composition root: builds the parts from the settings, starts and stops them."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs import Hierarchies
from falcon_agent.collectors import Options, make_collectors
from falcon_agent.collectors.runner import Naming, Runner
from falcon_agent.container import Template
from falcon_agent.discovery.filters import Filter
from falcon_agent.discovery.inventory import Inventory, make_runtimes
from falcon_agent.errors import FalconAgentError
from falcon_agent.scheduler import Scheduler, floor_to_step
from falcon_agent.transfer.client import Client
from falcon_agent.transfer.outbox import Outbox
from falcon_agent.transfer.queue import MemoryQueue
from falcon_agent.transfer.sender import Sender

if TYPE_CHECKING:
    from falcon_agent.config import Settings
    from falcon_agent.metric import Record
    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.queue import Spool

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.4
"""How long a stopping agent tries to deliver what is queued; the whole stop stays below 2 s."""

_PACE_SECONDS = 1.0
"""Pause between the pushes of two cycles: graph loses points that follow each other faster than some 0.2 s."""

_RELOAD_SECONDS = 10.0
_CYCLE_SECONDS = 0.3
"""How long a stopping agent waits for the cycle that is under way."""


def build_inventory(settings: Settings, stat: SelfStat) -> Inventory:
    """The part that knows which containers run; not started yet."""
    discovery = settings.discovery
    runtimes = make_runtimes(
        discovery.runtimes, discovery.docker, discovery.timeout, settings.paths.proc, settings.paths.cgroup
    )
    chosen = Filter(discovery.include.model_dump(), discovery.exclude.model_dump())
    return Inventory(runtimes, chosen, stat, discovery.resync)


def build_runner(settings: Settings, stat: SelfStat) -> Runner:
    """The part that measures."""
    paths = settings.paths
    naming = Naming(
        socket.gethostname(),
        Template(settings.agent.endpoint),
        settings.tags,
        {key: Template(text) for key, text in settings.containers.tags.items()},
    )
    collectors = make_collectors(
        settings.collectors.enabled, Options(stat, paths.proc, veth_tag=settings.network.veth_tag)
    )
    hierarchies = Hierarchies.find(paths.proc, paths.cgroup)
    return Runner(collectors, hierarchies, naming, settings.agent.step, stat, paths.proc)


def build_client(settings: Settings, addresses: list[str] | None = None) -> Client:
    """The part that speaks to a transfer: all configured addresses, or those given."""
    transfer = settings.transfer
    return Client(
        addresses or transfer.addresses,
        transfer.timeout,
        username=transfer.username,
        password=settings.password(),
        headers=transfer.headers,
        ca_file=transfer.ca_file,
    )


class Agent:
    """The daemon: an inventory that keeps itself current, a cycle at every step, a sender that empties the queue.

    Args:
        settings: the validated configuration.
        stat: counters, kept over reloads.
    """

    def __init__(self, settings: Settings, stat: SelfStat) -> None:
        self._stat = stat
        self._spool: Spool = MemoryQueue(settings.transfer.queue_bytes, stat)
        self._cycle_lock = threading.Lock()
        self._assemble(settings, build_client(settings), build_runner(settings, stat))

    def _assemble(self, settings: Settings, client: Client, runner: Runner) -> None:
        self._settings = settings
        self._runner = runner
        self._inventory = build_inventory(settings, self._stat)
        self._outbox = Outbox(self._spool, settings.transfer.batch_size, self._stat)
        # Catching up must be faster than falling behind, also at a step of one second.
        self._sender = Sender(
            client, self._spool, self._stat, pace=min(_PACE_SECONDS, settings.agent.step / 2)
        )
        self._scheduler = Scheduler(
            settings.agent.step,
            lambda: self._outbox.put(self._measure(runner)),
            lambda: self._stat.count("collect.skipped"),
        )

    def start(self) -> None:
        """Find the containers, report at once what needs no history, and go on at every step."""
        self._inventory.start()
        self._sender.start()
        # This cycle runs between two steps. A COUNTER would be read as a rate over a whole step that was none, so
        # only GAUGEs are sent; the scheduled cycles then have something to measure against.
        self._outbox.put(record for record in self._measure(self._runner) if record.counterType == "GAUGE")
        self._scheduler.start()

    def _measure(self, runner: Runner) -> list[Record]:
        """One cycle; nothing if the runner was replaced while this waited for its turn."""
        with self._cycle_lock:
            if runner is not self._runner:
                return []
            timestamp = floor_to_step(time.time(), self._settings.agent.step)
            return runner.cycle(self._inventory.snapshot(), timestamp)

    def reload(self, settings: Settings) -> None:
        """Go on with other settings; what is queued stays queued, and the queue keeps its size.

        Raises:
            FalconAgentError: nothing could be built from them, or a cycle is stuck; the old parts go on.
        """
        client, runner = build_client(settings), build_runner(settings, self._stat)
        if not self._cycle_lock.acquire(timeout=_RELOAD_SECONDS):
            raise FalconAgentError(f"cannot reload: the cycle under way did not end in {_RELOAD_SECONDS:g} s")
        try:
            self._scheduler.stop()
            self._sender.pause()
            self._inventory.stop()
            self._runner.close()
            self._assemble(settings, client, runner)
        finally:
            self._cycle_lock.release()
        self.start()

    def stop(self) -> bool:
        """Stop measuring, deliver what can be delivered within `FLUSH_SECONDS`, and let everything go.

        Returns:
            False if a cycle is stuck, e.g. in a read that the kernel does not end: its thread is still there.
        """
        self._scheduler.stop()
        left = self._sender.stop(FLUSH_SECONDS)
        if left:
            log.warning("stopped with %d records undelivered: no transfer took them in time", left)
        self._inventory.stop()
        if not self._cycle_lock.acquire(timeout=_CYCLE_SECONDS):
            log.warning("the last cycle hangs and is abandoned")
            return False
        self._runner.close()
        self._cycle_lock.release()
        return True
