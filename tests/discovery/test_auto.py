from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from falcon_agent.container import CgroupPaths, Container
from falcon_agent.discovery.auto import AutoRuntime
from falcon_agent.discovery.runtime import Change, Found
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Recorded:
    """A runtime that finds one container, named after itself, and is watched until it is closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.container = Container(name, name, name, 1, 1, CgroupPaths({}, "/"))
        self.watched = threading.Event()
        self.closed = threading.Event()

    def find(self) -> Found:
        return Found([self.container])

    def watch(self, notify: Callable[[Change], None]) -> None:
        self.watched.set()
        notify(Change(self.name))
        self.closed.wait()

    def alive(self, container: Container) -> bool:
        return container == self.container

    def close(self) -> None:
        self.closed.set()


def test_docker_that_comes_later_is_noticed_and_kept(tmp_path: Path) -> None:
    docker, cgroups = Recorded("docker"), Recorded("cgroups")
    auto = AutoRuntime(f"unix://{tmp_path}/docker.sock", docker, cgroups)
    told: list[Change] = []
    thread = threading.Thread(target=auto.watch, args=(told.append,), daemon=True)
    thread.start()
    assert cgroups.watched.wait(20)
    (tmp_path / "docker.sock").touch()  # a file is no socket
    assert auto.find().containers == [cgroups.container]
    assert auto.name == "cgroups"
    assert auto.alive(cgroups.container)

    (tmp_path / "docker.sock").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "docker.sock"))
        assert auto.find().containers == [docker.container]
        assert auto.name == "docker"
    wait_until(lambda: told == [Change("cgroups"), Change("docker")], "the other one is watched")

    # Docker being down does not turn its containers into nameless ones.
    (tmp_path / "docker.sock").unlink()
    assert auto.find().containers == [docker.container]
    auto.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_tcp_url_counts_as_present() -> None:
    docker, cgroups = Recorded("docker"), Recorded("cgroups")
    auto = AutoRuntime("tcp://127.0.0.1:2375", docker, cgroups)
    assert auto.find().containers == [docker.container]
