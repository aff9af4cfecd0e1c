"""The list of containers: from all runtimes, filtered, always at hand."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from falcon_agent.container import LeftOut
from falcon_agent.discovery.feed import Feed, RuntimeState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from falcon_agent.container import Census, Container
    from falcon_agent.discovery.feed import StillRuns
    from falcon_agent.discovery.filters import Filter
    from falcon_agent.discovery.sources import Source
    from falcon_agent.selfstat import SelfStat

__all__ = ["Inventory", "RuntimeState"]

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 10.0
"""How long `start` waits for runtimes that take their time to answer."""
PROBE_SECONDS = 3.0
"""Between two looks whether a runtime has come that was not there."""
LATER_SECONDS = 1.0
"""From the end of a start that was not to wait for the cgroup tree to the first look at it."""
HOLD_SECONDS = 60.0
"""How long a container that only the cgroup tree shows is held back: the runtime that knows its name may be about to
tell it, and a name that changes begins new series."""
HOST_NETWORK = "host network: its sockets and interfaces are the host's"

_KNOWN_BY = {"docker": {"docker"}, "podman": {"podman"}, "containerd": {"cri"}, "cri-o": {"cri"}}
"""Which source's word counts for a container, by the runtime that its cgroup names."""
_NAMELESS = {"lxc"}
"""Runtimes that no source but the tree knows."""


class _Known(NamedTuple):
    """What all sources together know.

    Attributes:
        containers: each of them once.
        held: those that are not believed yet, and why.
    """

    containers: list[Container]
    held: list[LeftOut]


