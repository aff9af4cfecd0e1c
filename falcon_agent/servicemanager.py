"""What the agent tells the service manager about itself: datagrams of `NAME=value` lines, as in sd_notify(3).

A library for it would be one more dependency for these few lines, and the usual one, sdnotify, has had no release
since 2017, waits where the socket is full, and knows nothing of reloads and the watchdog.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from falcon_agent.transfer.spoolstatus import TargetStatus

log = logging.getLogger(__name__)

_DATAGRAM = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_STEPS_ALLOWED = 3
"""Two may pass without a cycle and without a fault: when the host slept or the clock was set, the run that was due is
left out, and the next one comes a step later."""
_MARGIN_SECONDS = 30.0
"""For a cycle on a slow disk, and for a reload, which waits for the cycle under way and for runtimes."""
_MAX_STATUS = 500
_CYCLES_UNDER_WAY = 2
"""Cycles that may wait while all is well: one just measured, one being pushed."""
_A_DAY = 86400.0


class ServiceManager:
    """The one that started the agent, if it listens; without one nothing here does anything.

    No call waits. A message that cannot be sent is lost, but for `READY=1`, which goes out again with the next cycle.

    Args:
        address: of its socket: a path, or a name in the abstract namespace behind an `@`; empty if there is none.
        watchdog: seconds within which it wants to hear `WATCHDOG=1`, None if it does not.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        self._address = address
        self._watchdog = watchdog
        self._owes_ready = False
        self._complained = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The one that `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` tell of.

        They are taken out: what is meant for this process must not reach those that it starts.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        interval = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        ours = pid in {"", str(os.getpid())}
        wanted = ours and interval.isascii() and interval.isdigit() and int(interval) > 0
        return cls(address, int(interval) / 1e6 if wanted else None)

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send([_status(text)])

    def ready(self, status: str, step: int | None = None) -> None:
        """The first cycle is in the spool, and from now on one is due every `step` seconds.

        Without a step: a reload is over that changed nothing, perhaps because a cycle hangs.
        """
        lines = ["READY=1", _status(status)]
        if self._watchdog is not None and step is not None:
            # Cycles at any step must do, so it is not the unit that says how long one may take, but for the least.
            seconds = max(self._watchdog, _STEPS_ALLOWED * step + _MARGIN_SECONDS)
            lines += [f"WATCHDOG_USEC={seconds * 1e6:.0f}", "WATCHDOG=1"]
        self._owes_ready = not self._send(lines)

    def cycle_ended(self, status: str) -> None:
        """A cycle's records are in the spool.

        Only this keeps the watchdog quiet: not a timer, which would go on while a cycle hangs. Both count time by
        CLOCK_MONOTONIC, so a host that slept and a clock that was set are no reason to be restarted.
        """
        lines = [_status(status)]
        if self._watchdog is not None:
            lines.append("WATCHDOG=1")
        if self._owes_ready:
            lines.append("READY=1")
        if self._send(lines):
            self._owes_ready = False

    def reloading(self) -> None:
        """The configuration is read again; `ready` has to follow. `Type=notify-reload` asks for the time as well."""
        # One that is still owed would now say that the reload is over.
        self._owes_ready = False
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(["RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reading the configuration again"])

    def stopping(self) -> None:
        """The agent was told to end."""
        self._owes_ready = False
        self._send(["STOPPING=1", "STATUS=stopping: delivering what waits"])

    def _send(self, lines: Iterable[str]) -> bool:
        """Whether the message went out, or nobody wants one."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, _DATAGRAM) as end:
                end.sendto("\n".join(lines).encode(), _sockaddr(self._address))
        except (OSError, ValueError) as error:
            if not self._complained:
                self._complained = True
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
                log.warning(
                    "cannot tell the service manager at %s how the agent is: %s", self._address, reason
                )
            return False
        return True


def status_line(containers: float | None, duration: float | None, waiting: Iterable[TargetStatus]) -> str:
    """How the agent is, in a line for a person.

    Args:
        containers: that are measured, None if it is not known.
        duration: milliseconds of the cycle that ended just now, None if it is not known.
        waiting: what waits for each target.
    """
    now = time.time()
    parts = [] if containers is None else [f"{containers:.0f} containers"]
    took = "" if duration is None else f", took {duration:.0f} ms"
    parts.append(f"last cycle {_clock(now, now)}{took}")
    # A target without timestamps has all that waits in memory.
    behind = [one for one in waiting if one.records and not 1 <= one.timestamps <= _CYCLES_UNDER_WAY]
    for one in behind:
        since = f" since {_clock(one.oldest, now)}" if one.oldest is not None else " in memory"
        parts.append(f"{one.records} records wait for {one.name}{since}")
    return "; ".join(parts if behind else [*parts, "delivery is up to date"])


def _clock(seconds: float, now: float) -> str:
    """The local time, with the date where it is not of the last 24 hours."""
    form = "%H:%M:%S" if now - seconds < _A_DAY else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, time.localtime(seconds))


def _status(text: str) -> str:
    """The line that sets the status; nothing in the text can end it and begin another."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return f"STATUS={shown if len(shown) <= _MAX_STATUS else shown[: _MAX_STATUS - 1] + '…'}"


def _sockaddr(address: str) -> bytes:
    if address.startswith("@"):
        return b"\0" + os.fsencode(address[1:])
    if address.startswith("/"):
        return os.fsencode(address)
    raise ValueError("neither a path nor @name, and nothing else is understood")
