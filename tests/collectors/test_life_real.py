"""Kills, restarts and health of real containers, against what the engine says of them."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from falcon_agent.cgroupfs import Cgroup, Hierarchies
from falcon_agent.collectors.base import Target
from falcon_agent.collectors.life import HEALTH, OOM, RESTARTS, UPTIME, LifeCollector
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.discovery.feed import Feed
from falcon_agent.errors import GoneError
from falcon_agent.procfs.kmsg import KernelLog
from falcon_agent.procfs.process import Process
from tests.collectors.test_life import no_log
from tests.real.engine import BUSYBOX, EngineError, call, wait_until
from tests.real.podman import Podman

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon_agent.collectors.oomlog import TellsOfKills
    from falcon_agent.container import Container
    from falcon_agent.discovery.runtime import Change
    from tests.real.engine import Engine

ROOT = Path("/sys/fs/cgroup")
V2 = (ROOT / "cgroup.controllers").exists()
_RATE_SECONDS = 5.0
SMALL = ("--memory", "16m", "--memory-swap", "16m")
EAT = """awk 'BEGIN { x = "aaaaaaaa"; while (1) x = x x }'"""
"""Wants all the memory there is."""
_numbers = itertools.count(1)


class Listening(DockerRuntime):
    """One that says when its stream of events has begun: what happens before is not heard."""

    def __init__(self, url: str, timeout: float, proc: str, name: str) -> None:
        super().__init__(url, timeout, proc, name)
        self.listens = threading.Event()

    def watch(self, notify: Callable[[Change], None]) -> None:
        def told(change: Change) -> None:
            notify(change)
            self.listens.set()

        super().watch(told)


class Cycles:
    """Cycle after cycle over the containers of one test, through a feed that hears the engine's events.

    Args:
        engine: where they run.
        names: of the containers.
        open_log: the kernel's log.
    """

    def __init__(
        self, engine: Engine | Podman, *names: str, open_log: Callable[[], TellsOfKills] = KernelLog
    ) -> None:
        self._names = names
        self._hierarchies = Hierarchies.find()
        self._runtime = Listening(
            engine.url, 30.0, "/proc", "podman" if isinstance(engine, Podman) else "docker"
        )
        self.feed = Feed(self._runtime, resync=3600.0)
        self.collector = LifeCollector(self._ended, open_log=open_log)
        self.last: dict[str, dict[str, float]] = {}
        """What the last cycle said, by the container's name."""
        self.ooms: Counter[str] = Counter()
        """All kills that were reported so far."""

    def __enter__(self) -> Self:
        self.feed.start()
        self.feed.wait(20)
        wait_until(self._runtime.listens.is_set, "the stream of events has begun")
        self.cycle()
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.stop()

    def _ended(self) -> list[Container]:
        return [one for one in self.feed.ended() if one.name in self._names]

    def cycle(self) -> dict[str, dict[str, float]]:
        containers = [one for one in self.feed.containers() if one.name in self._names]
        targets = []
        for container in containers:
            try:
                process = Process("/proc", container.pid, container.starttime)
            except GoneError:
                continue
            targets.append(Target(container, process, Cgroup(self._hierarchies, container.cgroup)))
        self.last = {}
        self.collector.begin(targets)
        for target in targets:
            try:
                found = {metric.name: value for metric, value, _ in self.collector.collect(target)}
            except GoneError:
                continue
            finally:
                target.process.close()
            self.last[target.container.name] = found
        for container, (metric, value, _) in self.collector.ended():
            assert container.name not in self.last
            self.last[container.name] = {metric.name: value}
        for name, found in self.last.items():
            self.ooms[name] += int(found.get(OOM.name, 0))
        return self.last

    def until(self, condition: Callable[[], object], what: str) -> None:
        def measured() -> bool:
            self.cycle()
            return bool(condition())

        wait_until(measured, what, 60)


@pytest.fixture
def name() -> str:
    return f"life-{next(_numbers)}"


@pytest.fixture
def all_named() -> None:
    """The kernel names the cgroups of ten kills in five seconds, and the tests before this one have had theirs."""
    time.sleep(_RATE_SECONDS)


def counted(engine: Engine, container: str) -> int:
    """What the kernel says of a container that runs."""
    directory = (ROOT if V2 else ROOT / "memory") / engine.cgroup(container)[1:]
    words = (directory / ("memory.events" if V2 else "memory.oom_control")).read_text().split()
    return int(words[words.index("oom_kill") + 1])


@pytest.mark.real
def test_uptime_and_restarts_against_the_engine(docker_engine: Engine, name: str) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    with docker_engine.container("--name", name) as container, Cycles(docker_engine, name) as cycles:
        ran = time.clock_gettime(time.CLOCK_BOOTTIME)
        cycles.until(lambda: name in cycles.last, "it is known")
        asked = time.clock_gettime(time.CLOCK_BOOTTIME)
        uptime = cycles.cycle()[name][UPTIME.name]
        answered = time.clock_gettime(time.CLOCK_BOOTTIME)
        # The start time is a whole number of ticks of 10 ms.
        assert asked - ran - 0.01 <= uptime <= answered - before + 0.02
        assert cycles.last[name][RESTARTS.name] == docker_engine.inspect(container)["RestartCount"] == 0
        assert HEALTH.name not in cycles.last[name]