class Inventory:
    """Which containers run. Threads of its own keep it current; asking it never waits for a runtime.

    Args:
        sources: of containers; where two know the same one, the first one's word counts.
        chosen: which containers are measured.
        stat: gets the values `runtime.up` (1 if every runtime answers, else 0) and `containers` (measured).
        resync: seconds between two full listings; events come in between.
    """

    def __init__(self, sources: Sequence[Source], chosen: Filter, stat: SelfStat, resync: float) -> None:
        self._sources = sources
        self._filter = chosen
        self._stat = stat
        self._resync = resync
        self._feeds: dict[int, Feed] = {}
        self._first_seen: dict[str, float] = {}
        # What is the same in nearly every cycle is worked out once.
        self._order: tuple[list[Container], list[Container]] = [], []
        """What was known last, and the same sorted."""
        self._chosen_from: list[Container] = []
        self._chosen: list[Container] = []
        self._not_chosen: set[str] = set()
        """Keys."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._prober = threading.Thread(target=self._keep_probing, name="probe-runtimes", daemon=True)

    def start(self, *, whole: bool = True) -> None:
        """Begin; returns when every runtime was listed once, or failed to be, or takes too long.

        Args:
            whole: if False, and a runtime tells of containers, the cgroup tree is looked at after `LATER_SECONDS` only:
                that takes a while, and shows the same containers and those that no runtime knows.
        """
        deadline = time.monotonic() + FIRST_LOOK_SECONDS
        if not whole:
            # A runtime that hangs is not to hold up what the tree shows.
            self._begin(trees=False)
            self._wait_until(time.monotonic() + LATER_SECONDS)
        if whole or not any(feed.containers() for _, feed in self._running()):
            begun = True
            while begun:
                # What the tree shows may tell that there is another runtime to ask.
                begun = bool(self._begin())
                self._wait_until(deadline)
        if len(self._feeds) < len(self._sources):
            self._prober.start()

    def refresh(self) -> None:
        """List all runtimes again now; returns at once."""
        for _, feed in self._running():
            feed.refresh()

    def stop(self) -> None:
        """End all threads, also when a runtime hangs."""
        self._stopping.set()
        if self._prober.ident is not None:
            self._prober.join()
        for _, feed in self._running():
            feed.stop()

    def snapshot(self, still_runs: StillRuns = lambda _: None) -> list[Container]:
        """The containers to measure now, sorted by name: those that run, less those that are left out.

        Those that only hold a pod's namespaces (`pause`) are among them, for the pod's sockets and network, if any
        of the pod's containers is measured, or, while none runs, if nothing speaks against the pod.
        """

        def runs(container: Container) -> bool | None:
            # Of what is not measured anyway the events and the looks tell the end soon enough.
            return True if container.key in self._not_chosen else still_runs(container)

        known = self._known(runs if self._not_chosen else still_runs).containers
        if known is not self._chosen_from:
            self._chosen_from, self._chosen = known, self._choose(known)
            self._not_chosen = {one.key for one in known} - {one.key for one in self._chosen}
        chosen = self._chosen
        self._stat.set("containers", sum(not one.pause for one in chosen))
        states = [state for state in self.states() if state.present]
        if states:
            # Where another one answers, one that refuses us is a matter of the set-up and no fault.
            asked = [state for state in states if not state.denied]
            self._stat.set("runtime.up", int(bool(asked) and all(state.ok for state in asked)))
        return list(chosen)

    def left_out(self) -> list[LeftOut]:
        """Containers that are not measured, and why.

        Those in the host's network are named too: they are measured, but have no sockets and interfaces of
        their own.
        """
        known = self._known()
        left_out = [
            LeftOut(container.name, container.id, container.runtime, reason)
            for container in known.containers
            if (reason := self._reason(container) or (HOST_NETWORK if container.host_network else None))
        ]
        left_out += known.held
        ids = {one.id for one in known.containers} | {one.id for one in known.held}
        for _, feed in self._running():
            for one in feed.left_out():
                if one.id not in ids:
                    ids.add(one.id)
                    left_out.append(one)
        return left_out

    def states(self) -> list[RuntimeState]:
        """How every runtime answers; one that may be missing, and is, has `present` False."""
        feeds = self._running()
        states = [feed.state() for _, feed in feeds]
        here = {source.name for source, _ in feeds}
        missing = {source.name: source.absence for source in self._sources if source.name not in here}
        for name, absence in missing.items():
            state = RuntimeState(
                name, ok=not absence, last_ok=None, error=absence, containers=0, present=bool(absence)
            )
            states.append(state)
        return states

    def ended(self) -> list[Container]:
        """Lives of measured containers that ended since this was last asked, with kills (`Container.ooms`) in them."""
        ended = [container for _, feed in self._running() for container in feed.ended()]
        return [
            container for container in ended if not container.pause and self._filter.reason(container) is None
        ]

    def censuses(self) -> list[Census]:
        """What the engines have that answer; nothing yet when this is asked for the first time."""
        found = [feed.census() for _, feed in self._running()]
        return [census for census in found if census is not None]

    # Which runtimes are there

    def _wait_until(self, deadline: float) -> None:
        """Until every feed has looked once."""
        for _, feed in self._running():
            feed.wait(max(0.0, deadline - time.monotonic()))

    def _begin(self, *, trees: bool = True) -> list[Feed]:
        """Start to ask the runtimes that have come to be there."""
        shown = [
            container for source, feed in self._running() if source.is_tree for container in feed.containers()
        ]
        begun = []
        for number, source in enumerate(self._sources):
            if number in self._feeds or (source.is_tree and not trees):
                continue
            if source.is_there is None or source.is_there(shown):
                feed = Feed(
                    source.make(), self._resync, optional=source.is_there is not None and not source.absence
                )
                with self._lock:
                    self._feeds[number] = feed
                feed.start()
                begun.append(feed)
        return begun

    def _keep_probing(self) -> None:
        pause = (
            PROBE_SECONDS if any(self._sources[number].is_tree for number in self._feeds) else LATER_SECONDS
        )
        while len(self._feeds) < len(self._sources) and not self._stopping.wait(pause):
            pause = PROBE_SECONDS
            try:
                self._begin()
            except Exception:  # the thread must outlive a bug in one source
                log.exception("cannot begin to ask a runtime")

    def _running(self) -> list[tuple[Source, Feed]]:
        """The sources that are asked, in the order in which they are believed."""
        with self._lock:
            return [(self._sources[number], feed) for number, feed in sorted(self._feeds.items())]

    # Which containers there are

    def _known(self, still_runs: StillRuns = lambda _: None) -> _Known:
        feeds = self._running()
        told: dict[str, Container] = {}
        for source, feed in feeds:
            if not source.is_tree:
                for container in feed.containers((), still_runs):
                    told.setdefault(container.id, container)
        held: list[LeftOut] = []
        seen: dict[str, float] = {}
        # The tree shows them all again: one look at each process is enough.
        shown = [
            one
            for source, feed in feeds
            if source.is_tree
            for one in feed.containers(told.keys(), still_runs)
        ]
        processes = {(container.pid, container.starttime) for container in told.values()} if shown else ()
        for container in shown:
            if container.id in told or (container.pid, container.starttime) in processes:
                continue
            seen[container.key] = self._first_seen.get(container.key, time.monotonic())
            if reason := self._hold(container, feeds, seen[container.key]):
                held.append(LeftOut(container.name, container.id, container.runtime, reason))
            else:
                told[container.id] = container
        self._first_seen = seen
        known, in_order = self._order
        if known != (found := list(told.values())):
            in_order = sorted(found, key=lambda one: (one.name, one.id))
            self._order = found, in_order
        return _Known(in_order, held)

    def _hold(
        self, container: Container, feeds: Iterable[tuple[Source, Feed]], first_seen: float
    ) -> str | None:
        """Why a container that only the tree shows is not to be measured under the name it has there."""
        if container.runtime in _NAMELESS or container.short_id == container.id:
            return None  # no runtime's id: no other name will come
        owners = _KNOWN_BY.get(container.runtime)
        for source, feed in feeds:
            state = feed.state()
            if source.is_tree or not state.present or (owners is not None and source.name not in owners):
                continue
            if state.denied:
                continue  # it will not tell for as long as the agent is set up so: an id is better than nothing
            if not state.ok:
                return f"{state.name}, which would tell its name, does not answer"
            if reason := next((one.reason for one in feed.left_out() if one.id == container.id), None):
                return f"{state.name}: {reason}"
            if time.monotonic() - first_seen < HOLD_SECONDS:
                return f"{state.name} does not list it yet; in {HOLD_SECONDS:g} s it is measured under its id"
        return None

    # Which of them are measured

    def _choose(self, known: Sequence[Container]) -> list[Container]:
        pods: dict[str, bool] = {}
        chosen = set()
        for container in known:
            if container.pause:
                continue
            measured = self._filter.reason(container) is None
            if measured:
                chosen.add(container.id)
            if container.pod is not None:
                pods[container.pod.key] = pods.get(container.pod.key, False) or measured
        for container in known:
            if not container.pause:
                continue
            pod = container.pod
            if (
                pods.get(pod.key)
                if pod is not None and pod.key in pods
                else self._filter.allows_pod(container)
            ):
                chosen.add(container.id)
        return [container for container in known if container.id in chosen]

    def _reason(self, container: Container) -> str | None:
        """Why a container is not measured, or None if it is."""
        if container.pause:
            pod = container.pod
            return f"pause: it only holds the namespaces of pod {pod.name or pod.uid}" if pod else "pause"
        return self._filter.reason(container)
