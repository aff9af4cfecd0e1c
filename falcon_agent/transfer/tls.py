"""TLS over a connection that is there; loaded only where an address asks for it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import certifi

if TYPE_CHECKING:
    import socket

    from falcon_agent.transfer.deadline import Deadline


def secured(sock: socket.socket, host: str, ca_file: str, deadline: Deadline) -> ssl.SSLSocket:
    """`sock` with TLS on it, after the handshake; `sock` itself is used up.

    Args:
        sock: connected.
        host: whose certificate it must be.
        ca_file: PEM file with the certificates to trust; empty means those that certifi brings.
        deadline: of the handshake.

    Raises:
        OSError: there is no such file, it holds no certificate, or the handshake failed; `ssl.SSLError` is one.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or certifi.where())
        context.set_alpn_protocols(["http/1.1"])
        secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    try:
        deadline.hurry(secure).do_handshake()
    except BaseException:
        secure.close()
        raise
    return secure
