"""What changes under the agent: containers, their networks, pids, and the Docker daemon itself. All of it is real."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from falcon_agent.cgroupfs import Cgroup, Hierarchies
from falcon_agent.collectors.cpu import CpuCollector
from falcon_agent.collectors.network import NetworkCollector
from falcon_agent.collectors.runner import Runner
from falcon_agent.collectors.subjects import Naming
from falcon_agent.container import LeftOut, Template
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.discovery.feed import Feed
from falcon_agent.discovery.runtime import Change, Found
from falcon_agent.selfstat import SelfStat
from tests.discovery.looking import asked_path, find, record, watching
from tests.namespaces.lab import inside
from tests.real.engine import BUSYBOX, Engine, wait_until
from tests.real.unixserver import answer, serving

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from falcon_agent.container import Container

pytestmark = pytest.mark.real

# Uses up its CPU quota and sends packets all the time, so that no COUNTER of it stands still.
BUSY = ("--cpus", "0.1", "--name", "steady")
LOOP = ("sh", "-c", "ping -q -i 0.05 172.17.0.1 >/dev/null & while :; do :; done")


@pytest.fixture
def runtime(docker_engine: Engine) -> Iterator[DockerRuntime]:
    runtime = DockerRuntime(docker_engine.url, 30.0, "/proc")
    yield runtime
    runtime.close()


# Containers


def test_every_change_is_told_at_once_and_found(docker_engine: Engine, runtime: DockerRuntime) -> None:
    docker = docker_engine.cli
    listener = DockerRuntime(docker_engine.url, 30.0, "/proc")
    docker("network", "create", "second")
    with watching(listener) as told:
        wait_until(lambda: told == [Change()], "the stream has begun")

        def after(*command: str, ended: bool = False) -> Container | None:
            """What one look finds when the change that a command makes was told."""
            told.clear()
            docker(*command)
            wait_until(lambda: Change(container, ended=ended) in told, f"{command} was told")
            return running(runtime).get(container)

        with docker_engine.container("--name", "changing") as container:
            wait_until(lambda: Change(container) in told, "the start was told")
            began = find(runtime)[container]
            assert (began.name, began.paused) == ("changing", False)
            assert after("pause", container) == replace(began, paused=True)
            assert after("unpause", container) == began
            assert after("rename", container, "changed") == replace(began, name="changed")
            assert after("rename", container, "changing") == began
            assert after("update", "--cpus", "0.7", container) == began
            assert Cgroup(Hierarchies.find(), began.cgroup).cpu_quota().own == 0.7
            assert after("network", "connect", "second", container) == began
            assert "eth1:" in Path(f"/proc/{began.pid}/net/dev").read_text()
            assert after("network", "disconnect", "second", container) == began
            assert "eth1:" not in Path(f"/proc/{began.pid}/net/dev").read_text()
            again = after("restart", "--time", "1", container, ended=True)
            assert again is not None
            assert (again.id, again.name) == (began.id, began.name)
            assert (again.pid, again.key) != (began.pid, began.key)
            assert again.pid == docker_engine.pid(container)
            assert after("stop", "--time", "1", container, ended=True) is None
            started = after("start", container)
            assert started is not None
            assert started.key not in {began.key, again.key}
            assert after("kill", container, ended=True) is None
        with docker_engine.container("--name", "changing") as other:
            wait_until(lambda: Change(other) in told, "the start was told")
            found = find(runtime)
            assert container not in found
            assert found[other].name == "changing"
    docker("network", "rm", "second")


def test_a_natural_end_is_told(docker_engine: Engine, runtime: DockerRuntime) -> None:
    with watching(DockerRuntime(docker_engine.url, 30.0, "/proc")) as told:
        wait_until(lambda: told == [Change()], "the stream has begun")
        with docker_engine.container(command=("true",)) as container:
            wait_until(lambda: Change(container, ended=True) in told, "the end was told")
            assert container not in running(runtime)


def running(runtime: DockerRuntime) -> dict[str, Container]:
    """What one look finds; the engine may still list what it said to have ended, which is left out then."""
    return {one.id: one for one in runtime.find().containers}


def test_a_pid_that_a_stranger_got(docker_engine: Engine, tmp_path: Path) -> None:
    """The engine does not know yet that the container ended, and its pid runs again as something else."""

    def handle(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(answers.get(asked_path(connection), answer(b"", "404 Not Found")))

    with serving(tmp_path / "s", handle) as url:
        runtime = DockerRuntime(url, 30.0, "/proc")
        stranger = None
        while stranger is None:
            with docker_engine.container() as container:
                answers = record(docker_engine, container)
                one = find(runtime)[container]
            stranger = start_with_pid(one.pid)
        with stranger:
            try:
                assert not runtime.alive(one)
                found = runtime.find()
                # Also for who begins to look only now.
                assert DockerRuntime(url, 30.0, "/proc").find() == found
            finally:
                stranger.kill()
    reason = "gone: the process is in another cgroup: the pid was used again"
    assert found == Found([], [LeftOut(one.name, container, "docker", reason)])


def start_with_pid(pid: int) -> subprocess.Popen[bytes] | None:
    """A process with this pid, or None if another program was faster."""
    for _ in range(20):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "3600"])
        if process.pid == pid:
            return process
        with process:
            process.kill()
    return None


@pytest.mark.parametrize(
    "options",
    [
        ("--cgroup-parent", "/{name}/docker/very/deep.slice/docker-x.scope/of-ours"),
        ("--cgroupns", "host"),
        ("--cgroupns", "private"),
    ],
    ids=["parent", "host", "private"],
)
def test_cgroups(docker_engine: Engine, runtime: DockerRuntime, options: tuple[str, str]) -> None:
    option, value = (word.format(name=docker_engine.name) for word in options)
    parent = value if option == "--cgroup-parent" else f"/{docker_engine.name}/docker"
    with docker_engine.container(option, value, "--memory", "64m") as container:
        one = find(runtime)[container]
        path = f"{parent}/{container}"
        assert set(one.cgroup.v1.values()) == {path}
        found = Cgroup(Hierarchies.find(), one.cgroup)
        usage = Path(f"/sys/fs/cgroup/cpuacct{path}/cpuacct.usage")
        memory = Path(f"/sys/fs/cgroup/memory{path}/memory.usage_in_bytes")

        def both() -> list[int]:
            return [int(file.read_text()) for file in (usage, memory)]

        # Until nothing happened meanwhile, so that nothing but the very same files can give the same values.
        for _ in range(1000):
            expected = both()
            cpu, mem = found.cpu(), found.memory()
            if both() == expected:
                break
    assert cpu is not None
    assert mem is not None
    assert [cpu.usage_ns, mem.usage_bytes] == expected
    assert min(expected) > 0
    assert mem.limit_bytes == 64 * 1024**2


# The daemon


class Measuring:
    """What the agent measures of one container while the daemon has its troubles: feed, runner, all cycles.

    Args:
        engine: measured in its network namespace, where the host's ends of the veths are.
        container: the one to look at.
    """

    def __init__(self, engine: Engine, container: str) -> None:
        self._engine = engine
        self._container = container
        self._hierarchies = Hierarchies.find()
        naming = Naming("host", Template(""), {}, {})
        collectors = (CpuCollector(), NetworkCollector())
        self._runner = Runner(collectors, self._hierarchies, naming, 1, SelfStat())
        self.feed = Feed(DockerRuntime(engine.url, 2.0, "/proc"), resync=3600.0)
        self.cycles: list[tuple[str, dict[str, float]]] = []
        """Of each cycle the key of the container, empty while it is not there, and its COUNTERs."""

    def __enter__(self) -> Self:
        self.feed.start()
        self.feed.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.stop()
        self._runner.close()

    def known(self) -> Container | None:
        """The container as the feed knows it now."""
        return next((one for one in self.feed.containers() if one.id == self._container), None)

    def known_now(self) -> Container | None:
        """The same, and a look that shows it."""
        self.feed.refresh()
        return self.known()

    def cycle(self) -> None:
        """Measure once."""
        one = self.known()
        timestamp = len(self.cycles)
        measured = inside(
            str(self._engine.netns), lambda: self._runner.measure([one] if one else [], timestamp)
        )
        counters = {
            f"{record.metric} {record.tags}": record.value
            for _, record in measured
            if record.counterType == "COUNTER"
        }
        self.cycles.append((one.key if one else "", counters))

    def throttled(self) -> float:
        """Microseconds for which its quota kept the container from running, as of the last cycle."""
        return self.cycles[-1][1].get("container.cpu.throttled.time name=steady", 0)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Cycle after cycle until something is so, and then two more."""

        def measured() -> bool:
            self.cycle()
            return bool(condition())

        wait_until(measured, what, 60)
        for _ in range(2):
            self.cycle()

    def during(self, trouble: Callable[[], None]) -> None:
        """Cycle after cycle while the daemon is made to have trouble."""
        thread = threading.Thread(target=trouble)
        thread.start()
        try:
            self.until(lambda: not thread.is_alive(), "the trouble is over")
        finally:
            thread.join()

    def lists_again(self, since: float) -> bool:
        """Whether the daemon was heard and listed everything since a time."""
        state = self.feed.state()
        return state.ok and state.last_ok is not None and state.last_ok > since


