"""Looking at a runtime and listening to it, as the agent does."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING

from tests.real.unixserver import answer, read_request

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from falcon_agent.container import Container
    from falcon_agent.discovery.runtime import Change, Runtime
    from tests.real.engine import Engine


def find(runtime: Runtime) -> dict[str, Container]:
    """Everything that runs, by id; nothing may be left out."""
    found = runtime.find()
    assert found.left_out == []
    return {one.id: one for one in found.containers}


@contextlib.contextmanager
def watching(runtime: Runtime) -> Iterator[list[Change]]:
    """What the runtime notifies of, as it comes; ends the runtime."""
    told: list[Change] = []
    thread = threading.Thread(target=runtime.watch, args=(told.append,), daemon=True)
    thread.start()
    try:
        yield told
    finally:
        runtime.close()
        thread.join(20)
        assert not thread.is_alive()


def asked_path(connection: socket.socket) -> str:
    """The path that a request asks for, without its query."""
    return read_request(connection).split()[1].partition(b"?")[0].decode()


def record(engine: Engine, container: str) -> dict[str, bytes]:
    """What the real engine answers, for one container, to be served with changes."""
    listing = [one for one in json.loads(engine.get("/containers/json")) if one["Id"] == container]
    return {
        "/containers/json": answer(json.dumps(listing).encode()),
        f"/containers/{container}/json": answer(engine.get(f"/containers/{container}/json")),
    }
