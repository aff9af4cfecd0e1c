"""Noticing at once that cgroups come and go, and with them containers."""

from __future__ import annotations

import logging
import time
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING

from falcon_agent.cgroupfs.watch import DirectoryWatch, Heard
from falcon_agent.discovery.cgrouptree import find_trees, is_closed, walk
from falcon_agent.errors import FalconAgentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon_agent.discovery.cgrouptree import Tree

log = logging.getLogger(__name__)

MAX_WATCHES = 4096
"""Directories that are watched, in all hierarchies together."""
SAFETY_SECONDS = 60.0
"""Between two comparisons with what is there, while all is watched and nothing is heard."""
_SETTLE_SECONDS = (0.3, 1.0, 3.0)
"""A runtime makes the cgroup first, then puts the process into it and prepares it: so long after the cgroup
another look is due."""
_FIRST_REST = 0.1
_LONGEST_REST = 1.0


class TreeWatch:
    """Tells when the tree's directories change: by inotify, or while that has not watches enough, by comparing.

    Args:
        proc: where the host's procfs is mounted.
        cgroup: where its cgroup hierarchies are mounted.
        poll: seconds between two comparisons while not everything is watched.
    """

    def __init__(self, proc: str, cgroup: str, poll: float) -> None:
        self._proc = proc
        self._cgroup = cgroup
        self._poll = poll
        self._lock = Lock()
        self._closed = Flag()
        self._watch: DirectoryWatch | None = None
        self._trees: list[Tree] = []
        self._present: dict[str, bool] = {}
        self._is_complete = False

    def run(self, changed: Callable[[], None]) -> None:
        """Call `changed` at first and then for whatever comes or goes, until `close`; once."""
        try:
            with self._lock:
                if self._closed.is_set():
                    return
                self._watch = DirectoryWatch(MAX_WATCHES)
        except FalconAgentError as error:
            log.warning("%s; cgroups are compared every %g s instead", error, self._poll)
        try:
            self._listen(changed)
        finally:
            with self._lock:
                watch, self._watch = self._watch, None
            if watch is not None:
                watch.close()

    def close(self) -> None:
        """End `run` at once, also one that is yet to come."""
        self._closed.set()
        with self._lock:
            if self._watch is not None:
                self._watch.stop()

    def _listen(self, changed: Callable[[], None]) -> None:
        self._compare()
        changed()
        now = time.monotonic()
        compare_at = now + self._compare_seconds()
        # When further looks are. What was made just before waits for one of them, so that the first cycle need not
        # share its time with more.
        due = [now + seconds for seconds in _SETTLE_SECONDS[-1:]]
        rest = _FIRST_REST
        while True:
            heard = self._wait(max(0.0, min([compare_at, *due[:1]]) - now))
            if heard is None:
                return
            now = time.monotonic()
            is_changed = self._follow(heard)
            if heard.lost or now >= compare_at:
                is_changed |= self._compare()
                compare_at = now + self._compare_seconds()
            if is_changed:
                due = [now + seconds for seconds in _SETTLE_SECONDS]
                changed()
                # One container makes a directory in each hierarchy, and whoever makes and removes them without
                # end must not keep us busy: the kernel gathers what happens while we rest, ever longer.
                if self._closed.wait(rest):
                    return
                rest = min(2 * rest, _LONGEST_REST)
            else:
                rest = _FIRST_REST
                if due and now >= due[0]:
                    due.pop(0)
                    changed()
            now = time.monotonic()

    def _compare_seconds(self) -> float:
        return SAFETY_SECONDS if self._is_complete else self._poll

    def _follow(self, heard: Heard) -> bool:
        """Keep the watches in step with what was heard; whether it was anything."""
        watch = self._watch
        if watch is not None:
            for path in heard.removed:
                watch.discard(path)
            for path in heard.made:
                tree = next((tree for tree in self._trees if path.startswith(f"{tree.directory}/")), None)
                if tree is not None:
                    self._add(tree, path.removeprefix(tree.directory))
        return bool(heard.made or heard.removed)

    def _compare(self) -> bool:
        """Take stock of the whole tree and watch all of it; whether it differs from the last time."""
        before = self._present
        self._present = {}
        self._is_complete = self._watch is not None
        try:
            self._trees = find_trees(self._proc, self._cgroup)
        except FalconAgentError as error:
            log.debug("no watch over cgroups: %s", error)
            self._trees, self._is_complete = [], False
        for tree in self._trees:
            self._present |= self._add(tree, "")
        if self._watch is not None:
            for path in self._watch.paths - self._present.keys():
                self._watch.discard(path)
        return before != self._present

    def _add(self, tree: Tree, below: str) -> dict[str, bool]:
        """Watch a directory and those below it; what is there, and whether containers may turn up in it."""
        present: dict[str, bool] = {}
        for inner in walk(tree.directory + below, lambda inner: not is_closed(tree, below + inner)):
            path = tree.directory + below + inner
            present[path] = not is_closed(tree, below + inner)
            # Before it is read, so that whatever is made in it is either listed or heard of.
            if present[path] and self._is_complete:
                self._is_complete = self._try(path)
        return present

    def _try(self, path: str) -> bool:
        try:
            return self._watch is not None and self._watch.add(path)
        except FalconAgentError as error:
            log.debug("%s", error)
            return False

    def _wait(self, seconds: float) -> Heard | None:
        if self._watch is not None:
            return self._watch.wait(seconds)
        return None if self._closed.wait(seconds) else Heard([], [], lost=False)
