from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

import pytest

from falcon_agent.cgroupfs import Cgroup, Hierarchies
from falcon_agent.collectors.base import Target
from falcon_agent.collectors.life import HEALTH, OOM, RESTARTS, UPTIME, LifeCollector
from falcon_agent.container import Container, Pod
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.discovery.feed import Feed
from falcon_agent.errors import DeniedError, GoneError
from falcon_agent.procfs.kmsg import KernelLog, Kill, News
from falcon_agent.procfs.process import Process
from tests.cgroupfs.trees import DOCKER, Tree
from tests.real.engine import BUSYBOX, EngineError, call, wait_until
from tests.real.podman import Podman

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from falcon_agent.collectors.oomlog import TellsOfKills
    from falcon_agent.discovery.runtime import Change
    from tests.real.engine import Engine

ROOT = Path("/sys/fs/cgroup")
V2 = (ROOT / "cgroup.controllers").exists()
_RATE_SECONDS = 5.0
SMALL = ("--memory", "16m", "--memory-swap", "16m")
EAT = """awk 'BEGIN { x = "aaaaaaaa"; while (1) x = x x }'"""
"""Wants all the memory there is."""
_numbers = itertools.count(1)


# Over captured trees, with what the runtime would say decided by the test


def no_log() -> NoReturn:
    """As where a privilege is missing."""
    raise DeniedError("/dev/kmsg", "Operation not permitted")


class Life:
    """A captured container under a collector whose clock and ended lives a test decides."""

    def __init__(
        self, tmp_path: Path, layout: str = "v2", open_log: Callable[[], TellsOfKills] = no_log
    ) -> None:
        self.tree = Tree.copy(layout, tmp_path)
        self.pid = DOCKER[layout]
        self.now = 1000.0
        self.heard: list[Container] = []
        self.left: list[tuple[str, float]] = []
        self.collector = LifeCollector(self._ended, lambda: self.now, open_log=open_log)
        paths = self.tree.paths(self.pid)
        container = Container("c", "c", "test", self.pid, 100_000 - 1, paths)
        cgroup = Cgroup(self.tree.hierarchies, paths)
        self.target = Target(container, Process(self.tree.proc, self.pid), cgroup)
        self.kills(0)

    def _ended(self) -> list[Container]:
        heard, self.heard = self.heard, []
        return heard

    def change(self, **fields: object) -> None:
        """What the runtime says of it from now on."""
        self.target.container = replace(self.target.container, **fields)  # type: ignore[arg-type]

    def kills(self, number: int) -> None:
        """What the kernel has counted so far."""
        name, text = {
            "v2": ("memory.events", f"low 0\noom 9\noom_kill {number}\n"),
            "v1-separate": ("memory.oom_control", f"under_oom 0\noom_kill {number}\n"),
        }[self.tree.layout]
        (self.tree.directory(self.pid, "memory") / name).write_text(text)

    def cycle(self, *others: Target, runs: bool = True, seconds: float = 60) -> dict[str, float]:
        self.now += seconds
        targets = [*([self.target] if runs else []), *others]
        self.collector.begin(targets)
        samples = list(self.collector.collect(self.target)) if runs else ()
        self.left = [(one.name, value) for one, (_, value, _) in self.collector.ended()]
        found: dict[str, float] = {}
        for metric, value, tags in samples:
            assert (metric in self.collector.metrics, tags) == (True, ())
            found[metric.name] = value
        return found

    def oom(self) -> float | None:
        return self.cycle().get(OOM.name)

    def alone(self) -> list[tuple[str, float]]:
        left, self.left = self.left, []
        return left


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path)
    yield made
    made.target.process.close()


def test_uptime_is_since_the_first_process(life: Life) -> None:
    life.now = 1000.0 - 60
    assert life.cycle()[UPTIME.name] == 0.01
    life.now = 500.0  # a clock that the process is ahead of: another time namespace's, or a bug
    assert life.cycle()[UPTIME.name] == 0.0


def test_what_the_runtime_does_not_say_is_absent(life: Life) -> None:
    assert life.cycle().keys() == {UPTIME.name}
    said = {metric: life.collector.absent(metric, life.target) for metric in life.collector.metrics}
    assert said == {
        UPTIME: None,
        RESTARTS: "test does not tell",
        HEALTH: "it has no health check, or the runtime's list does not tell of it",
        OOM: "there was no cycle before to compare with",
    }


