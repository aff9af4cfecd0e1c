"""The control files of one cgroup directory, opened once and read again in every cycle.

Opening and closing a control file costs six times as much as reading it. A descriptor that stays open pins nothing:
when the cgroup is removed it answers ENODEV. But the kernel keeps a page of buffer for each: their number is bounded.
"""

from __future__ import annotations

import os
import sys
from os import pread
from typing import TYPE_CHECKING

from falcon_agent.errors import GoneError
from falcon_agent.kernelfile import RECORD, open_to_read_again, read_again, read_optional, recordings

if TYPE_CHECKING:
    from falcon_agent.cgroupfs.hierarchies import ControllerDir

_USUAL_LIMIT = 1024
_RESERVE = 512
"""Descriptors left at least for everything else: sockets, the spool, what is opened for a moment, processes that come
later. It is an eighth of what a process may open if that is more."""


class DescriptorBudget:
    """How many more descriptors may stay open.

    Attributes:
        left: may be below 0, for what has to be opened in any case.

    Args:
        allowed: what the process may open (RLIMIT_NOFILE); None for unlimited.
    """

    __slots__ = ("left",)

    def __init__(self, allowed: int | None = _USUAL_LIMIT) -> None:
        self.left = sys.maxsize if allowed is None else allowed - max(_RESERVE, allowed // 8)

    def take(self, number: int) -> bool:
        """Whether so many more may be opened; they are counted then, until `give`."""
        if self.left < number:
            return False
        self.left -= number
        return True

    def give(self, number: int) -> None:
        """So many were closed."""
        self.left += number


class ControlFiles:
    """The files in one directory of a cgroup.

    Args:
        at: the directory.
        budget: shared by all cgroups; where it is used up, files are opened for each read.
    """

    __slots__ = ("_budget", "_fds", "at")

    def __init__(self, at: ControllerDir, budget: DescriptorBudget) -> None:
        self.at = at
        self._budget = budget
        self._fds: dict[str, int] = {}

    def read(self, name: str) -> bytes | None:
        """The content now; None if only this file is absent.

        Raises:
            GoneError: the cgroup was removed.
            DeniedError, KernelFileError: as `read_to_eof`.
        """
        try:
            content = pread(self._fds[name], RECORD, 0)
        except KeyError:
            return self._first(name)
        except OSError:
            return self._again(name)
        # What is usual goes without one call more: this is done seven times for a container in each cycle.
        return content if len(content) < RECORD and not recordings else self._again(name)

    def close(self) -> None:
        """Let all of them go; what is read afterwards is opened anew."""
        for name in list(self._fds):
            self._let_go(name)

    def _first(self, name: str) -> bytes | None:
        path = f"{self.at.path}/{name}"
        if self._budget.left <= 0:
            content = read_optional(path)
            if content is not None:
                return content
        else:
            try:
                fd = open_to_read_again(path)
            except GoneError:
                pass
            else:
                self._fds[name] = fd
                self._budget.take(1)
                return read_again(fd, name, self.at.path)
        if not os.path.isdir(self.at.path):
            raise GoneError(self.at.path, "the cgroup was removed")
        return None

    def _again(self, name: str) -> bytes | None:
        try:
            return read_again(self._fds[name], name, self.at.path)
        except GoneError:
            self._let_go(name)
            return self._first(name)

    def _let_go(self, name: str) -> None:
        os.close(self._fds.pop(name))
        self._budget.give(1)