@pytest.mark.real
def test_children_that_are_killed(docker_engine: Engine, name: str) -> None:
    with docker_engine.container("--name", name, *SMALL) as container, Cycles(docker_engine, name) as cycles:
        cycles.until(lambda: name in cycles.last, "it is known")
        for kills in (1, 2):
            for _ in range(kills):
                docker_engine.cli("exec", container, "sh", "-c", f"{EAT}; true")
            cycles.until(lambda: cycles.ooms[name] == counted(docker_engine, container), "all are seen")
        assert cycles.ooms[name] == counted(docker_engine, container) == 3
        assert cycles.cycle()[name][OOM.name] == 0
        # Of kills at short intervals it tells as of one, when it is slow.
        wait_until(
            lambda: (
                told(docker_engine, name) > 0
                and [told(docker_engine, name)]
                == [one.ooms for one in cycles.feed.containers() if one.name == name]
            ),
            "the feed heard what Docker told of them",
        )
        cycles.cycle()
        docker_engine.rm(container)
        cycles.until(lambda: name not in cycles.last, "it has ended")
        cycles.cycle()
        assert cycles.ooms[name] == 3


def told(engine: Engine, name: str) -> int:
    """Of how many kills Docker told: under cgroup v1 it misses some, when the cgroup is gone before it looks."""
    events = (
        "events",
        "--since",
        "60m",
        "--until",
        "0s",
        "--filter",
        "event=oom",
        "--filter",
        f"container={name}",
    )
    return len(engine.cli(*events).splitlines())


WAITING = ("sh", "-c", f"until test -e /tmp/go; do sleep 0.5; done; exec {EAT}")
"""Until `go`."""


def go(pid: int) -> None:
    """Not by the runtime's exec, which needs much of the little memory itself."""
    Path(f"/proc/{pid}/root/tmp/go").touch()


@pytest.mark.real
@pytest.mark.parametrize("init", [(), ("--init",)])
def test_containers_that_are_killed_as_a_whole(
    docker_engine: Engine, name: str, init: tuple[str, ...], all_named: None
) -> None:
    """Nearly all with the same exit code, and only some for want of memory."""
    names = {f"{name}-{one}": 0 for one in ("signal", "kill", "stop")} | {f"{name}-a": 1, f"{name}-b": 1}
    with Cycles(docker_engine, *names) as cycles:
        for one in names:
            docker_engine.cli("run", "--detach", *init, "--name", one, *SMALL, BUSYBOX, *WAITING)
        try:
            cycles.until(lambda: cycles.last.keys() == names.keys(), "all are known")
            for one in (f"{name}-a", f"{name}-b"):
                go(docker_engine.pid(one))
            docker_engine.cli("kill", f"{name}-kill")
            os.kill(docker_engine.pid(f"{name}-signal"), signal.SIGKILL)
            docker_engine.cli("stop", "--time", "0", f"{name}-stop")
            codes = dict(zip(names, docker_engine.cli("wait", *names).split(), strict=True))
            assert {code for one, code in codes.items() if not one.endswith("stop")} == {"137"}
            for _ in range(3):
                cycles.cycle()
            assert {one: cycles.ooms[one] for one in names} == names
            assert cycles.last == {}
        finally:
            docker_engine.rm(*names)


@pytest.mark.real
def test_a_container_that_is_killed_again_and_again(
    docker_engine: Engine, name: str, all_named: None
) -> None:
    """Somebody starts it again; some of its lives no cycle sees."""
    kills = 10
    with (
        Cycles(docker_engine, name) as cycles,
        docker_engine.container("--name", name, *SMALL, command=WAITING) as container,
    ):
        cycles.until(lambda: name in cycles.last, "it is known")
        go(docker_engine.pid(container))
        for lives in range(1, kills):
            docker_engine.cli("wait", container)
            if lives % 4 == 0:
                cycles.cycle()
            docker_engine.cli("start", container)
            if lives % 3 == 0:
                cycles.cycle()
        docker_engine.cli("wait", container)
        for _ in range(3):
            cycles.cycle()
        assert cycles.ooms[name] == kills


@pytest.mark.real
def test_a_container_of_podman_which_tells_of_no_kill(podman: Podman, name: str) -> None:
    names = {f"{name}-a": 1, f"{name}-b": 0}
    with Cycles(podman, *names) as cycles, ExitStack() as stack:
        for one in names:
            stack.enter_context(podman.container("--name", one, *SMALL, command=WAITING))
        cycles.until(lambda: cycles.last.keys() == names.keys(), "both are known")
        go(podman.inspect(f"{name}-a")["State"]["Pid"])
        podman.cli("kill", f"{name}-b")
        assert podman.cli("wait", *names).split() == ["137", "137"]
        cycles.until(lambda: not cycles.last, "both have ended, and all is said")
        assert {one: cycles.ooms[one] for one in names} == names