@pytest.mark.parametrize(("told", "sent"), [("healthy", 1), ("unhealthy", 0), ("starting", None)])
def test_restarts_and_health(life: Life, told: str, sent: int | None) -> None:
    life.change(restarts=0, health=told)
    found = life.cycle()
    assert (found[RESTARTS.name], found.get(HEALTH.name)) == (0, sent)
    assert life.collector.absent(RESTARTS, life.target) is None
    reason = life.collector.absent(HEALTH, life.target)
    assert reason == ("its health check has no result yet" if sent is None else None)


@pytest.mark.parametrize("layout", ["v2", "v1-separate"])
def test_kills_since_the_last_cycle(tmp_path: Path, layout: str) -> None:
    life = Life(tmp_path, layout)
    life.kills(7)
    assert life.oom() is None  # 7, but since when?
    assert life.oom() == 0
    life.kills(10)
    life.change(ooms=3)  # the runtime heard of the same three
    assert life.oom() == 3
    assert life.oom() == 0
    life.target.process.close()


def test_a_new_life_has_only_news(life: Life) -> None:
    life.cycle(runs=False)
    life.kills(2)
    life.change(starttime=int(life.now - 5) * 100)
    assert life.oom() == 2


def test_a_life_that_was_only_not_seen_has_no_news_at_first(life: Life) -> None:
    life.cycle(runs=False)
    life.kills(2)
    life.change(starttime=int(life.now - 3600) * 100)
    assert life.oom() is None
    life.kills(3)
    assert life.oom() == 1


def test_the_kill_that_ended_a_life_is_reported_with_the_next(life: Life) -> None:
    life.kills(1)
    life.change(ooms=1)
    life.cycle()
    # Two more: one that nobody could read any more, and one that ended a life which no cycle has seen.
    life.heard = [replace(life.target.container, ooms=2), replace(life.target.container, pid=0, ooms=1)]
    life.kills(0)
    life.change(starttime=int(life.now + 5) * 100, ooms=0)
    assert life.oom() == 2
    assert life.alone() == []
    assert life.oom() == 0


def test_the_kill_that_ended_a_container_is_reported_alone_once(life: Life) -> None:
    life.cycle()
    life.collector.forget(life.target)
    life.heard = [replace(life.target.container, ooms=1)]
    assert life.cycle(runs=False) == {}
    assert life.alone() == [("c", 1)]
    assert life.alone() == []
    life.cycle(runs=False)
    assert life.alone() == []


def test_kills_that_a_cycle_has_read_are_not_reported_again(life: Life) -> None:
    life.cycle()
    life.kills(2)
    life.change(ooms=2)
    assert life.oom() == 2
    life.collector.forget(life.target)
    life.heard = [life.target.container]
    life.cycle(runs=False)
    assert life.alone() == []


def test_news_without_a_kill_are_settled_by_the_kernels_counter(life: Life) -> None:
    """Under cgroup v1 Docker tells all containers below a limit of the one that was killed."""
    life.cycle()
    life.change(ooms=5)
    assert life.oom() == 0
    life.heard = [life.target.container]
    life.cycle(runs=False)
    assert life.alone() == []


def test_an_event_that_comes_after_the_reading_is_no_second_kill(life: Life) -> None:
    life.cycle()
    life.kills(1)
    assert life.oom() == 1, "the kernel's counter was read before Docker told"
    life.heard = [replace(life.target.container, ooms=1)]
    life.cycle(runs=False)
    assert life.alone() == []


def test_an_event_that_comes_late_is_waited_for(life: Life) -> None:
    life.cycle()
    life.kills(2)
    assert life.oom() == 2
    life.change(ooms=1)
    assert life.oom() == 0
    life.heard = [replace(life.target.container, ooms=3)]
    life.cycle(runs=False)
    assert life.alone() == [("c", 1)], "of the last two the first was read already"


def test_an_event_that_has_come_is_not_waited_for(life: Life) -> None:
    life.cycle()
    life.kills(1)
    assert life.oom() == 1
    for ooms, pid in ((1, life.pid), (1, 0)):
        life.heard = [replace(life.target.container, pid=pid, ooms=ooms)]
        life.cycle(runs=False, seconds=5)
        assert life.alone() == ([] if pid else [("c", 1)])


