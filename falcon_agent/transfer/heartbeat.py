"""Telling hbs every minute that this host is there, so that the strategies of its host groups apply to it.

A strategy applies only to endpoints that have a row in the table `host`, and that row is written by
`Agent.ReportStatus` (Open-Falcon contract, "judge, strategies, nodata").
"""

from __future__ import annotations

import logging
import random
import socket
from ipaddress import ip_address
from threading import Event, Thread
from typing import TYPE_CHECKING

import orjson

from falcon_agent.naming import clean_name
from falcon_agent.transfer.reply import printable
from falcon_agent.transfer.rpc import CallError, Connection, RefusedError, host_and_port

if TYPE_CHECKING:
    from falcon_agent.selfstat import SelfStat

_METHOD = "Agent.ReportStatus"
_NO_PLUGINS = "plugin not enabled"
"""What the official agent reports where it runs no plugins; this one has none."""

MAX_VERSION = 16
"""Characters of `host.agent_version`; more fail the whole statement."""

MAX_IP = 16
"""Characters of `host.ip`: an IPv6 address seldom fits."""

_FIRST_RETRY = 2.0
_JOIN = 0.3

_log = logging.getLogger(__name__)


def status_of(hostname: str, ip: str, version: str) -> bytes:
    """The parameter of `Agent.ReportStatus`, as JSON.

    hbs puts the fields between quotes of an SQL statement as they are, so none may hold a quote or a backslash.

    Args:
        hostname: the endpoint of the host's records; cleaned as endpoints are.
        ip: shown in the portal; left empty where it is no address or too long for its column.
        version: of the agent; cut where it is too long for its column.
    """
    status = {
        "Hostname": _harmless(hostname),
        "IP": _address(ip),
        "AgentVersion": _harmless(version)[:MAX_VERSION],
        "PluginVersion": _NO_PLUGINS,
    }
    return orjson.dumps(status)


def _harmless(text: str) -> str:
    return clean_name(text).replace("\\", "_").replace("`", "_")


def _address(text: str) -> str:
    try:
        address = str(ip_address(text.partition("%")[0]))
    except ValueError:
        return ""
    return address if len(address) <= MAX_IP else ""


def own_address(peer: str) -> str:
    """The address of this host from which a peer, `host:port`, is reached; empty where no route is known.

    A datagram socket asks the routing table only: nothing is sent (udp(7), connect(2)).
    """
    host, port = host_and_port(peer)
    try:
        family, kind, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(at)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def refusal(result: object) -> str | None:
    """What speaks against the result of `Agent.ReportStatus`, in words, or None if it is `{"code":0}`."""
    match result:
        case {"code": 0}:
            return None
        case {"code": int(code)}:
            return f"it answered with code {code}"
        case _:
            return f"it answered {printable(str(result))!r}, which no hbs says"


class Heartbeat:
    """Reports from a thread of its own, at once and then at every interval.

    Args:
        address: of hbs, `host:port`, e.g. `hbs.example.com:6030`.
        hostname: the endpoint of the host's records.
        ip: the host's address; if empty, the one from which hbs is reached.
        version: of the agent.
        stat: told `heartbeat.ok` and `heartbeat.failed` (by reason).
        interval: seconds between two reports, and the longest wait after a failure.
        timeout: seconds for one report, from connecting to the end of the answer.
    """

    def __init__(
        self,
        address: str,
        hostname: str,
        ip: str,
        version: str,
        stat: SelfStat,
        interval: float = 60.0,
        timeout: float = 5.0,
    ) -> None:
        self._address = address
        self._hostname = hostname
        self._ip = ip
        self._version = version
        self._stat = stat
        self._interval = interval
        self._connection = Connection(address, timeout)
        self._stopping = Event()
        self._thread: Thread | None = None
        self._failures = 0
        self._trouble: str | None = None

    def start(self) -> None:
        """Begin to report."""
        self._thread = Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End at once; a report under way is cut off."""
        self._stopping.set()
        self._connection.close()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_JOIN)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = self._beat()
            except Exception:  # noqa: BLE001  without its heartbeat the host would lose its alarms
                _log.exception("cannot report to hbs")
                self._stat.count("heartbeat.failed", "internal")
                wait = self._interval
            self._stopping.wait(wait)

    def _beat(self) -> float:
        """Report once; returns how many seconds to wait then."""
        trouble = reason = None
        try:
            ip = self._ip or own_address(self._address)
            status = status_of(self._hostname, ip, self._version)
            objection = refusal(self._connection.call(_METHOD, status))
        except CallError as error:
            reason, trouble = error.failure.reason, f"{error.failure.fact}; {error.failure.advice}"
        except RefusedError as error:
            reason, trouble = "rpc_error", f"it answered with the error {error.answer!r}"
        else:
            if objection is not None:
                reason, trouble = "refused_report", objection
        if self._stopping.is_set():
            return 0.0
        self._tell(trouble)
        if reason is None:
            self._stat.count("heartbeat.ok")
            self._failures = 0
            return self._interval
        self._stat.count("heartbeat.failed", reason)
        self._failures += 1
        # The exponent is bounded, for a number with a million bits takes long.
        bound = min(self._interval, _FIRST_RETRY * 2 ** min(self._failures - 1, 30))
        # A fleet whose hbs comes back does not report all at once.
        return random.uniform(bound / 2, bound)  # noqa: S311  spreads, hides nothing

    def _tell(self, trouble: str | None) -> None:
        """Log what has changed."""
        if trouble == self._trouble:
            return
        if trouble is None:
            _log.info("hbs at %s takes reports again", self._address)
        else:
            _log.warning("cannot report to hbs at %s: %s", self._address, trouble)
        self._trouble = trouble