@pytest.mark.real
def test_one_whose_children_are_killed_without_end_hides_no_other(docker_engine: Engine, name: str) -> None:
    """The kernel names the cgroup of ten kills in five seconds only."""
    storm = ("sh", "-c", f"while :; do {EAT}; done")
    names = f"{name}-storm", f"{name}-other"
    with Cycles(docker_engine, *names) as cycles:
        docker_engine.cli("run", "--detach", "--name", names[1], *SMALL, BUSYBOX, *WAITING)
        with docker_engine.container("--name", names[0], *SMALL, command=storm) as container:
            cycles.until(lambda: cycles.last.keys() == set(names), "both are known")
            kills = counted(docker_engine, container)
            wait_until(lambda: counted(docker_engine, container) > kills + 15, "the kernel is tired of it")
            go(docker_engine.pid(names[1]))
            docker_engine.cli("wait", names[1])
            for _ in range(3):
                cycles.cycle()
            assert cycles.ooms[names[1]] == 1
            before = counted(docker_engine, container)
            cycles.cycle()
            assert before <= cycles.ooms[names[0]] <= counted(docker_engine, container)
        docker_engine.rm(names[1])


def reported_once(cycles: Cycles, engine: Engine, name: str, lives: int) -> None:
    """Wait for the kills that Docker told of; a cycle may have read others, and none is reported twice."""
    cycles.until(lambda: cycles.ooms[name] >= told(engine, name), "the kill is reported")
    for _ in range(3):
        cycles.cycle()
    # Docker may tell of another one only now.
    cycles.until(lambda: cycles.last == {}, "nothing is left to say")
    assert 1 <= cycles.ooms[name] <= lives


@pytest.mark.real
def test_without_the_log_docker_is_heard(docker_engine: Engine, name: str) -> None:
    with (
        docker_engine.container("--name", name, *SMALL, command=WAITING) as container,
        Cycles(docker_engine, name, open_log=no_log) as cycles,
    ):
        cycles.until(lambda: OOM.name in cycles.last.get(name, {}), "it was compared")
        assert cycles.ooms[name] == 0
        go(docker_engine.pid(container))
        lives = 1
        while docker_engine.cli("wait", container) and not told(docker_engine, name):
            docker_engine.cli("start", container)
            lives += 1
        reported_once(cycles, docker_engine, name, lives)


@pytest.mark.real
def test_a_container_that_is_killed_before_it_was_seen(docker_engine: Engine, name: str) -> None:
    run = ("docker", "--host", docker_engine.url, "run", "--rm", "--name", name, *SMALL, BUSYBOX)
    with Cycles(docker_engine, name) as cycles:
        lives = 0
        while not told(docker_engine, name):
            with pytest.raises(EngineError, match="exit 137"):
                call([*run, "sh", "-c", f"exec {EAT}"])
            lives += 1
        reported_once(cycles, docker_engine, name, lives)


@pytest.mark.real
def test_a_container_that_is_killed_and_started_again(
    docker_engine: Engine, name: str, all_named: None
) -> None:
    kills = 5
    script = f"""
        echo >>/tmp/lives
        test $(wc -l </tmp/lives) -gt {kills} || exec {EAT}
        exec sleep 1000
    """
    options = ("--name", name, "--restart", "on-failure", *SMALL)
    with (
        Cycles(docker_engine, name) as cycles,
        docker_engine.container(*options, command=("sh", "-c", script)) as container,
    ):
        cycles.until(lambda: cycles.last.get(name, {}).get(RESTARTS.name) == kills, "its last life is known")
        cycles.until(lambda: cycles.ooms[name] >= kills, "all kills are reported")
        for _ in range(3):
            cycles.cycle()
        assert cycles.ooms[name] == kills
        assert docker_engine.inspect(container)["RestartCount"] == kills
        assert counted(docker_engine, container) == 0
        docker_engine.cli("restart", "--time", "0", container)
        reported = cycles.ooms[name]
        cycles.until(lambda: cycles.last.get(name, {}).get(RESTARTS.name) == 0, "Docker counts from 0 again")
        assert cycles.ooms[name] == reported


@pytest.mark.real
def test_a_health_check(docker_engine: Engine, name: str) -> None:
    check = ("--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-retries", "1")
    with (
        docker_engine.container("--name", name, *check, "--health-start-period", "1h") as container,
        Cycles(docker_engine, name) as cycles,
    ):

        def state() -> str:
            status: str = docker_engine.inspect(container)["State"]["Health"]["Status"]
            return status

        cycles.until(lambda: name in cycles.last, "it is known")
        assert HEALTH.name not in cycles.last[name]
        assert state() == "starting"
        docker_engine.exec(container, "touch", "/tmp/well")
        cycles.until(lambda: cycles.last[name].get(HEALTH.name) == 1, "it is healthy")
        assert state() == "healthy"
        docker_engine.exec(container, "rm", "/tmp/well")
        cycles.until(lambda: cycles.last[name].get(HEALTH.name) == 0, "it is unhealthy")
        assert state() == "unhealthy"
