"""One push over HTTP: keep-alive, several addresses, a deadline, bounded answers, typed errors."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import requests
from requests.auth import HTTPBasicAuth
from urllib3.exceptions import HTTPError as PoolError

from falcon_agent.transfer.deadline import Deadline, DeadlineAdapter, use
from falcon_agent.transfer.failure import Failure, Rejected, Unreachable, failure_of, shown_address
from falcon_agent.transfer.reply import Reply, first_line, parse_reply, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_REPLY_BYTES = 64 * 1024
"""A transfer's answer has about a hundred."""

MAX_RETRY_AFTER = 600.0
"""Seconds; no server may silence the agent for longer."""

_TEMPORARY = frozenset({408, 425, 429})
"""4xx that mean "later": request timeout, too early, too many requests."""


class Client:
    """Pushes to the first of several transfers that takes it; for one thread, except `close`.

    The environment is not asked for proxies, certificates or ~/.netrc: `http_proxy` is often set for package
    managers and would send the measurements of a whole fleet somewhere else. Redirects are not followed: the
    POST would turn into a GET.

    Args:
        addresses: full URLs, e.g. `http://10.0.0.1:6060/api/push`; tried from a random one on, so that a
            fleet spreads, and from then on beginning with the one that answered last.
        timeout: seconds for one exchange with one address, from connecting to the last byte of the answer.
        username: for basic authentication at a gateway; none if empty.
        password: belongs to it.
        headers: added to every request, e.g. a token for a gateway.
        ca_file: PEM file with the certificates to trust; empty means those that `requests` brings.
        rng: source of the random start.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        timeout: float,
        username: str = "",
        password: str = "",
        headers: Mapping[str, str] | None = None,
        ca_file: str = "",
        rng: random.Random | None = None,
    ) -> None:
        self._addresses = tuple(addresses)
        self._timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca_file or True
        self._session.headers.update(
            {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "falcon-agent"}
        )
        self._session.headers.update(headers or {})
        if username:
            # As bytes: requests would encode text as Latin-1, which has no Chinese letters.
            self._session.auth = HTTPBasicAuth(username.encode(), password.encode())
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, DeadlineAdapter(pool_maxsize=1))
        self._next = (rng or random.Random()).randrange(len(self._addresses))  # noqa: S311  spreads, hides nothing
        self._answered: str | None = None
        self._deadline: Deadline | None = None
        self._closed = False

    def post(self, body: bytes) -> Reply:
        """Push a JSON array of items.

        Raises:
            Rejected: one answered 4xx and its answer is final: the body or the configuration is at fault.
            Unreachable: none took it, for any other reason.
        """
        errors: list[Rejected | Unreachable] = []
        for turn in range(len(self._addresses)):
            at = (self._next + turn) % len(self._addresses)
            try:
                reply = self._post_to(self._addresses[at], body)
            except Rejected as error:
                if error.body_at_fault:
                    self._next = at
                    raise
                errors.append(error)
            except Unreachable as error:
                errors.append(error)
            else:
                self._next = at
                return reply
        raise errors[0] if len(errors) == 1 else _summary(errors)

    def _post_to(self, address: str, body: bytes) -> Reply:
        kept = self._answered == address
        try:
            return self._exchange(address, body)
        except Unreachable as error:
            # A connection that was kept may be closed by the other side just as it is used again. Once more
            # on a new one; if the push had arrived after all, graph drops the second as duplicate.
            if error.reason != "closed" or not kept:
                raise
        return self._exchange(address, body)

    def _exchange(self, address: str, body: bytes) -> Reply:
        shown = shown_address(address)
        if self._closed:
            raise Unreachable(f"cannot push to {shown}: the agent is stopping", "stopping")
        self._answered = None
        started = time.monotonic()
        self._deadline = deadline = Deadline(self._timeout)
        use(deadline)
        try:
            with self._session.post(
                address, data=body, timeout=self._timeout, allow_redirects=False, stream=True
            ) as response:
                content = _content(response)
        except (requests.RequestException, PoolError, OSError, ValueError) as error:
            raise failure_of(error, self._timeout).of(shown) from None
        finally:
            use(None)
            self._deadline = None
        self._answered = address
        reply = _judge(shown, response.status_code, response.headers, content)
        return replace(reply, latency=time.monotonic() - started, address=shown)

    def close(self) -> None:
        """Let go of all connections; from another thread it also ends a push that is under way."""
        self._closed = True
        deadline = self._deadline
        if deadline is not None:
            deadline.cut()
        self._session.close()


def _content(response: requests.Response) -> bytes:
    """The body as it came over the wire, to its end or a little more than `MAX_REPLY_BYTES`."""
    content = b""
    while len(content) <= MAX_REPLY_BYTES:
        # One read may be short, and only the empty one at the end tells whether the body was cut off.
        part: bytes = response.raw.read(MAX_REPLY_BYTES + 1 - len(content), decode_content=False)
        if not part:
            break
        content += part
    return content


def _judge(shown: str, status: int, headers: Mapping[str, str], content: bytes) -> Reply:
    """The reply in an answer, or the error that the answer amounts to."""
    if status in _TEMPORARY or status >= requests.codes.server_error:
        fact = f"it answered {status} {first_line(content)!r}"
        failure = Failure(f"http_{status}", fact, "it is overloaded or broken; tried again later")
        raise failure.of(shown, retry_after(headers.get("Retry-After")))
    if status >= requests.codes.bad_request:
        raise Rejected(shown, status, first_line(content))
    if status >= requests.codes.multiple_choices:
        target = printable(shown_address(headers.get("Location", "")))
        fact = f"it answered {status} and points to {target}"
        raise Failure("redirect", fact, "put the final address into the configuration").of(shown)
    if len(content) > MAX_REPLY_BYTES:
        fact = f"its answer is longer than {MAX_REPLY_BYTES} bytes"
        raise Failure("garbage", fact, "is this the address of a transfer?").of(shown)
    reply = parse_reply(content)
    if reply is None:
        fact = f"it answered {status} with {first_line(content)!r}, which no transfer says"
        raise Failure("garbage", fact, "is this the address of a transfer?").of(shown)
    return reply


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 section 10.2.3), 0 to 600, or None."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        # Compared by length first: a number of a million digits is not worth converting.
        seconds = float(value) if len(value) < len("1000000") else MAX_RETRY_AFTER
    else:
        try:
            when = parsedate_to_datetime(value)
            seconds = (when - (now or datetime.now(UTC))).total_seconds()
        except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


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
