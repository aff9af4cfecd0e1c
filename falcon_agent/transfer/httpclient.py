"""One push over HTTP: keep-alive, a deadline, bounded answers, typed errors."""

from __future__ import annotations

import time
from dataclasses import replace
from gzip import compress
from typing import TYPE_CHECKING

import requests
from requests.auth import HTTPBasicAuth
from urllib3.exceptions import HTTPError as PoolError

from falcon_agent.transfer.deadline import Deadline, DeadlineAdapter, use
from falcon_agent.transfer.failure import Failure, Rejected, Unreachable, failure_of, shown_address
from falcon_agent.transfer.reply import Reply, first_line, http_time, parse_reply, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_REPLY_BYTES = 64 * 1024
"""A transfer's answer has about a hundred."""

MAX_RETRY_AFTER = 600.0
"""Seconds; no server may silence the agent for longer."""

_TEMPORARY = frozenset({408, 425, 429})
"""4xx that mean "later": request timeout, too early, too many requests."""

_NO_GZIP = frozenset({400, 415})
"""What those answer that do not unpack: transfer 400 `decode error`, others 415 Unsupported Media Type."""

_GZIP_LEVEL = 1
"""It makes a batch of 1000 records eleven times smaller; level 9 makes it thirteen times, in six times as long."""


class HttpClient:
    """Pushes to one transfer, Nightingale or official agent; for one thread, except `close`.

    The environment is not asked for proxies, certificates or ~/.netrc: `http_proxy` is often set for package
    managers and would send the measurements of a whole fleet somewhere else. Redirects are not followed: the
    POST would turn into a GET.

    Args:
        address: the full URL, e.g. `http://10.0.0.1:6060/api/push`.
        timeout: seconds for one exchange, from connecting to the last byte of the answer.
        username: for basic authentication at a gateway; none if empty.
        password: belongs to it.
        headers: added to every request, e.g. a token for a gateway.
        ca_file: PEM file with the certificates to trust; empty means those that `requests` brings.
        gzip: compress the bodies. Nightingale and many gateways take that, transfer itself does not.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        username: str = "",
        password: str = "",
        headers: Mapping[str, str] | None = None,
        ca_file: str = "",
        *,
        gzip: bool = False,
    ) -> None:
        self._address = address
        self._shown = shown_address(address)
        self._timeout = timeout
        self._gzip = gzip
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca_file or True
        self._session.headers.update(
            {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "falcon-agent"}
        )
        self._session.headers.update(headers or {})
        if gzip:
            self._session.headers["Content-Encoding"] = "gzip"
        if username:
            # As bytes: requests would encode text as Latin-1, which has no Chinese letters.
            self._session.auth = HTTPBasicAuth(username.encode(), password.encode())
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, DeadlineAdapter(pool_maxsize=1))
        self._kept = False
        self._deadline: Deadline | None = None
        self._closed = False

    def post(self, body: bytes) -> Reply:
        """Push a JSON array of items.

        Raises:
            Rejected: it answered 4xx and its answer is final: the body or the configuration is at fault.
            Unreachable: it was not taken, for any other reason.
        """
        # No time stamp inside: the same body is the same bytes.
        content = compress(body, _GZIP_LEVEL, mtime=0) if self._gzip else body
        kept = self._kept
        try:
            return self._exchange(content)
        except Unreachable as error:
            # A connection that was kept may be closed by the other side just as it is used again. Once more
            # on a new one; if the push had arrived after all, graph drops the second as duplicate.
            if error.reason != "closed" or not kept:
                raise
        return self._exchange(content)

    def _exchange(self, content: bytes) -> Reply:
        if self._closed:
            raise Unreachable(f"cannot push to {self._shown}: the agent is stopping", "stopping")
        self._kept = False
        started = time.monotonic()
        self._deadline = deadline = Deadline(self._timeout)
        use(deadline)
        try:
            with self._session.post(
                self._address, data=content, timeout=self._timeout, allow_redirects=False, stream=True
            ) as response:
                answer = _content(response)
        except (requests.RequestException, PoolError, OSError, ValueError) as error:
            raise failure_of(error, self._timeout).of(self._shown) from None
        finally:
            use(None)
            self._deadline = None
        self._kept = True
        reply = self._judge(response.status_code, response.headers, answer)
        return replace(reply, latency=time.monotonic() - started, address=self._shown)

    def _judge(self, status: int, headers: Mapping[str, str], content: bytes) -> Reply:
        """The reply in an answer, or the error that the answer amounts to."""
        if status in _TEMPORARY or status >= requests.codes.server_error:
            fact = f"it answered {status} {first_line(content)!r}"
            failure = Failure(f"http_{status}", fact, "it is overloaded or broken; tried again later")
            raise failure.of(self._shown, retry_after(headers.get("Retry-After")))
        if status >= requests.codes.bad_request:
            hint = "it may take no gzip: set gzip = false" if self._gzip and status in _NO_GZIP else ""
            raise Rejected(self._shown, status, first_line(content), hint)
        if status >= requests.codes.multiple_choices:
            target = printable(shown_address(headers.get("Location", "")))
            fact = f"it answered {status} and points to {target}"
            raise Failure("redirect", fact, "put the final address into the configuration").of(self._shown)
        if len(content) > MAX_REPLY_BYTES:
            fact = f"its answer is longer than {MAX_REPLY_BYTES} bytes"
            raise Failure("garbage", fact, "is this the address of a transfer?").of(self._shown)
        reply = parse_reply(content)
        if reply is None:
            fact = f"it answered {status} with {first_line(content)!r}, which no transfer says"
            raise Failure("garbage", fact, "is this the address of a transfer?").of(self._shown)
        return replace(reply, server_time=http_time(headers.get("Date")))

    def close(self) -> None:
        """Let go of the connection; from another thread it also ends a push that is under way."""
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


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 section 10.2.3), 0 to 600, or None."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        # Compared by length first: a number of a million digits is not worth converting.
        seconds = float(value) if len(value) < len("1000000") else MAX_RETRY_AFTER
    else:
        when = http_time(value)
        if when is None:
            return None
        seconds = when - (time.time() if now is None else now)
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