def test_a_name_is_one_in_its_pod(life: Life) -> None:
    life.cycle()
    of_pod = replace(life.target.container, pod=Pod("p", "ns", "uid"), ooms=1)
    life.heard = [replace(of_pod, id="other"), of_pod, replace(life.target.container, id="made anew", ooms=1)]
    assert life.oom() == 1
    assert life.alone() == [("c", 2)]


def test_a_kernel_that_does_not_count(life: Life) -> None:
    (life.tree.directory(life.pid, "memory") / "memory.events").write_text("low 0\n")
    assert life.oom() is None
    assert life.collector.absent(OOM, life.target) == "the kernel does not count them for this cgroup"
    life.heard = [replace(life.target.container, pid=0, ooms=2)]
    assert life.oom() == 2


def test_what_is_remembered_goes_with_the_container(life: Life) -> None:
    life.cycle()
    life.cycle(runs=False)
    assert not life.collector._readings  # nothing else shows what would pile up


class Log:
    """The kernel's log, with what the test decides: a reading before and one after the counters in each cycle."""

    def __init__(self, life: Life) -> None:
        self._cgroup = life.tree.paths(life.pid).path("memory")
        self._readings: list[News] = []

    def say(self, before: int, after: int = 0, *, lost: bool = False) -> None:
        """How many kills it tells of in the next cycle."""
        one = Kill(1, self._cgroup)
        self._readings = [News([one] * before, lost), News([one] * after, lost=False)]

    def read(self) -> News:
        return self._readings.pop(0) if self._readings else News([], lost=False)


@pytest.fixture(params=["v2", "v1-separate"])
def logged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Life, Log]]:
    made = Life(tmp_path, request.param, lambda: log)
    log = Log(made)
    assert made.oom() is None
    yield made, log
    made.target.process.close()


def test_the_log_tells_what_the_counter_took_with_it(logged: tuple[Life, Log]) -> None:
    life, log = logged
    life.kills(1)
    log.say(1)
    assert life.oom() == 1
    # Two more: one that nobody could read any more, and one in the next life.
    life.kills(1)
    life.change(starttime=int(life.now + 5) * 100)
    log.say(2)
    assert life.oom() == 2
    log.say(1)
    life.cycle(runs=False)
    assert life.alone() == [("c", 1)]
    life.cycle(runs=False)
    assert life.alone() == []


def test_the_log_may_be_late(logged: tuple[Life, Log]) -> None:
    life, log = logged
    life.kills(1)
    log.say(0, 2)
    assert life.oom() == 1
    assert life.oom() == 1, "the other came after the counter was read, and took it with it"
    assert life.oom() == 0


def test_with_the_log_dockers_word_is_not_needed(logged: tuple[Life, Log]) -> None:
    life, log = logged
    log.say(1)
    life.heard = [replace(life.target.container, ooms=5)]
    life.cycle(runs=False)
    assert life.alone() == [("c", 1)]
    life.heard = [replace(life.target.container, pid=0, ooms=1)]
    life.cycle(runs=False)
    assert life.alone() == [], "it comes after the end, and the log has told"


@pytest.mark.parametrize("by_docker", [1, 3])
def test_where_the_log_was_overwritten_docker_is_heard_too(logged: tuple[Life, Log], by_docker: int) -> None:
    life, log = logged
    log.say(2, lost=True)
    life.heard = [replace(life.target.container, ooms=by_docker)]
    life.cycle(runs=False)
    assert life.alone() == [("c", max(by_docker, 2))]
    log.say(2, lost=True)
    life.heard = [replace(life.target.container, ooms=by_docker)]
    life.change(starttime=int(life.now + 5) * 100)
    assert life.oom() == max(by_docker, 2)


@pytest.mark.parametrize("by", ["log", "counter"])
def test_an_event_that_comes_after_the_end_is_no_second_kill(logged: tuple[Life, Log], by: str) -> None:
    life, log = logged
    log.say(1)
    life.kills(1 if by == "counter" else 0)
    assert life.oom() == 1
    life.cycle(runs=False, seconds=5)
    for ooms in (1, 2):
        log.say(0, lost=True)
        life.heard = [replace(life.target.container, pid=0, ooms=ooms)]
        life.cycle(runs=False, seconds=5)
        assert life.alone() == ([] if ooms == 1 else [("c", 2)])


