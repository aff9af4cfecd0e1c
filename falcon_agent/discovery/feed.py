"""One runtime, kept current by two threads: one looks, one listens."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from falcon_agent.container import LeftOut
from falcon_agent.discovery.runtime import Countable
from falcon_agent.errors import RuntimeAbsentError, RuntimeDeniedError, RuntimeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from falcon_agent.container import Census, Container
    from falcon_agent.discovery.runtime import Change, Runtime

log = logging.getLogger(__name__)

GONE_SECONDS = 300.0
"""How long a container that ended is still named as gone."""
_GONE_MAX = 100
_BURST_SECONDS = 0.1
"""Containers tend to start together: so long the next look waits for the rest of them."""
_REST_TIMES, _LONGEST_REST_SECONDS = 50, 5.0
"""How long a look is rested after before events bring another: so many times the CPU that it took, and no longer than
that. Where containers come and go without end, looking takes a fiftieth of one CPU."""
_LISTEN_SECONDS = 0.1
"""So long the first look waits until changes are heard: one that began before would have to be repeated."""
_FIRST_RETRY = 1.0
_OOMS_MAX = 1000
"""Containers with news of kills that are kept, should nobody ask for them."""
_CENSUS_SECONDS = 10.0
"""Looks may follow each other fast; so long the figures of an engine are good enough."""
_JOIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """How a runtime answers.

    Attributes:
        name: of the runtime.
        ok: whether its last answer was one.
        last_ok: when it last was, in seconds since the epoch, or None if never.
        error: what is wrong, in words; empty if `ok`.
        containers: that it is known to run, measured or not.
        present: False if it may be missing (nobody asked for it by name) and is.
        denied: whether what is wrong is that we may not ask it.
    """

    name: str
    ok: bool
    last_ok: float | None
    error: str
    containers: int
    present: bool = True
    denied: bool = False


StillRuns: TypeAlias = "Callable[[Container], bool | None]"
"""Whether the first process of a container has not ended; None from one who does not know it."""


class Feed:
    """What one runtime is known to run. A failing look changes nothing; an ended process does, at once.

    Args:
        runtime: the source; closed by `stop`.
        resync: seconds between two looks while nothing seems to happen.
        optional: that it is not there, and never was, is nothing to complain of.
    """

    def __init__(self, runtime: Runtime, resync: float, *, optional: bool = False) -> None:
        self._runtime = runtime
        self._resync = resync
        self._optional = optional
        self._present = True
        self._lock = threading.Lock()
        self._containers: dict[str, Container] = {}
        self._left_out: list[LeftOut] = []
        self._gone: deque[tuple[float, LeftOut]] = deque(maxlen=_GONE_MAX)
        self._ended_meanwhile: set[str] = set()
        self._unlisted: dict[str, Container] = {}
        """By id: heard of by a kill, before any look found them."""
        self._over: deque[str] = deque(maxlen=_OOMS_MAX)
        """Whose end was told and no start since: the news of a kill may come after that of the end it brought."""
        self._ended: deque[Container] = deque(maxlen=_OOMS_MAX)
        self._census: Census | None = None
        self._census_at: float | None = None
        self._census_wanted = False
        self._census_late = False
        """What the last look was about may have changed the figures, and they were not asked for again."""
        self._last_ok: float | None = None
        self._error = "not asked yet"
        self._denied = False
        self._wake = threading.Event()
        self._listening = threading.Event()
        self._stopping = threading.Event()
        self._looked = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_looking, name=f"look-{runtime.name}", daemon=True),
            threading.Thread(
                target=runtime.watch, args=(self._notice,), name=f"watch-{runtime.name}", daemon=True
            ),
        ]

    def start(self) -> None:
        """Begin to look and to listen."""
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> None:
        """Until the first look is over, at most so long."""
        self._looked.wait(seconds)

    def refresh(self) -> None:
        """Look again now; returns at once."""
        self._wake.set()

    def stop(self) -> None:
        """End both threads, also when the runtime hangs."""
        self._stopping.set()
        self._listening.set()
        self._wake.set()
        self._runtime.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_JOIN_SECONDS)

    def containers(
        self, besides: Collection[str] = (), still_runs: StillRuns = lambda _: None
    ) -> list[Container]:
        """Those whose first process runs at this moment, less those with these ids; asks only the kernel.

        Args:
            besides: ids.
            still_runs: spares looking up the processes that somebody has open anyway.
        """
        with self._lock:
            known = [one for one in self._containers.values() if one.id not in besides]
        alive = []
        for container in known:
            runs = still_runs(container)
            if self._runtime.alive(container) if runs is None else runs:
                alive.append(container)
            else:
                # No event told us, or it is on its way; if it was started again, a look will show the new
                # process.
                self._remove(container, "its first process ended")
                self.refresh()
        return alive

    def ended(self) -> list[Container]:
        """Lives that ended since this was last asked, with kills (`Container.ooms`) heard of in them.

        One that no look has seen has pid 0.
        """
        with self._lock:
            ended = list(self._ended)
            self._ended.clear()
            return ended

    def census(self) -> Census | None:
        """What the runtime has, as of the last look; None while it does not answer or if it is no engine.

        The first call makes the feed begin to ask for it.
        """
        with self._lock:
            first, self._census_wanted = not self._census_wanted, True
            census = None if self._error else self._census
        if first:
            self.refresh()
        return census

    def left_out(self) -> list[LeftOut]:
        """What could not be described at the last look, and what went away lately."""
        since = time.monotonic() - GONE_SECONDS
        with self._lock:
            gone = {one.id: one for at, one in self._gone if at >= since and one.id not in self._containers}
            return [*self._left_out, *gone.values()]

    def state(self) -> RuntimeState:
        """How the runtime answers."""
        with self._lock:
            return RuntimeState(
                self._runtime.name,
                not self._error,
                self._last_ok,
                self._error,
                len(self._containers),
                self._present,
                self._denied,
            )

    def _keep_looking(self) -> None:
        retry = _FIRST_RETRY
        rest = 0.0  # the first look, which describes all, is no measure
        self._listening.wait(_LISTEN_SECONDS)
        while not self._stopping.is_set():
            self._wake.clear()
            began = time.thread_time()
            looked = self._look()
            if self._looked.is_set():
                rest = min(_REST_TIMES * (time.thread_time() - began), _LONGEST_REST_SECONDS)
            rested_at = time.monotonic() + rest
            if looked:
                retry = _FIRST_RETRY
                pause = min(self._resync, _CENSUS_SECONDS) if self._census_late else self._resync
            else:
                pause = min(retry, self._resync)
                retry *= 2
            self._looked.set()
            if self._wake.wait(pause):
                self._stopping.wait(max(_BURST_SECONDS, rested_at - time.monotonic()))

    def _look(self) -> bool:
        """Ask the runtime for everything; whether it answered."""
        with self._lock:
            self._ended_meanwhile.clear()
        try:
            found = self._runtime.find()
        except RuntimeAbsentError as error:
            if not self._optional or self._last_ok is not None:
                self._failed(str(error))
                return False
            log.debug("%s", error)
            with self._lock:
                self._present, self._error = False, ""
            return True
        except RuntimeDeniedError as error:
            self._failed(str(error), denied=True)
            return False
        except RuntimeUnavailableError as error:
            self._failed(str(error))
            return False
        except Exception as error:  # the thread must outlive a bug in one look
            log.exception("cannot look at %s", self._runtime.name)
            self._failed(f"cannot look at {self._runtime.name}: {type(error).__name__}: {error}")
            return False
        with self._lock:
            # An event may have overtaken the answer: what ended while it was made is over.
            now = {
                one.id: self._as_known(one) for one in found.containers if one.id not in self._ended_meanwhile
            }
            before, self._containers = self._containers, now
            self._left_out = found.left_out
            self._last_ok = time.time()
            self._present = True
            recovered, self._error = self._error, ""
            self._denied = False
        for container in before.values():
            if container.id in now:
                if now[container.id].key != container.key:
                    self._end(container)
            else:
                self._remember_gone(container, f"{self._runtime.name} does not list it any more")
        if recovered and self._looked.is_set():
            log.info("%s answers again", self._runtime.name)
        self._count()
        return True

    def _as_known(self, found: Container) -> Container:
        """A container that was found, with what was heard of this life of it; the one that is known if it is the same.

        New ones in the place of all of them would lie among what a look leaves behind, and keep its memory.
        """
        before = known = self._containers.get(found.id)
        if before is None or before.key != found.key:
            before = self._unlisted.pop(found.id, None)
        if before is not None and before.ooms != found.ooms:
            found = replace(found, ooms=before.ooms)
        return known if known == found and known is not None else found

    def _count(self) -> None:
        """Ask an engine for its figures, if anybody wants them and they are not new."""
        if not self._census_wanted or not isinstance(self._runtime, Countable):
            return
        now = time.monotonic()
        self._census_late = self._census_at is not None and now - self._census_at < _CENSUS_SECONDS
        if self._census_late:
            return
        try:
            census = self._runtime.census()
        except RuntimeUnavailableError as error:
            log.debug("no figures: %s", error)
            census = None
        except Exception:  # the thread must outlive a bug in one answer
            log.exception("cannot count what %s has", self._runtime.name)
            census = None
        self._census_at = now
        with self._lock:
            self._census = census

    def _failed(self, error: str, *, denied: bool = False) -> None:
        with self._lock:
            before, self._error = self._error, error
            self._denied = denied
        if error != before and not self._stopping.is_set():
            if denied:
                log.warning("%s; containers that the cgroups show are measured under their ids", error)
            else:
                log.warning("%s; containers that are known go on being measured", error)

    def _notice(self, change: Change) -> None:
        """Called by the runtime's watch for every event, and as soon as it would hear one."""
        if change.oom is not None:
            self._hear_of_kill(change.oom)
        elif change.ended:
            with self._lock:
                self._ended_meanwhile.add(change.id)
                container = self._containers.get(change.id)
                unlisted = self._unlisted.pop(change.id, None)
                self._over.append(change.id)
            if unlisted is not None:
                self._end(unlisted)
            if container is not None:
                self._remove(container, f"{self._runtime.name} said that it ended")
        else:
            if not change.id:
                self._end_unlisted()
            elif change.started:
                self._begin(change.id)
            self.refresh()
        # Last, so that the first look takes the place of the one that was asked for here.
        self._listening.set()

    def _begin(self, container: str) -> None:
        with self._lock:
            while container in self._over:
                self._over.remove(container)

    def _hear_of_kill(self, told: Container) -> None:
        with self._lock:
            listed = self._containers.get(told.id)
            if told.id in self._over:
                self._ended.append(replace(told, ooms=1))
            elif listed is not None:
                self._containers[told.id] = replace(listed, ooms=listed.ooms + 1)
            elif told.id in self._unlisted or len(self._unlisted) < _OOMS_MAX:
                before = self._unlisted.get(told.id, told)
                self._unlisted[told.id] = replace(before, ooms=before.ooms + 1)

    def _end_unlisted(self) -> None:
        """The news of their end may have been missed, and those of other containers' start."""
        with self._lock:
            self._over.clear()
            unlisted, self._unlisted = self._unlisted, {}
        for container in unlisted.values():
            self._end(container)

    def _end(self, container: Container) -> None:
        """A life is over: what was heard of it is kept for whoever asks."""
        if container.ooms:
            with self._lock:
                self._ended.append(container)

    def _remove(self, container: Container, why: str) -> None:
        with self._lock:
            # Only this life of it: a look may have found the next one meanwhile.
            known = self._containers.get(container.id)
            if known is None or known.key != container.key:
                return
            del self._containers[container.id]
        self._remember_gone(known, why)

    def _remember_gone(self, container: Container, why: str) -> None:
        gone = LeftOut(container.name, container.id, container.runtime, f"gone: {why}")
        with self._lock:
            self._gone.append((time.monotonic(), gone))
        self._end(container)
