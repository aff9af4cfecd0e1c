"""One push over JSON-RPC: transfer's other door, for those who have its HTTP port closed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from falcon_agent.transfer.failure import Failure, Rejected, shown_address
from falcon_agent.transfer.reply import reply_of
from falcon_agent.transfer.rpc import CallError, Connection, RefusedError

if TYPE_CHECKING:
    from falcon_agent.transfer.reply import Reply

_METHOD = "Transfer.Update"


class RpcClient:
    """Pushes to one transfer by `Transfer.Update`; for one thread, except `close`.

    Its replies carry no time of the server.

    Args:
        address: `rpc://host:port`, e.g. `rpc://10.0.0.1:8433`.
        timeout: seconds for one exchange, from connecting to the last byte of the answer.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self._shown = shown_address(address)
        self._connection = Connection(address, timeout)

    def post(self, body: bytes) -> Reply:
        """Push a JSON array of items.

        Raises:
            Rejected: it was answered with an error: one of the records is badly typed, or the address is that
                of another service.
            Unreachable: it was not taken, for any other reason.
        """
        started = time.monotonic()
        try:
            result = self._connection.call(_METHOD, body)
        except CallError as error:
            raise error.failure.of(self._shown) from None
        except RefusedError as error:
            raise Rejected(self._shown, None, error.answer) from None
        reply = reply_of(result)
        if reply is None:
            raise Failure("garbage", "its answer is none of a transfer's", "is this its JSON-RPC port?").of(
                self._shown
            )
        return replace(reply, latency=time.monotonic() - started, address=self._shown)

    def close(self) -> None:
        """Let go of the connection; from another thread it also ends a push that is under way."""
        self._connection.close()
