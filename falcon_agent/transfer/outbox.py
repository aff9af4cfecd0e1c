"""From the records of a cycle to what waits for delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from falcon_agent.transfer.batches import make_batches
from falcon_agent.transfer.contract import accepted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from falcon_agent.metric import Record
    from falcon_agent.selfstat import SelfStat
    from falcon_agent.transfer.batches import Batch

_MAX_BODY_BYTES = 900_000
"""transfer takes far more, but gateways in front of it often stop at one megabyte."""


class Store(Protocol):
    """Where batches wait: `spool.DiskSpool` or `queue.MemoryQueue`."""

    def put(self, batches: Iterable[Batch]) -> None:
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
        self._batch_size = batch_size
        self._stat = stat

    def put(self, records: Iterable[Record]) -> None:
        """Queue the records of a cycle; they may be gone from memory afterwards."""
        self._spool.put(make_batches(accepted(records, self._stat), self._batch_size, _MAX_BODY_BYTES))
