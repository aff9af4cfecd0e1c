"""One request to Open-Falcon's API: a deadline, bounded answers, errors in words."""

from __future__ import annotations

import json
import os
import socket
import ssl
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError as PoolError

from falcon_agent.errors import ConfigError, FalconAgentError, causes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon_agent.portal.token import Token

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A thousand expressions have 0.3 MB."""

_PATH = "/api/v1"
_SHOWN_CHARACTERS = 200
_WHERE = "is this the address of Open-Falcon's api, usually port 8080, and not of its dashboard or transfer?"

_ADVICE = {
    401: "the token is wrong or was logged out: get another from POST /api/v1/user/login",
    403: "something in front of the API refuses; ask who runs it",
    404: _WHERE,
}


class PortalError(FalconAgentError):
    """Open-Falcon's API did not answer, refused, or answered something else than falcon-plus does."""


class Portal(Protocol):
    """Open-Falcon's API, as far as it is needed here."""

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """What the API shows at `path`, e.g. `/template`."""

    def send(self, method: str, path: str, body: Mapping[str, Any] | None, *, form: bool = False) -> Any:
        """Change something; returns the answer."""


class PortalClient:
    """Open-Falcon's API over HTTP; for one thread.

    The environment is not asked for proxies, certificates or ~/.netrc, and redirects are not followed: the token
    goes to this address and to no other.

    Args:
        address: URL of the API, with or without `/api/v1`, e.g. `http://10.0.0.1:8080`.
        token: whose changes these are.
        timeout: seconds for one request with its whole answer.
        ca_file: PEM file with the certificates to trust; empty means those that `requests` brings.

    Raises:
        ConfigError: the address is no URL, or there is no such file.
    """

    def __init__(self, address: str, token: Token, timeout: float = 10.0, ca_file: str = "") -> None:
        self._base = _base(address)
        if ca_file and not os.path.isfile(ca_file):
            raise ConfigError(f"cannot use --ca-file {ca_file}: there is no such file")
        self._timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca_file or True
        self._session.headers.update(
            {"Apitoken": token.header, "Accept-Encoding": "identity", "User-Agent": "falcon-agent"}
        )

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """What the API shows at `path`, e.g. `/template`.

        Raises:
            PortalError: it does not, for whatever reason.
        """
        return self._ask("GET", path, {"params": query})

    def send(self, method: str, path: str, body: Mapping[str, Any] | None, *, form: bool = False) -> Any:
        """Change something: POST creates, PUT changes, DELETE removes; returns the answer.

        Args:
            method: the verb.
            path: below `/api/v1`.
            body: goes as JSON, or as a form.
            form: which of them.

        Raises:
            PortalError: it was refused, or whether it was done is not known.
        """
        return self._ask(method, path, {"data" if form else "json": body})

    def close(self) -> None:
        """Let go of the connection."""
        self._session.close()

    def _ask(self, method: str, path: str, parts: Mapping[str, Any]) -> Any:
        asked = f"{method} {self._base}{path}"
        status, content = self._exchange(asked, method, path, parts)
        answer = _parsed(content)
        if status != requests.codes.ok:
            said = answer.get("error") if isinstance(answer, dict) else None
            found = json.dumps(said if isinstance(said, str) else _first_line(content), ensure_ascii=False)
            advice = _ADVICE.get(status, "nothing was changed by this request")
            raise PortalError(f"cannot {asked}: it answered {status} {found[:_SHOWN_CHARACTERS]}; {advice}")
        if answer is None:
            raise PortalError(
                f"cannot {asked}: it answered {_first_line(content)!r}, which is no JSON; {_WHERE}"
            )
        return answer

    def _exchange(self, asked: str, method: str, path: str, parts: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and body of the answer.

        The timeouts of `requests` count from byte to byte, so the exchange has a thread of its own that is given up
        at the deadline; it ends with the program.
        """
        got: list[tuple[int, bytes] | Exception] = []

        def work() -> None:
            try:
                with self._session.request(
                    method,
                    f"{self._base}{path}",
                    **parts,
                    timeout=self._timeout,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    got.append((response.status_code, _content(response)))
            except (requests.RequestException, PoolError, OSError, ValueError) as error:
                got.append(error)

        thread = Thread(target=work, daemon=True)
        thread.start()
        thread.join(self._timeout)
        if not got:
            got.append(TimeoutError())
        if isinstance(got[0], Exception):
            raise PortalError(f"cannot {asked}: {_why(got[0], self._timeout)}") from None
        if len(got[0][1]) > MAX_ANSWER_BYTES:
            raise PortalError(f"cannot {asked}: its answer is longer than {MAX_ANSWER_BYTES} bytes; {_WHERE}")
        return got[0]


def _base(address: str) -> str:
    """The address that paths are added to; it is shown, so it may hold no password."""
    try:
        parts = urlsplit(address)
        fine = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment:
        raise ConfigError(
            "cannot use the address given as --api: allowed: a URL such as http://10.0.0.1:8080"
        )
    path = parts.path.rstrip("/").removesuffix(_PATH)
    return f"{parts.scheme}://{parts.netloc}{path}{_PATH}"


def _content(response: requests.Response) -> bytes:
    """The body, to its end or a little more than `MAX_ANSWER_BYTES`."""
    content = bytearray()
    while len(content) <= MAX_ANSWER_BYTES:
        part: bytes = response.raw.read(64 * 1024, decode_content=False)
        if not part:
            break
        content += part
    return bytes(content)


def _parsed(content: bytes) -> Any:
    """The JSON of an answer, or None: no answer of the API is null."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _first_line(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip().partition("\n")[0][:_SHOWN_CHARACTERS]


def _why(error: Exception, timeout: float) -> str:
    """The reason below the layers of libraries, and what to do about it."""
    causes = list(causes_of(error))

    def first(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    if first(socket.gaierror):
        return "its host name cannot be resolved; check --api and the resolver"
    if tls := first(ssl.SSLError):
        fact = getattr(tls, "verify_message", "") or getattr(tls, "reason", "") or "handshake failed"
        return f"TLS: {fact}; check --ca-file and the host name"
    if first(TimeoutError, requests.Timeout):
        return f"no complete answer within {timeout:g} s; is it overloaded or cut off? --timeout allows more"
    if first(ConnectionRefusedError):
        return "connection refused; is Open-Falcon's api running there?"
    if first(requests.exceptions.InvalidURL, UnicodeError):
        return "that is no host name; check --api"
    system = next((cause for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    if system is not None:
        named = f"{system.filename}: " if system.filename else ""
        return f"{named}{system.strerror}; check the network"
    if first(PoolError, requests.ConnectionError):
        return "the connection broke before the answer was complete; see the log of Open-Falcon's api"
    return f"{type(causes[-1]).__name__}; check --ca-file and --api"
