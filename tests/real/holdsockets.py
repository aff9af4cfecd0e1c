"""Holds TCP sockets in many states, in the network namespace it is started in; prints `ready` and waits.

Standard library only. Needs iptables, to drop what the peer of the orphan would answer.
"""

import contextlib
import socket
import subprocess
import sys
import time


def connected(family: int, address: str, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of a new connection: the one that called, the one that was called."""
    calling = socket.socket(family, socket.SOCK_STREAM)
    calling.connect((address, listener.getsockname()[1]))
    called, _ = listener.accept()
    return calling, called


def main() -> None:
    """Make the sockets and keep them."""
    four = socket.create_server(("127.0.0.1", 0))
    six = socket.create_server(("::1", 0), family=socket.AF_INET6)
    dropped = socket.create_server(("127.0.0.1", 0))
    kept = [connected(socket.AF_INET, "127.0.0.1", four) for _ in range(3)]
    kept += [connected(socket.AF_INET6, "::1", six) for _ in range(2)]

    # The called end closes and the calling end does not: CLOSE_WAIT here, FIN_WAIT2 without an owner there.
    for listener, family, address in ((four, socket.AF_INET, "127.0.0.1"), (six, socket.AF_INET6, "::1")):
        waiting, closed = connected(family, address, listener)
        closed.close()
        kept.append((waiting, listener))

    # Both close: TIME_WAIT at the end that was first.
    for _ in range(4):
        first, second = connected(socket.AF_INET, "127.0.0.1", four)
        first.close()
        second.close()

    # A peer that hears nothing any more: closing leaves an orphan in FIN_WAIT1.
    orphan, deaf = connected(socket.AF_INET, "127.0.0.1", dropped)
    port = str(dropped.getsockname()[1])
    subprocess.run(["iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", port, "-j", "DROP"], check=True)
    orphan.close()
    kept.append((deaf, dropped))

    datagrams = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
    datagrams[0].bind(("127.0.0.1", 0))
    datagrams[1].bind(("::1", 0))
    print("ready", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(3600)
    sys.exit(len(kept) and len(datagrams) and 0)


if __name__ == "__main__":
    main()
