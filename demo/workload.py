"""What runs inside a demo container: an echo server with a few connections of its own, and some CPU work.

Usage: workload.py PORT BUSY, with BUSY the part of a CPU to use, e.g. 0.3. Standard library only: it runs under
whatever Python the container has.
"""

import socket
import sys
import threading
import time

_CONNECTIONS = 3
_TURN = 0.1


def _echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def _serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def main(port: int, busy: float) -> None:
    """Serve, hold connections open, and burn CPU, until killed."""
    server = socket.create_server(("", port))
    threading.Thread(target=_serve, args=(server,), daemon=True).start()
    kept = [socket.create_connection(("127.0.0.1", port)) for _ in range(_CONNECTIONS)]
    while True:
        for connection in kept:
            connection.sendall(b"x" * 1000)
            connection.recv(65536)
        until = time.monotonic() + busy * _TURN
        while time.monotonic() < until:
            pass
        time.sleep((1 - busy) * _TURN)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
