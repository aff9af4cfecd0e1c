"""What goes wrong on any day leaves nothing to the garbage collector, which looks seldom (`falcon_agent.allocator`)."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any, cast

import pytest

from falcon_agent.collectors.base import Target
from falcon_agent.collectors.filesystem import FilesystemCollector
from falcon_agent.container import CgroupPaths, Container
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.errors import FalconAgentError, GoneError, as_value
from falcon_agent.namespaces.enter import NetworkNamespaces
from falcon_agent.procfs.process import Process
from falcon_agent.selfstat import SelfStat
from falcon_agent.transfer.batches import Batch
from falcon_agent.transfer.queue import MemoryQueue
from falcon_agent.transfer.sender import Sender
from tests.garbage import none_left
from tests.transfer.pushing import BODY, client, refused_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

pytestmark = pytest.mark.real


@pytest.fixture
def ending() -> Iterator[tuple[Target, subprocess.Popen[bytes]]]:
    """A target, and the process of it, which the test ends."""
    with subprocess.Popen(["sleep", "86400"]) as sleeper:
        process = Process("/proc", sleeper.pid)
        try:
            container = Container(
                id="c",
                name="c",
                runtime="test",
                pid=sleeper.pid,
                starttime=process.starttime(),
                cgroup=CgroupPaths({}, "/"),
            )
            yield Target(container, process, cast("Any", None)), sleeper
        finally:
            process.close()
            sleeper.kill()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize("learns", [False, True], ids=["known mounts", "mounts to be learned"])
def test_a_container_that_ends_while_its_file_systems_are_asked(
    ending: tuple[Target, subprocess.Popen[bytes]], *, learns: bool
) -> None:
    target, process = ending
    collector = FilesystemCollector()
    collector._hosts = frozenset()
    collector._cycle = 1  # the host's own mounts, which are this process's too, stay unknown
    collector.begin([target])
    assert list(collector.collect(target))
    collector._watched[target.key].due = 0 if learns else 1000
    end(process)
    gone = 0
    with none_left():
        for _ in range(2):
            collector.begin([target])
            try:
                list(collector.collect(target))
            except GoneError:
                gone += 1
        collector.forget(target)
    assert gone == 2


def test_a_container_that_ends_before_its_namespace_is_entered(
    ending: tuple[Target, subprocess.Popen[bytes]],
) -> None:
    target, process = ending
    namespaces = NetworkNamespaces()

    def fail() -> None:
        raise GoneError("it", "by design")

    def run() -> None:
        with contextlib.suppress(GoneError):
            namespaces.run(fail, target.process.fd, target.process.path)

    run()
    with none_left():
        run()
        end(process)
        run()


def test_a_container_that_is_removed_after_it_was_listed(
    docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = DockerRuntime(docker_engine.url, 10, "/proc")
    with docker_engine.container():
        listed = runtime._list()
    assert listed
    monkeypatch.setattr(runtime, "_list", lambda: listed)
    with none_left():
        assert runtime.find().containers == []
    runtime.close()


@pytest.mark.parametrize("addresses", [1, 2])
def test_a_push_that_nobody_takes(addresses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest keeps what is logged, and the error in it.
    monkeypatch.setattr("falcon_agent.transfer.sender._log.disabled", True)
    batch = Batch(BODY, 1, 1795161720)
    with client(*(refused_address() for _ in range(addresses))) as transport:
        queue = MemoryQueue(1000, SelfStat())
        queue.put([batch])
        sender = Sender(transport, queue, SelfStat(), pace=0.0, target="t", step=60)
        with none_left():
            said = str(sender.send_once())
    assert "refused" in said


def test_an_error_as_a_value_has_no_frames_unless_it_was_unforeseen() -> None:
    kept: list[Exception] = []
    for kind in (FalconAgentError, OSError, ValueError):
        try:
            try:
                raise LookupError
            except LookupError:
                raise kind("by design") from None
        except kind as error:
            kept.append(as_value(error))
    assert [(one.__traceback__ is None, one.__context__ is None) for one in kept] == [
        (True, True),
        (True, True),
        (False, False),
    ]
