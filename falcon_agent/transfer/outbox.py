"""From the reports of a cycle to what waits for delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from falcon_agent.transfer.points import PointMaker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from falcon_agent.metric import Report
    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.points import Points

MAX_BODY_BYTES = 900_000
"""transfer takes far more, but gateways in front of it often stop at one megabyte."""


class Store(Protocol):
    """Where points wait: `spool.DiskSpool`."""

    def put(self, batches: Iterable[Points]) -> None:
        """Append."""


class Outbox:
    """Refuses what Open-Falcon could not store and queues the rest.

    Args:
        spool: where it waits.
        batch_size: most records in one POST.
        stat: told what was refused, by reason.
    """

    def __init__(self, spool: Store, batch_size: int, stat: SelfStat) -> None:
        self._spool = spool
        self._points = PointMaker(stat, batch_size, MAX_BODY_BYTES)

    def put(self, reports: Iterable[Report], step: int, timestamp: int) -> None:
        """Queue what was measured in a cycle; it may be gone from memory afterwards.

        Args:
            reports: what was measured.
            step: seconds between two cycles.
            timestamp: of all of them, in seconds since the epoch.
        """
        self._spool.put(self._points.points(reports, step, timestamp))
