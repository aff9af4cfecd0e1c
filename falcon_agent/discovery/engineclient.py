"""`docker.APIClient`, talking over sockets that the caller makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docker import APIClient
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.transport.basehttpadapter import BaseHTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


def make_client(url: str, connect: Callable[[], socket.socket]) -> APIClient:
    """A client that opens each of its connections by `connect`; does not connect yet.

    It is used as the HTTP session that it is. It keeps no connection between two requests, asks for no compression
    and takes no advice from the environment (proxies, netrc).

    Raises:
        Exception: of any kind, where the user's Docker configuration, which the package reads, is broken.
    """
    # With a version given, the package does not ask the engine for one, which would be over its own sockets.
    client = APIClient(url, version=DEFAULT_DOCKER_API_VERSION)
    client.mount(f"{client.base_url.partition('://')[0]}://", _Adapter(connect))
    client.headers.update(
        {"Connection": "close", "Accept-Encoding": "identity", "User-Agent": "falcon-agent"}
    )
    client.trust_env = False
    return client


class _Connection(HTTPConnection):
    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__("docker")
        self._open = connect

    def connect(self) -> None:
        self.sock = self._open()


class _Pool(HTTPConnectionPool):
    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__("docker")
        self._open = connect

    def _new_conn(self) -> _Connection:
        return _Connection(self._open)

    def _put_conn(self, conn: Any) -> None:
        # Never used again: the deadline of its socket is that of one answer.
        if conn is not None:
            conn.close()


class _Adapter(BaseHTTPAdapter):  # type: ignore[misc]  # the package has no type information
    """What `docker.transport.UnixHTTPAdapter` is, but for any kind of socket."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__()
        self._pool = _Pool(connect)

    def get_connection(self, _url: str, _proxies: object = None) -> _Pool:
        return self._pool

    def request_url(self, request: Any, _proxies: object) -> str:
        path: str = request.path_url
        return path

    def close(self) -> None:
        self._pool.close()
        super().close()
