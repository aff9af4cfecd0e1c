"""With a log whose words the test decides: what the kernel really says is in tests/procfs and in test_life."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors import oomlog
from falcon_agent.collectors.oomlog import KEEP_MAX, KEEP_SECONDS, OomLog, series
from falcon_agent.container import CgroupPaths, Container, Pod
from falcon_agent.errors import DeniedError
from falcon_agent.procfs.kmsg import Kill, News

if TYPE_CHECKING:
    from collections.abc import Iterable

ID = "a" * 64
OTHER = "b" * 64


def made(name: str, number: str = ID, pid: int = 7) -> Container:
    return Container(number, name, "test", pid, 1, CgroupPaths({"memory": f"/docker/{number}"}, "/"))


C = made("c")
SERIES = series(C)


@dataclass
class Told:
    """What the log will say next."""

    kills: list[Kill] = field(default_factory=list)
    lost: bool = False

    def read(self) -> News:
        news = News(self.kills, self.lost)
        self.kills, self.lost = [], False
        return news


class Bed:
    """Cycles over a scripted log."""

    def __init__(self, *, has_host_pids: bool = True) -> None:
        self.told = Told()
        self.log = OomLog(lambda: self.told, has_host_pids=has_host_pids)
        self.now = 0.0
        self.begin()
        assert not self.log.complete, "what was told before nobody has read"

    def begin(self, *running: Container, ended: Iterable[Container] = (), seconds: float = 60.0) -> None:
        self.now += seconds
        self.log.begin(running, ended, self.now)

    def say(self, *cgroups: str | None, pid: int = 99) -> None:
        self.told.kills += [Kill(pid, cgroup) for cgroup in cgroups]

    def left(self, *living: Container) -> dict[str, int]:
        found = self.log.left([series(one) for one in living])
        return {container.name: kills for container, kills in found}


@pytest.fixture
def bed() -> Bed:
    return Bed()


def test_from_the_second_cycle_on_all_is_known(bed: Bed) -> None:
    bed.begin(C)
    assert bed.log.complete
    assert bed.log.settle(SERIES, 0) == 0


@pytest.mark.parametrize(
    ("counted", "told", "reported"), [(0, 1, 1), (2, 2, 2), (1, 3, 3), (3, 1, 3), (None, 2, 2), (None, 0, 0)]
)
def test_the_greater_number_counts(bed: Bed, counted: int | None, told: int, reported: int) -> None:
    bed.say(*[f"/docker/{ID}/below"] * told)
    bed.begin(C)
    assert bed.log.settle(SERIES, counted) == reported
    bed.log.end()
    bed.begin(C)
    assert bed.log.settle(SERIES, 0) == 0


def test_what_the_counter_had_before_the_log_is_no_news(bed: Bed) -> None:
    bed.begin(C)
    assert bed.log.settle(SERIES, 2) == 2
    bed.say(*["/docker/" + ID] * 3)
    bed.log.end()
    bed.begin(C)
    assert bed.log.settle(SERIES, 0) == 1, "two were counted before"


def test_what_the_log_never_told_covers_no_later_kill(bed: Bed) -> None:
    bed.begin(C)
    assert bed.log.settle(SERIES, 40) == 40
    bed.log.end()
    bed.say("/docker/" + ID)
    bed.begin()
    assert bed.left() == {"c": 1}
    assert bed.left() == {}
    bed.say("/docker/" + ID)
    bed.log.end()
    bed.begin()
    assert bed.left() == {"c": 1}


def test_a_cgroup_below_that_of_a_container(bed: Bed) -> None:
    bed.say("/lxc.payload.c/system.slice/x.service", "/lxc.payload.cc")
    bed.begin(replace(C, id="c", cgroup=CgroupPaths({}, "/lxc.payload.c")))
    assert bed.log.settle(SERIES, 0) == 1


def test_kills_of_a_container_that_is_not_measured_at_once(bed: Bed) -> None:
    """It ended between the reading of the log and its own."""
    bed.say("/docker/" + ID)
    bed.begin(C)
    assert bed.left(C) == {}
    bed.log.end()
    bed.begin()
    assert bed.left() == {"c": 1}


def test_a_container_that_is_down_at_every_cycle(bed: Bed) -> None:
    bed.begin(C)
    for _ in range(3):
        bed.say("/docker/" + ID)
        bed.begin(seconds=KEEP_SECONDS / 4)
        assert bed.left() == {"c": 1}
    bed.begin(seconds=KEEP_SECONDS)
    bed.say("/docker/" + ID)
    bed.begin()
    assert bed.left() == {}


def test_kills_before_a_container_was_known(bed: Bed) -> None:
    bed.say("/docker/" + ID, "/user.slice")
    bed.begin()
    assert bed.left() == {}
    bed.begin(C)
    assert bed.log.settle(SERIES, None) == 1
    bed.say("/docker/" + OTHER)
    bed.begin()
    bed.begin(made("d", OTHER), seconds=KEEP_SECONDS + 1)
    assert bed.left() == {}, "too long ago"


def test_a_container_that_is_known_by_its_id_only(bed: Bed) -> None:
    bed.say(f"/system.slice/docker-{ID}.scope")
    bed.begin(ended=[replace(C, pid=0, cgroup=CgroupPaths({}, None))])
    assert bed.left() == {"c": 1}


def test_a_name_inside_of_another_container_is_no_id_of_it(bed: Bed) -> None:
    bed.say(f"/elsewhere/{OTHER}/docker/{ID}")
    bed.say(f"/docker/{OTHER}/docker/{ID}")
    bed.begin(C, ended=[made("d", OTHER)])
    assert bed.left() == {"d": 2}


def test_a_pod_and_another_container_of_the_name(bed: Bed) -> None:
    of_pod = replace(made("c", OTHER), pod=Pod("p", "ns", "uid"))
    bed.say("/docker/" + OTHER)
    bed.begin(C, of_pod)
    assert bed.log.settle(SERIES, 0) == 0
    assert bed.log.settle(series(of_pod), 0) == 1


def test_the_root_is_no_container(bed: Bed) -> None:
    bed.say("/", "/docker", "/docker/")
    bed.begin(replace(C, cgroup=CgroupPaths({}, "/")))
    assert bed.log.settle(SERIES, 0) == 0


def test_a_kill_of_which_only_the_pid_is_told(bed: Bed) -> None:
    bed.begin(C)
    bed.say(None, pid=7)
    bed.begin()
    assert bed.log.complete
    assert bed.left() == {"c": 1}
    bed.say(None, pid=7)
    bed.begin()
    assert bed.left() == {}, "by now that pid may be another's"
    assert not bed.log.complete, "somebody was killed, and nobody knows who"
    bed.begin()
    assert bed.log.complete


def test_pids_of_another_namespace_say_nothing() -> None:
    bed = Bed(has_host_pids=False)
    bed.say(None, pid=7)
    bed.begin(C)
    assert bed.log.settle(SERIES, 0) == 0
    assert not bed.log.complete


@pytest.mark.parametrize("late", [False, True])
def test_a_log_that_was_overwritten(bed: Bed, *, late: bool) -> None:
    if late:
        bed.told.lost = True
        bed.log.end()
    else:
        bed.told.lost = True
    bed.say("/docker/" + ID)
    bed.begin(C)
    assert not bed.log.complete
    assert bed.log.settle(SERIES, 0) == 1
    bed.log.end()
    bed.begin(C)
    assert bed.log.complete


def test_no_log(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def refused() -> Told:
        tried.append(1)
        raise DeniedError("/dev/kmsg", "Operation not permitted")

    log = OomLog(refused, has_host_pids=True)
    with caplog.at_level("INFO", oomlog.__name__):
        for now in range(3):
            log.begin([C], [], float(now))
            assert not log.complete
            assert log.settle(SERIES, 2) == 2
            log.end()
    (record,) = caplog.records
    assert record.getMessage() == (
        "cannot read /dev/kmsg: Operation not permitted;"
        " of kills for want of memory that end a container only Docker tells then"
    )
    assert len(tried) == 1


def test_what_is_kept_is_bounded(bed: Bed) -> None:
    bed.begin(*(made(str(number), f"{number:064x}") for number in range(KEEP_MAX + 10)))
    bed.say(*(f"/elsewhere/{number}" for number in range(KEEP_MAX + 10)))
    bed.begin()
    bed.begin()
    assert len(bed.log._known) == len(bed.log._nobodys) == KEEP_MAX
    assert set(bed.log._known) == {f"/docker/{number:064x}" for number in range(10, KEEP_MAX + 10)}
