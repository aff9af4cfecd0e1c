"""`auto`: Docker from the moment its socket is there, the cgroup tree until then."""

from __future__ import annotations

import os
import stat
from threading import Event as Flag
from typing import TYPE_CHECKING

from falcon_agent.discovery.engineapi import unix_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon_agent.container import Container
    from falcon_agent.discovery.runtime import Change, Found, Runtime


class AutoRuntime:
    """One of two runtimes: the agent may start before Docker does.

    Once Docker was there it stays the choice: a daemon that is down for an update must not turn every
    container into one without a name.

    Args:
        docker_url: of the engine; a `tcp://` one counts as present.
        docker: asked once its socket is there.
        cgroups: asked until then.
    """

    def __init__(self, docker_url: str, docker: Runtime, cgroups: Runtime) -> None:
        self._socket = unix_path(docker_url)
        self._docker = docker
        self._cgroups = cgroups
        self._chosen = cgroups
        self._closed = Flag()

    @property
    def name(self) -> str:
        """Of the runtime that is asked at present."""
        return self._chosen.name

    def find(self) -> Found:
        """What the chosen runtime finds."""
        if self._chosen is not self._docker and (self._socket is None or _is_socket(self._socket)):
            self._chosen = self._docker
            self._cgroups.close()
        return self._chosen.find()

    def watch(self, notify: Callable[[Change], None]) -> None:
        """Watch the cgroup tree until Docker is there, then Docker."""
        while not self._closed.is_set():
            # Returns when it is closed, by the end of all or by the change to the other.
            self._chosen.watch(notify)

    def alive(self, container: Container) -> bool:
        """Whether its first process still runs."""
        return self._chosen.alive(container)

    def close(self) -> None:
        """End both."""
        self._closed.set()
        self._cgroups.close()
        self._docker.close()


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
