"""A container's life over captured trees; what the runtime and the kernel's log would say is the test's choice."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import pytest

from falcon_agent.cgroupfs import Cgroup
from falcon_agent.collectors.base import Target
from falcon_agent.collectors.life import HEALTH, OOM, RESTARTS, UPTIME, LifeCollector
from falcon_agent.container import Container, Pod
from falcon_agent.errors import DeniedError
from falcon_agent.procfs.kmsg import Kill, News
from falcon_agent.procfs.process import Process
from tests.cgroupfs.trees import DOCKER, Tree
from tests.real.engine import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from falcon_agent.collectors.oomlog import TellsOfKills


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
