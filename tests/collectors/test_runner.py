"""The runner: what one collector does never hurts another, and samples become the right records."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
from typing import TYPE_CHECKING, Any, Literal

import pytest

from falcon_agent.cgroupfs import Hierarchies
from falcon_agent.collectors.runner import Runner, namespace_owners
from falcon_agent.collectors.subjects import Naming
from falcon_agent.container import CgroupPaths, Container, Pod, Template
from falcon_agent.errors import FalconAgentError, GoneError, KernelFileError
from falcon_agent.metric import Metric, Record, record_of
from falcon_agent.procfs.endings import Endings
from falcon_agent.procfs.process import Process
from falcon_agent.selfstat import SelfStat
from tests.cgroupfs.live import LiveCgroup
from tests.namespaces.lab import open_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from falcon_agent.collectors.base import Target
    from falcon_agent.metric import Sample

GAUGE = Metric("container.test.gauge", "GAUGE", "1", "", "")
COUNTER = Metric("container.test.counter", "COUNTER", "1", "", "")
NOW = 1_795_000_020


class Scripted:
    """A collector that does what the test says."""

    metrics: tuple[Metric, ...] = (GAUGE, COUNTER)

    def __init__(
        self,
        name: str,
        script: Callable[[Target | None], Iterable[Sample]],
        scope: Literal["container", "netns", "host"] = "container",
    ) -> None:
        self.name = name
        self.scope = scope
        self._script = script
        self.begun: list[int] = []
        self.forgotten: list[str] = []

    def begin(self, targets: Sequence[Target]) -> None:
        self.begun.append(len(targets))

    def collect(self, target: Target | None) -> Iterable[Sample]:
        return self._script(target)

    def forget(self, target: Target) -> None:
        self.forgotten.append(target.container.key)

    def absent(self, metric: Metric, target: Target) -> str | None:
        return None


def one(metric: Metric, value: float, *tags: tuple[str, str]) -> Callable[[Target | None], Iterable[Sample]]:
    return lambda _: [(metric, value, tags)]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def container(name: str = "web", pid: int | None = None, **more: object) -> Container:
    pid = pid or os.getpid()
    process = Process("/proc", pid)
    starttime = process.starttime()
    process.close()
    made = Container(f"id-of-{name}", name, "test", pid, starttime, CgroupPaths({}, "/"), netns=pid)
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def naming(endpoint: str = "{hostname}", tags: dict[str, str] | None = None, **own: str) -> Naming:
    return Naming(
        "host-1", Template(endpoint), tags or {}, {key: Template(text) for key, text in own.items()}
    )


def runner(*collectors: Scripted, names: Naming | None = None, stat: SelfStat | None = None) -> Runner:
    return Runner(collectors, Hierarchies.find(), names or naming(), 60, stat or SelfStat())


def records_of(made: Runner, containers: Iterable[Container], timestamp: int) -> list[Record]:
    return [record for _, record in made.measure(containers, timestamp)]


def test_a_sample_becomes_a_record() -> None:
    collector = Scripted("a", one(GAUGE, 1.5, ("iface", "eth0")))
    found = records_of(
        runner(collector, names=naming(tags={"idc": "bj"}, app="{label:app}")),
        [container(labels={"app": "shop"})],
        NOW,
    )
    assert found == [
        Record("host-1", "container.test.gauge", 1.5, 60, "GAUGE", "app=shop,idc=bj,iface=eth0,name=web", NOW)
    ]


def test_the_more_specific_tag_wins_and_an_empty_one_is_left_out() -> None:
    collector = Scripted("a", one(GAUGE, 1, ("iface", "eth0")))
    names = naming(
        tags={"name": "config", "iface": "config", "app": "config"}, app="{image}", gone="{label:no}"
    )
    (record,) = records_of(runner(collector, names=names), [container(image="nginx:1")], NOW)
    assert record.tags == "app=nginx:1,iface=eth0,name=web"


def test_endpoint_of_each_container_and_of_the_agent_itself() -> None:
    collectors = (Scripted("a", one(GAUGE, 1)), Scripted("host", one(GAUGE, 2), "host"))
    names = naming("{label:site}")
    records = records_of(
        runner(*collectors, names=names), [container("a", labels={"site": "x y/1"}), container("b")], NOW
    )
    assert [(r.endpoint, r.value) for r in records] == [("x_y_1", 1), ("host-1", 1), ("host-1", 2)]


def test_a_faulty_collector_is_counted_logged_once_and_contained(caplog: pytest.LogCaptureFixture) -> None:
    def explode(_: Target | None) -> Iterable[Sample]:
        raise ZeroDivisionError("by design")

    def unreadable(_: Target | None) -> Iterable[Sample]:
        raise KernelFileError("/proc/1/x", "Input/output error")

    stat = SelfStat()
    made = runner(
        Scripted("bug", explode), Scripted("io", unreadable), Scripted("good", one(GAUGE, 1)), stat=stat
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [record.value for record in records_of(made, [container()], NOW)] == [1]
    assert stat.reasons("collect.failed") == {"bug": 3, "io": 3}
    assert sum("cannot read /proc/1/x" in line for line in caplog.messages) == 1
    assert sum("unexpected error in collector bug" in line for line in caplog.messages) == 1


def test_what_was_yielded_before_a_failure_is_not_sent_half() -> None:
    def half(_: Target | None) -> Iterator[Sample]:
        yield GAUGE, 1, ()
        raise KernelFileError("/x", "Input/output error")

    assert records_of(runner(Scripted("half", half)), [container()], NOW) == []


def test_a_container_that_dies_while_it_is_read_is_no_failure() -> None:
    def gone(_: Target | None) -> Iterable[Sample]:
        raise GoneError("/proc/1", "No such process")

    stat = SelfStat()
    assert records_of(runner(Scripted("a", gone), stat=stat), [container()], NOW) == []
    assert stat.total("collect.failed") == 0


def test_a_counter_that_went_back_misses_one_sample() -> None:
    values = iter([10, 20, 5, 6])
    made = runner(Scripted("a", lambda _: [(COUNTER, next(values), ())]))
    sent = [[record.value for record in records_of(made, [container()], NOW + 60 * n)] for n in range(4)]
    assert sent == [[10], [20], [], [6]]


def test_a_restarted_container_under_the_same_name_is_the_same_counter(
    sleeper: subprocess.Popen[bytes],
) -> None:
    values = iter([10, 3, 4])
    made = runner(Scripted("a", lambda _: [(COUNTER, next(values), ())]))
    assert [r.value for r in records_of(made, [container()], NOW)] == [10]
    again = container(pid=sleeper.pid)
    assert records_of(made, [again], NOW + 60) == []
    assert [r.value for r in records_of(made, [again], NOW + 120)] == [4]


def test_the_second_record_of_a_series_is_left_out_and_counted(sleeper: subprocess.Popen[bytes]) -> None:
    stat = SelfStat()
    made = runner(Scripted("a", lambda _: [(GAUGE, 1, ()), (COUNTER, 2, ())]), stat=stat)
    records = records_of(made, [container("web 1"), container("web_1", pid=sleeper.pid)], NOW)
    assert [record.value for record in records] == [1, 2]
    assert stat.reasons("records.invalid") == {"duplicate": 2}


def test_a_name_that_two_bear_is_reported_once_and_afterwards_by_the_other(
    sleeper: subprocess.Popen[bytes],
) -> None:
    stat = SelfStat()
    tagged = Scripted("b", one(COUNTER, 5, ("iface", "eth0")))
    made = runner(Scripted("a", one(GAUGE, 1)), tagged, stat=stat)
    first, second = container("web 1"), container("web_1", pid=sleeper.pid)
    for _ in range(2):
        assert [record.tags for record in records_of(made, [first, second], NOW)] == [
            "name=web_1",
            "iface=eth0,name=web_1",
        ]
    assert stat.reasons("records.invalid") == {"duplicate": 4}
    assert len(records_of(made, [second], NOW)) == 2
    assert stat.reasons("records.invalid") == {"duplicate": 4}
    assert not made._subjects.shared  # and so nothing is looked at twice any more


def test_two_own_tags_that_come_out_alike_are_one_series() -> None:
    stat = SelfStat()
    samples: list[Sample] = [(GAUGE, 1, (("mount", "/a b"),)), (GAUGE, 2, (("mount", "/a_b"),))]
    made = runner(Scripted("a", lambda _: samples), stat=stat)
    assert [record.value for record in records_of(made, [container()], NOW)] == [1]
    assert stat.reasons("records.invalid") == {"duplicate": 1}


def test_a_name_is_remembered_for_some_cycles_and_then_forgotten(sleeper: subprocess.Popen[bytes]) -> None:
    for absent, expected in ((5, []), (15, [3])):
        values = iter([10, 3])
        made = runner(Scripted("a", lambda _, values=values: [(COUNTER, next(values), ())]))  # type: ignore[misc]
        records_of(made, [container()], NOW)
        for _ in range(absent):
            records_of(made, [], NOW)
        again = container(pid=sleeper.pid)
        assert [record.value for record in records_of(made, [again], NOW)] == expected


def test_a_container_makes_no_end_of_names() -> None:
    numbers = iter(range(100_000))
    made = runner(
        Scripted("a", lambda _: [(GAUGE, 1, (("mount", f"/{next(numbers)}"),)) for _ in range(500)])
    )
    for _ in range(40):
        assert len(records_of(made, [container()], NOW)) == 500
    assert len(made._subjects._known) < 12_000


def test_reports_are_the_records_of_a_cycle() -> None:
    made = runner(Scripted("a", one(GAUGE, 1.5, ("iface", "eth0"))), Scripted("b", one(COUNTER, 2)))
    records = records_of(made, [container()], NOW)
    reports = made.reports([container()])
    assert [
        record_of(subject, metric, value, 60, NOW)
        for subject, metrics, values in reports
        for metric, value in zip(metrics, values, strict=True)
    ] == records


def test_samples_of_one_subject_are_one_report_and_a_counter_that_fell_is_in_none() -> None:
    eth0, eth1 = (("iface", "eth0"),), (("iface", "eth1"),)
    other = Metric("container.test.other", "COUNTER", "1", "", "")
    values = iter([(7, 1, 9), (8, 0, 10)])

    def collect(_: Target | None) -> Iterable[Sample]:
        first, second, third = next(values)
        return [
            (GAUGE, 0, ()),
            (COUNTER, first, eth0),
            (other, second, eth0),
            (GAUGE, third, eth0),
            (COUNTER, third, eth1),
        ]

    made = runner(Scripted("a", collect))
    said = [
        [
            (subject.tags, [metric.name.rpartition(".")[2] for metric in metrics], values)
            for subject, metrics, values in made.reports([container()])
        ]
        for _ in range(2)
    ]
    assert said == [
        [
            ("name=web", ["gauge"], (0,)),
            ("iface=eth0,name=web", ["counter", "other", "gauge"], (7, 1, 9)),
            ("iface=eth1,name=web", ["counter"], (9,)),
        ],
        [
            ("name=web", ["gauge"], (0,)),
            ("iface=eth0,name=web", ["counter", "gauge"], (8, 10)),
            ("iface=eth1,name=web", ["counter"], (10,)),
        ],
    ]


def test_a_counter_that_fell_is_found_among_whatever_metrics_it_comes() -> None:
    other = Metric("container.test.other", "COUNTER", "1", "", "")
    cycles: list[list[tuple[Metric, int]]] = [
        [(COUNTER, 5), (other, 5)],
        [(COUNTER, 6)],
        [(GAUGE, 0), (other, 4)],  # fell
        [(COUNTER, 7), (other, 5), (GAUGE, 1)],
        [(other, 4), (COUNTER, 6)],  # both did
        [(GAUGE, 0), (COUNTER, 5)],  # fell
        [(COUNTER, 5), (other, 4)],
    ]
    script = iter(cycles)
    made = runner(Scripted("a", lambda _: [(metric, value, ()) for metric, value in next(script)]))
    said = [records_of(made, [container()], NOW) for _ in cycles]
    assert [[record.value for record in records] for records in said] == [
        [5, 5],
        [6],
        [0],
        [7, 5, 1],
        [],
        [0],
        [5, 4],
    ]
    assert len(made._subjects._known) == 1
    (subject,) = made._subjects._known.values()
    assert len(subject.counted) == 1


def test_a_counter_that_is_no_number_ends_nothing_else() -> None:
    stat = SelfStat()
    bad: Any = None
    made = runner(Scripted("a", one(COUNTER, bad)), Scripted("b", one(GAUGE, 1)), stat=stat)
    assert [record.value for record in records_of(made, [container()], NOW)] == [1]
    assert stat.reasons("collect.failed") == {"a": 1}


def test_a_container_that_left_is_forgotten_and_closed(sleeper: subprocess.Popen[bytes]) -> None:
    collector = Scripted("a", one(GAUGE, 1))
    made = runner(collector)
    stays, leaves = container("stays"), container("leaves", pid=sleeper.pid)
    before = len(os.listdir("/proc/self/fd"))
    records_of(made, [stays, leaves], NOW)
    records_of(made, [stays], NOW)
    assert collector.forgotten == [leaves.key]
    made.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.real
def test_what_was_kept_open_of_a_container_goes_with_it() -> None:
    def read(target: Target | None) -> Iterable[Sample]:
        assert target is not None
        assert target.cgroup.memory() is not None
        target.process.read_record("net/sockstat")
        return [(GAUGE, 1, ())]

    with LiveCgroup("falcon-agent-test-runner") as live:
        pid = live.start("import time; time.sleep(600)").pid
        paths = live.paths(pid)
        hierarchies, endings = Hierarchies.find(), Endings("/proc")
        made = Runner([Scripted("a", read)], hierarchies, naming(), 60, SelfStat(), endings=endings)
        room, before = hierarchies.budget.left, open_descriptors()
        one_of_them = container(pid=pid, cgroup=paths)
        for _ in range(3):
            assert len(records_of(made, [one_of_them], NOW)) == 1
        assert made.still_runs(one_of_them)
        assert hierarchies.budget.left < room
        assert records_of(made, [], NOW) == []
        assert hierarchies.budget.left == room
        made.close()
        assert open_descriptors() <= before


def test_a_renamed_container_gets_its_new_name_and_keeps_its_state() -> None:
    collector = Scripted("a", one(GAUGE, 1))
    made = runner(collector)
    records_of(made, [container("old", id="x")], NOW)
    (record,) = records_of(made, [container("new", id="x")], NOW)
    assert record.tags == "name=new"
    assert collector.forgotten == []


def test_a_reused_pid_is_not_taken_for_the_container() -> None:
    other = dataclasses.replace(container(), starttime=1)
    assert records_of(runner(Scripted("a", one(GAUGE, 1))), [other], NOW) == []


def test_a_process_that_ended_before_the_cycle(sleeper: subprocess.Popen[bytes]) -> None:
    dead = container(pid=sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert records_of(runner(Scripted("a", one(GAUGE, 1))), [dead], NOW) == []


def test_a_shared_namespace_is_measured_once_under_its_owner(sleeper: subprocess.Popen[bytes]) -> None:
    first = container("first", netns=7, network_of="id-of-owner")
    owner = container("owner", pid=sleeper.pid, netns=7, network_of="id-of-owner")
    on_host = container("on-host", netns=1, host_network=True)
    alone = container("alone", netns=8)
    collector = Scripted("n", one(GAUGE, 1), "netns")
    made = runner(collector)
    records = records_of(made, [first, owner, on_host, alone], NOW)
    assert [record.tags for record in records] == ["name=owner", "name=alone"]
    assert collector.begun == [2]
    assert made.speaker(first) is made.target(owner)
    assert made.speaker(on_host) is None


def test_without_inodes_the_runtime_says_who_shares(sleeper: subprocess.Popen[bytes]) -> None:
    owner = container("owner", netns=None, network_of="id-of-owner")
    guest = container("guest", pid=sleeper.pid, netns=None, network_of="id-of-owner")
    made = runner()
    records_of(made, [guest, owner], NOW)
    targets = [target for target in (made.target(guest), made.target(owner)) if target is not None]
    assert [target.container.name for target in namespace_owners(targets)] == ["owner"]


def test_the_network_of_a_pod_is_the_pods_and_not_a_containers() -> None:
    pod = Pod("web-0", "shop", "uid")
    collectors = (Scripted("c", one(GAUGE, 1)), Scripted("n", one(COUNTER, 1), "netns"))
    records = records_of(runner(*collectors), [container("nginx", pod=pod)], NOW)
    assert [record.tags for record in records] == [
        "name=nginx,namespace=shop,pod=web-0",
        "namespace=shop,pod=web-0",
    ]


def test_a_sandbox_speaks_for_its_pod_and_is_nothing_else(sleeper: subprocess.Popen[bytes]) -> None:
    pod = Pod("web-0", "shop", "uid")
    # The sandbox of a pod can be younger than its containers: it was started again.
    app = container("nginx", pod=pod, netns=7, network_of="id-of-sandbox")
    sandbox = container("sandbox", sleeper.pid, pod=pod, netns=7, pause=True, network_of="id-of-sandbox")
    made = runner(Scripted("c", one(GAUGE, 1)), Scripted("n", one(COUNTER, 1), "netns"))
    expected = ["name=nginx,namespace=shop,pod=web-0", "namespace=shop,pod=web-0"]
    for order in ([app, sandbox], [sandbox, app]):
        assert [record.tags for record in records_of(made, order, NOW)] == expected
        assert made.speaker(app) is made.target(sandbox)
    # While its container is being restarted the pod still has a network.
    assert [record.tags for record in records_of(made, [sandbox], NOW)] == expected[1:]


def test_without_inodes_a_pod_is_one_namespace(sleeper: subprocess.Popen[bytes]) -> None:
    pod = Pod("", "", "uid")
    one_of_it = container("a", pod=pod, netns=None)
    other = container("b", sleeper.pid, pod=pod, netns=None)
    made = runner(Scripted("n", one(GAUGE, 1), "netns"))
    assert [record.tags for record in records_of(made, [one_of_it, other], NOW)] == ["pod=uid"]


def test_the_sandbox_of_a_pod_in_the_hosts_network_says_nothing() -> None:
    sandbox = container("sandbox", pod=Pod("proxy", "kube-system"), pause=True, host_network=True)
    made = runner(Scripted("c", one(GAUGE, 1)), Scripted("n", one(GAUGE, 1), "netns"))
    assert records_of(made, [sandbox], NOW) == []


def test_what_is_left_to_say_of_a_container_that_ended(caplog: pytest.LogCaptureFixture) -> None:
    class Obituaries(Scripted):
        def ended(self) -> Iterable[tuple[Container, Sample]]:
            if self.name == "faulty":
                raise FalconAgentError("cannot tell")
            yield dataclasses.replace(container("late"), pid=0), (GAUGE, 2, ())

    stat = SelfStat()
    faulty, sound = Obituaries("faulty", one(GAUGE, 1)), Obituaries("a", one(COUNTER, 1))
    records = records_of(runner(faulty, sound, stat=stat), [container("web")], NOW)
    assert [(record.metric, record.value, record.tags) for record in records] == [
        ("container.test.gauge", 1, "name=web"),
        ("container.test.counter", 1, "name=web"),
        ("container.test.gauge", 2, "name=late"),
    ]
    assert stat.reasons("collect.failed") == {"faulty": 1}
    assert "cannot tell" in caplog.text
