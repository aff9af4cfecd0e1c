"""What to call a container of which the cgroup tells only an id: by the hostname in its UTS namespace."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from falcon_agent.errors import DeniedError, FalconAgentError
from falcon_agent.kernelfile import read_error
from falcon_agent.namespaces.enter import UtsNamespaces
from falcon_agent.procfs.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from falcon_agent.container import Container

_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
"""Names of hosts, RFC 1123, and the underscore that some use. The kernel takes any 64 bytes."""
_SHORT_ID = re.compile(r"[0-9a-f]{12}")
"""What Docker and podman set where nobody says otherwise; with `--network container:ID` that of the other one."""


class Hostnames:
    """Reads hostnames in UTS namespaces; without CAP_SYS_ADMIN and CAP_SYS_PTRACE there is none to be had.

    Args:
        proc: where the host's procfs is mounted.
    """

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self._inside = UtsNamespaces(proc)

    def read(self, process: Process) -> str | None:
        """The hostname that a process sees.

        Returns:
            None if it is the host's, a short id, no name of a host (it is up to the container), or not to be had.
        """
        try:
            host = self._read_host()
            inode = process.namespace_inode("uts")
            if inode == host[0]:
                return None
            name = self._inside.run(_nodename, process.fd, process.path, inode)
        except FalconAgentError:
            return None
        # Until somebody sets it, a new namespace has the name of the one that it was made in.
        if name == host[1] or _SHORT_ID.fullmatch(name) or not _HOSTNAME.fullmatch(name):
            return None
        return name

    def _read_host(self) -> tuple[int, str]:
        """The host's UTS namespace and its name: that of pid 1, or our own if pid 1 may not be looked at."""
        host = Process(self._proc, 1)
        try:
            inode = host.namespace_inode("uts")
            return inode, self._inside.run(_nodename, host.fd, host.path, inode)
        except DeniedError:
            pass
        finally:
            host.close()
        path = f"{self._proc}/self/ns/uts"
        try:
            return os.stat(path).st_ino, _nodename()
        except OSError as error:
            raise read_error(path, error) from None


def name_by_hostname(found: Iterable[tuple[Container, str | None]], taken: Iterable[str]) -> list[Container]:
    """Containers with names of their own and pods with theirs, oldest first.

    A pod's containers share its hostname, which is the pod's name, so they keep their short ids. Of two others
    with one hostname the older one has it; the younger adds its short id.

    Args:
        found: containers that the cgroup gives no name, and their hostnames.
        taken: names that are given already.
    """
    names = set(taken)
    named = []
    for container, hostname in sorted(found, key=lambda one: (one[0].starttime, one[0].pid)):
        made = container
        if hostname is not None and container.pod is not None:
            made = replace(container, pod=replace(container.pod, name=hostname))
        elif hostname is not None:
            name = hostname if hostname not in names else f"{hostname}-{container.short_id}"
            made = replace(container, name=name)
        names.add(made.name)
        named.append(made)
    return named


def _nodename() -> str:
    return os.uname().nodename