def assert_goes_on(cycles: list[tuple[str, dict[str, float]]]) -> None:
    """One life all the time, every series in every cycle, none falls, and some rise."""
    assert len({key for key, _ in cycles}) == 1
    counters = [found for _, found in cycles]
    assert len(counters[0]) == 9  # container.cpu.throttled.time, eight of eth0
    for before, after in pairwise(counters):
        assert before.keys() == after.keys()
        assert all(after[series] >= value for series, value in before.items())
    risen = {series.split()[0] for series, value in counters[0].items() if counters[-1][series] > value}
    assert risen >= {
        "container.cpu.throttled.time",
        "container.net.if.in.bytes",
        "container.net.if.out.bytes",
    }


@pytest.fixture(scope="module")
def living() -> Iterator[Engine]:
    """An engine whose containers live on without it."""
    engine = Engine("--live-restore")
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@pytest.mark.parametrize("end", [Engine.end_daemon, Engine.kill_daemon], ids=["TERM", "KILL"])
def test_a_restart_of_the_daemon_with_live_restore(living: Engine, end: Callable[[Engine], None]) -> None:
    with living.container(*BUSY, command=LOOP) as container, Measuring(living, container) as measuring:
        measuring.until(measuring.known, "the container is known")
        measuring.cycles.clear()
        measuring.cycle()
        pid = living.pid(container)
        measuring.during(lambda: end(living))
        measuring.feed.refresh()
        measuring.until(lambda: not measuring.feed.state().ok, "its absence is noticed")
        began = time.time()
        measuring.during(living.start_daemon)
        # Nobody asks for a look now: the new stream of events has to bring it about.
        measuring.until(lambda: measuring.lists_again(began), "the new daemon listed everything")
        known = measuring.known()
        assert known is not None
        assert known.pid == living.pid(container) == pid
        assert_goes_on(measuring.cycles)