def test_docker_may_miss_one(logged: tuple[Life, Log]) -> None:
    """It is not waited for for ever."""
    life, log = logged
    log.say(1)
    life.cycle(runs=False)
    assert life.alone() == [("c", 1)]
    life.cycle(runs=False)
    log.say(0, lost=True)
    life.heard = [replace(life.target.container, pid=0, ooms=1)]
    life.cycle(runs=False)
    assert life.alone() == [("c", 1)]


def test_a_kernel_that_does_not_count_but_logs(logged: tuple[Life, Log]) -> None:
    life, log = logged
    name = "memory.events" if life.tree.layout == "v2" else "memory.oom_control"
    (life.tree.directory(life.pid, "memory") / name).write_text("low 0\n")
    assert life.oom() == 0
    log.say(2)
    assert life.oom() == 2


@pytest.mark.real
def test_uptime_in_another_time_namespace() -> None:
    """There the kernel shifts both what it says of processes and the clock."""
    code = (
        "from pathlib import Path; from falcon_agent.collectors.life import LifeCollector;"
        "from falcon_agent.procfs.process import parse_starttime;"
        "start = parse_starttime(Path('/proc/1/stat').read_bytes()) / 100;"
        "print(LifeCollector()._boottime() - start, start)"
    )

    def ask(*prefix: str) -> list[float]:
        return [float(word) for word in call([*prefix, sys.executable, "-c", code]).split()]

    before, start = ask()
    inside, shifted = ask("unshare", "--time", "--boottime", "86400", "--fork")
    after, _ = ask()
    assert shifted == start + 86400
    assert before <= inside <= after


# Real containers


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
        wait_until(
            lambda: [one.ooms for one in cycles.feed.containers() if one.name == name] == [3],
            "Docker told of all of them",
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
    docker_engine: Engine, name: str, init: tuple[str, ...]
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
def test_a_container_that_is_killed_again_and_again(docker_engine: Engine, name: str) -> None:
    """Somebody starts it again; some of its lives no cycle sees."""
    with (
        Cycles(docker_engine, name) as cycles,
        docker_engine.container("--name", name, *SMALL, command=WAITING) as container,
    ):
        cycles.until(lambda: name in cycles.last, "it is known")
        go(docker_engine.pid(container))
        for lives in range(1, 11):
            docker_engine.cli("wait", container)
            if lives % 4 == 0:
                cycles.cycle()
            docker_engine.cli("start", container)
            if lives % 3 == 0:
                cycles.cycle()
        docker_engine.cli("wait", container)
        for _ in range(3):
            cycles.cycle()
        assert cycles.ooms[name] == 11


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
        # A cycle may have read a kill of which Docker does not tell; no kill is reported twice.
        cycles.until(lambda: cycles.ooms[name] >= told(docker_engine, name), "the kill is reported")
        for _ in range(3):
            cycles.cycle()
        assert 1 <= cycles.ooms[name] <= lives
        assert cycles.last == {}


@pytest.mark.real
def test_a_container_that_is_killed_before_it_was_seen(docker_engine: Engine, name: str) -> None:
    run = ("docker", "--host", docker_engine.url, "run", "--rm", "--name", name, *SMALL, BUSYBOX)
    with Cycles(docker_engine, name) as cycles:
        lives = 0
        while not told(docker_engine, name):
            with pytest.raises(EngineError, match="exit 137"):
                call([*run, "sh", "-c", f"exec {EAT}"])
            lives += 1
        cycles.until(lambda: cycles.ooms[name] >= told(docker_engine, name), "the kill is reported")
        for _ in range(3):
            cycles.cycle()
        assert 1 <= cycles.ooms[name] <= lives
        assert cycles.last == {}


@pytest.mark.real
def test_a_container_that_is_killed_and_started_again(docker_engine: Engine, name: str) -> None:
    kills = 5
    script = f"""
        echo >>/tmp/lives
        test $(wc -l </tmp/lives) -gt {kills} || exec {EAT}
        exec sleep 1000
    """
    # The kernel names the cgroups of ten kills in five seconds, and the tests before this one have had theirs.
    time.sleep(_RATE_SECONDS)
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
