"""From the addresses of a target to the one thing that pushes to them: by scheme, with fail-over."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

from falcon_agent.errors import as_value
from falcon_agent.transfer.failure import Rejected, Unreachable
from falcon_agent.transfer.httpclient import HttpClient
from falcon_agent.transfer.rpcclient import RpcClient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from falcon_agent.transfer.reply import Reply

_RPC = "rpc://"


class Transport(Protocol):
    """Pushes bodies to one address, or to the first of several that takes it."""

    def post(self, body: bytes) -> Reply:
        """Push a JSON array of items, or raise `Rejected` or `Unreachable`."""

    def close(self) -> None:
        """Let go of all connections; from another thread it also ends a push that is under way."""


def make_transport(
    addresses: Sequence[str],
    timeout: float,
    username: str = "",
    password: str = "",
    headers: Mapping[str, str] | None = None,
    ca_file: str = "",
    rng: random.Random | None = None,
    *,
    gzip: bool = False,
) -> Failover:
    """What pushes to the first of these equals that takes it.

    Args:
        addresses: at least one; full URLs, e.g. `http://10.0.0.1:6060/api/push`, or `rpc://10.0.0.1:8433`.
        timeout: seconds for one exchange with one address.
        username: for basic authentication over HTTP; none if empty.
        password: belongs to it.
        headers: added to every HTTP request.
        ca_file: PEM file with the certificates to trust; empty means those that the package certifi brings.
        rng: source of the random start.
        gzip: compress what goes over HTTP.
    """

    def one(address: str) -> Transport:
        if address.startswith(_RPC):
            return RpcClient(address, timeout)
        return HttpClient(address, timeout, username, password, headers, ca_file, gzip=gzip)

    return Failover([one(address) for address in addresses], rng)


class Failover:
    """Pushes to the first of several equals that takes it; for one thread, except `close`.

    Args:
        equals: tried from a random one on, so that a fleet spreads, and from then on beginning with the one
            that answered last.
        rng: source of the random start.
    """

    def __init__(self, equals: Sequence[Transport], rng: random.Random | None = None) -> None:
        self._equals = tuple(equals)
        self._next = (rng or random.Random()).randrange(len(self._equals))  # noqa: S311  spreads, hides nothing

    def post(self, body: bytes) -> Reply:
        """Push a JSON array of items.

        Raises:
            Rejected: one refused it and that is final: the body or the configuration is at fault.
            Unreachable: none took it, for any other reason.
        """
        errors: list[Rejected | Unreachable] = []
        for turn in range(len(self._equals)):
            at = (self._next + turn) % len(self._equals)
            try:
                reply = self._equals[at].post(body)
            except Rejected as error:
                if error.body_at_fault:
                    self._next = at
                    raise
                errors.append(as_value(error))
            except Unreachable as error:
                errors.append(as_value(error))
            else:
                self._next = at
                return reply
        try:
            raise errors[0] if len(errors) == 1 else _summary(errors)
        finally:
            del errors

    def close(self) -> None:
        """Let go of all connections; from another thread it also ends a push that is under way."""
        for each in self._equals:
            each.close()


def _summary(errors: Sequence[Rejected | Unreachable]) -> Unreachable:
    """One error for several addresses that all failed."""
    waits = [e.retry_after for e in errors if isinstance(e, Unreachable) and e.retry_after is not None]
    details = "; ".join(str(error).removeprefix("cannot push to ") for error in errors)
    return Unreachable(
        f"cannot push to any of {len(errors)} addresses: {details}",
        errors[-1].reason,
        # Only where every one of them asked for it is there nothing to try earlier.
        min(waits) if len(waits) == len(errors) else None,
    )