def test_a_restart_of_the_daemon_without_live_restore() -> None:
    engine = Engine()
    engine.start()
    try:
        options = (*BUSY, "--restart", "always")
        with engine.container(*options, command=LOOP) as container, Measuring(engine, container) as measuring:
            # As far above 0 as they do not get again before the first cycle of the next life.
            measuring.until(lambda: measuring.throttled() > 5_000_000, "its COUNTERs are well above 0")
            before = measuring.known()
            assert before is not None
            engine.end_daemon()
            assert measuring.known() is None
            measuring.cycle()
            assert measuring.cycles[-1] == ("", {})
            engine.start_daemon()
            wait_until(measuring.known_now, "it is known again")
            measuring.cycle()
            measuring.cycle()
            anew = measuring.throttled()
            measuring.until(lambda: measuring.throttled() > anew + 200_000, "its COUNTERs have gone on")
            after = measuring.known()
            assert after is not None
            assert (after.id, after.name) == (before.id, before.name)
            assert after.key != before.key
            assert after.pid == engine.pid(container)
    finally:
        engine.stop()
    last = next(found for key, found in reversed(measuring.cycles) if key == before.key)
    new = [(key, found) for key, found in measuring.cycles if key == after.key]
    assert len(last) == 9
    # Its COUNTERs begin anew: the first value below the last one is not sent, and then they go on from there.
    first = new[0][1]
    assert all(value >= last[series] for series, value in first.items())
    assert last.keys() - first.keys() >= {
        "container.cpu.throttled.time name=steady",
        "container.net.if.in.bytes iface=eth0,name=steady",
        "container.net.if.out.bytes iface=eth0,name=steady",
    }
    assert_goes_on(new[1:])


def test_a_hanging_daemon_while_containers_start_and_end(docker_engine: Engine) -> None:
    runtime = DockerRuntime(docker_engine.url, 2.0, "/proc")
    feed = Feed(runtime, resync=3600.0)
    with docker_engine.container() as stays, docker_engine.container() as ends:
        pids = {one: docker_engine.pid(one) for one in (stays, ends)}
        feed.start()
        try:
            feed.wait(20)

            def known() -> set[str]:
                return {one.id for one in feed.containers()} & {stays, ends, *started}

            started: list[str] = []
            wait_until(lambda: known() == {stays, ends}, "both are known")
            with docker_engine.hanging():
                starting = subprocess.Popen(
                    [
                        "docker",
                        "--host",
                        docker_engine.url,
                        "run",
                        "--detach",
                        "--init",
                        BUSYBOX,
                        "sleep",
                        "999",
                    ],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                os.kill(pids[ends], signal.SIGKILL)
                wait_until(lambda: known() == {stays}, "the kernel tells the end although the daemon hangs")
                feed.refresh()
                wait_until(lambda: not feed.state().ok, "the hang is noticed")
                assert known() == {stays}
            started.append(starting.communicate(timeout=60)[0].strip())
            look = DockerRuntime(docker_engine.url, 30.0, "/proc")
            assert running(look).keys() & {stays, ends, *started} == {stays, *started}
            wait_until(lambda: known() == {stays, *started}, "the feed was told")
            docker_engine.rm(*started)
        finally:
            feed.stop()
