"""Real containers to measure: a private Docker engine with a mixed load.

`python -m bench.bed --containers 300` holds one until Ctrl-C, for many short runs of `python -m bench.cycle`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.netns import count_tcp
from bench.report import progress
from tests.real.engine import BUSYBOX, Engine, EngineError, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 2
"""In each container that holds any; both ends are in its own network namespace."""

_CREATORS = 4
_SOCKETS = 2 * CONNECTIONS + 1
_IDLE = "exec sleep 86400"
# `read` with a time limit is the shell's own: nothing is started, so the load costs next to nothing.
_LIGHT = """mkfifo /tmp/f; while :; do read -t 2 x <>/tmp/f; i=0
while [ $i -lt 300 ]; do i=$((i+1)); done; echo $i >/tmp/x; done"""
# Waits for the order to connect, so that the same containers can be measured without connections too.
_TCP = f"""mkfifo /tmp/go; read x </tmp/go; nc -ll -p 9000 -e cat & sleep 1
i=0; while [ $i -lt {CONNECTIONS} ]; do i=$((i+1)); sleep 86400 | nc 127.0.0.1 9000 & done; wait"""
_LOADS = (_IDLE, _LIGHT, _TCP)
CONNECTS = _LOADS.index(_TCP)
"""The label `load` of those that hold connections once they are told to."""
_MEMORY = 256 * 1024 * 1024
_NANO_CPUS = 500_000_000


class Bed:
    """A running engine with its containers: a third idle, a third lightly active, a third for connections.

    Every second one has a memory limit, every fourth a CPU quota.

    Attributes:
        engine: whose they are.
        containers: how many.
        seconds: it took to start them.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.containers = 0
        self.seconds = 0.0

    def grow(self, containers: int) -> None:
        """Start more, until there are so many."""
        started = time.monotonic()
        indexes = range(self.containers, containers)
        with ThreadPoolExecutor(_CREATORS) as pool:
            for _ in pool.map(lambda index: _create(self.engine, index), indexes):
                self.containers += 1
                progress(f"{self.containers} of {containers} containers", passing=True)
        self.seconds += time.monotonic() - started

    def connect(self) -> None:
        """Let every third container open its connections; returns when they are there."""
        pids = [self._pid(one["Id"]) for one in self._list() if one["Labels"].get("load") == str(CONNECTS)]
        for pid in pids:
            # There since before the order: the shell waits for it.
            fifo = Path(f"/proc/{pid}/root/tmp/go")
            wait_until(fifo.exists, f"{fifo} is there")
            fifo.write_bytes(b"\n")
        for pid in pids:
            wait_until(partial(_is_connected, pid), f"process {pid} has its connections")

    @contextlib.contextmanager
    def replacing(self, per_minute: float) -> Iterator[None]:
        """For the block, let the oldest container go and start a new one, so many times a minute; 0 is never.

        Raises:
            EngineError: the engine refused, at the end of the block.
        """
        ended = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            replaced = pool.submit(self._replace, 60 / per_minute, ended) if per_minute else None
            try:
                yield
            finally:
                ended.set()
            if replaced is not None:
                replaced.result()

    def _replace(self, pause: float, ended: threading.Event) -> None:
        index = self.containers
        while not ended.wait(pause):
            self.engine.rm(*[one["Id"] for one in self._list()[-1:]])
            _create(self.engine, index)
            index += 1

    def _list(self) -> list[dict[str, Any]]:
        """Newest first."""
        found: list[dict[str, Any]] = json.loads(self.engine.get("/containers/json"))
        return found

    def _pid(self, container: str) -> int:
        return int(json.loads(self.engine.get(f"/containers/{container}/json"))["State"]["Pid"])


@contextlib.contextmanager
def bed(containers: int) -> Iterator[Bed]:
    """So many containers for the block; engine, containers, namespaces and files are removed afterwards.

    Raises:
        EngineError: they cannot be started; run as root.
    """
    engine = Engine()
    progress("starting a Docker engine")
    engine.start()
    try:
        made = Bed(engine)
        made.grow(containers)
        yield made
    finally:
        progress("removing the containers")
        engine.stop()


def _is_connected(pid: int) -> bool:
    return count_tcp(pid) >= _SOCKETS


def _create(engine: Engine, index: int) -> None:
    kind = index % len(_LOADS)
    body = {
        "Image": BUSYBOX,
        "Cmd": ["sh", "-c", _LOADS[kind]],
        "Labels": {"load": str(kind), "com.example.app": f"app-{index}"},
        "HostConfig": {
            "Init": True,
            "Memory": _MEMORY if index % 2 else 0,
            "NanoCpus": 0 if index % 4 else _NANO_CPUS,
        },
    }
    engine.create(json.dumps(body).encode())


def main() -> int:
    """Hold a bed until told to end."""
    parser = argparse.ArgumentParser(prog="python -m bench.bed", description=__doc__)
    parser.add_argument("--containers", type=int, default=300)
    parser.add_argument("--connect", action="store_true", help="let every third one hold TCP connections")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with bed(options.containers) as made:
            if options.connect:
                made.connect()
            engine = made.engine
            command = shlex.join([sys.executable, "-m", "bench.cycle", "--engine", engine.url])
            print(f"{options.containers} containers after {made.seconds:.0f} s; pid {os.getpid()}")
            print(f"{command} --netns {engine.netns}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
