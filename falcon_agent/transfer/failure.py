"""Why a push failed: the two typed errors, and finding the reason below three layers of libraries."""

from __future__ import annotations

import socket
import sys
from typing import NamedTuple
from urllib.parse import urlsplit

from falcon_agent.errors import TransferError, causes_of
from falcon_agent.http1 import HeaderError, NotHttpError

_BODY_AT_FAULT = frozenset({400, 413, 422})
"""Of the 4xx, those that another body may be spared; any other is about the address or the credentials."""

_NO_SUCH_METHOD = "rpc: "
"""So begins what Go's net/rpc itself says against a call, e.g. `rpc: can't find service Transfer.Update`."""

_ADVICE = {
    400: "one of the records is badly typed",
    401: "check username and password_file, or the headers",
    403: "check username and password_file, or the headers",
    404: "check the path: transfer takes /api/push, the agent /v1/push, Nightingale /openfalcon/push",
    407: "a proxy in between wants credentials",
    413: "lower batch_size",
    429: "it asks for fewer pushes",
}


class Rejected(TransferError):  # noqa: N818  says what happened to the push
    """A transfer, or a gateway in front of it, refused a push: the push or the configuration is at fault.

    Attributes:
        address: who said so, without credentials.
        status: the HTTP status, 4xx; None for the error of a JSON-RPC answer.
        answer: the first line of the answer, or that error.
        hint: advice from who made the request, which knows more than the status tells; else empty.
    """

    def __init__(self, address: str, status: int | None, answer: str, hint: str = "") -> None:
        self.address = address
        self.status = status
        self.answer = answer
        self.hint = hint
        super().__init__(f"cannot push to {address}: it answered {self.said}; {hint or self._advice()}")

    def _advice(self) -> str:
        if self.status is None:
            return _ADVICE[400] if self.body_at_fault else "is this the JSON-RPC port of a transfer?"
        return _ADVICE.get(self.status, "check the address and what stands in front of the transfer")

    @property
    def said(self) -> str:
        """The answer in short."""
        return f"{'an error' if self.status is None else self.status} {self.answer!r}"

    @property
    def reason(self) -> str:
        """One word for the self statistics."""
        return "rpc_error" if self.status is None else f"http_{self.status}"

    @property
    def body_at_fault(self) -> bool:
        """Whether other records might be taken; else none will before somebody mends the configuration."""
        if self.status is None:
            return not self.answer.startswith(_NO_SUCH_METHOD)
        return self.status in _BODY_AT_FAULT


class Unreachable(TransferError):  # noqa: N818  says how the transfer is
    """No transfer took the push, and nothing says that it was the push's fault: try again later.

    Attributes:
        reason: one word for the self statistics, e.g. `refused`, `timeout`, `dns`, `tls`, `closed`,
            `garbage`, `redirect`, `http_503`.
        retry_after: seconds that it asked to be left alone, or None.
    """

    def __init__(self, message: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class Failure(NamedTuple):
    """What went wrong: one word for the statistics, the fact and the advice for people."""

    reason: str
    fact: str
    advice: str

    def of(self, address: str, retry_after: float | None = None) -> Unreachable:
        """The error that says it about `address`."""
        return Unreachable(f"cannot push to {address}: {self.fact}; {self.advice}", self.reason, retry_after)


def shown_address(address: str) -> str:
    """An address for messages: without user, password, query and fragment, any of which may be secret."""
    try:
        parts = urlsplit(address)
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that is no URL"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def failure_of(error: Exception, timeout: float) -> Failure:
    """Why `error` came, judged by the innermost exceptions.

    The text of the outer ones is not used: it holds the whole address, and with it perhaps credentials.
    """
    causes = list(causes_of(error))

    def first(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    if first(socket.gaierror):
        return Failure("dns", "its host name cannot be resolved", "check the name and the resolver")
    # Where it is not loaded, no error is one of it.
    ssl = sys.modules.get("ssl")
    if ssl and (tls := first(ssl.SSLError)) and not first(TimeoutError):
        fact = getattr(tls, "verify_message", "") or getattr(tls, "reason", "") or "handshake failed"
        return Failure("tls", f"TLS: {fact}", "check ca_file and the host name")
    if first(TimeoutError):
        return Failure("timeout", f"no complete answer within {timeout:g} s", "is it overloaded or cut off?")
    if first(ConnectionRefusedError):
        return Failure("refused", "connection refused", "is a transfer running there?")
    if first(ConnectionError):
        return Failure(
            "closed", "the connection broke before the answer was complete", "see the transfer's log"
        )
    if first(NotHttpError):
        return Failure("garbage", "the answer is no HTTP", "is this the address of a transfer?")
    if first(HeaderError):
        return Failure("config", "HTTP does not allow one of the headers", "check headers and credentials")
    if first(ValueError):
        return Failure("config", "it is no http or https address", "check addresses")
    system = next((cause for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    if system is not None:
        return Failure("unreachable", system.strerror or "", "check the network")
    return Failure("failed", type(causes[-1]).__name__, "see the transfer's log")
