from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from falcon_agent.container import LeftOut, Pod
from falcon_agent.discovery import feed
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.discovery.filters import Filter
from falcon_agent.discovery.inventory import HOST_NETWORK, LATER_SECONDS, Inventory
from falcon_agent.discovery.runtime import Change, Found
from falcon_agent.errors import RuntimeUnavailableError
from falcon_agent.selfstat import SelfStat
from tests.discovery.told import LONG, NOTHING, Told, container, names, reasons, source, started
from tests.real.engine import Engine, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from falcon_agent.container import Container


@pytest.fixture(autouse=True)
def _heard_before_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine takes longer to listen, a second look would follow the first one at some time."""
    monkeypatch.setattr(feed, "_LISTEN_SECONDS", LONG)


# With runtimes whose answers a test decides


def test_snapshot_is_sorted_by_name() -> None:
    with started(Told(container("web"), container("db"), container("mq"))) as inventory:
        assert names(inventory) == ["db", "mq", "web"]


def test_several_runtimes_know_one_container_once() -> None:
    first = Told(container("web", id="1", image="known"), name="first")
    second = Told(container("nameless", id="1"), container("other", id="2"), name="second")
    with started(first, second) as inventory:
        assert [(one.name, one.image) for one in inventory.snapshot()] == [("other", ""), ("web", "known")]
        assert [(state.name, state.ok, state.containers) for state in inventory.states()] == [
            ("first", True, 1),
            ("second", True, 2),
        ]


def test_who_is_left_out_and_why() -> None:
    pod = Pod("web-0", "prod")
    told = Told(
        container("web"),
        container("noise"),
        container("sandbox", pause=True, pod=pod),
        container("nameless-pod", pause=True, pod=Pod("", "", "uid-1")),
        container("gateway", host_network=True),
    )
    told.found.left_out.append(LeftOut("stuck", "id-stuck", "told", "hangs"))
    told.found.left_out.append(LeftOut("web", "id-web", "told", "known by another runtime"))
    with started(told, chosen=Filter(NOTHING, {"name": ["noise"]})) as inventory:
        assert [one.name for one in inventory.snapshot() if not one.pause] == ["gateway", "web"]
        assert reasons(inventory) == {
            "noise": 'excluded by name "noise"',
            "sandbox": "pause: it only holds the namespaces of pod web-0",
            "nameless-pod": "pause: it only holds the namespaces of pod uid-1",
            "gateway": HOST_NETWORK,
            "stuck": "hangs",
        }


def test_what_is_left_out_follows_what_is_told() -> None:
    told = Told(container("web", labels={"tier": "test"}), container("db"))
    with started(told, chosen=Filter(NOTHING, {"label": ["tier=test"]})) as inventory:
        assert names(inventory) == ["db"]
        for tier, expected in (("live", ["db", "web"]), ("test", ["db"])):
            told.found = Found([container("web", labels={"tier": tier}), container("db")])
            inventory.refresh()
            wait_until(lambda: names(inventory) == expected, "the label is known")  # noqa: B023  waited for here
        told.found = Found([container("db"), container("mq")])
        inventory.refresh()
        wait_until(lambda: names(inventory) == ["db", "mq"], "it is known which are there")


def test_one_that_is_found_unchanged_stays_the_object_that_it_is() -> None:
    told = Told(container("web"), container("db"))
    with started(told, resync=0.05) as inventory:
        db, web = inventory.snapshot()
        told.found = Found([container("web", image="new"), container("db")])
        wait_until(lambda: inventory.snapshot()[1] != web, "the image is known")
        assert inventory.snapshot()[0] is db


def test_nobody_looks_every_time_whether_those_run_that_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(container("web"), container("noise"))
    looked_at: list[str] = []

    def alive(one: Container) -> bool:
        looked_at.append(one.name)
        return True

    monkeypatch.setattr(told, "alive", alive)
    with started(told, chosen=Filter(NOTHING, {"name": ["noise"]})) as inventory:
        for _ in range(3):
            assert [one.name for one in inventory.snapshot(lambda _: None)] == ["web"]
        assert sorted(looked_at) == ["noise", "web", "web", "web"]
        # One that ended is missed by name where that is asked for.
        monkeypatch.setattr(told, "alive", lambda one: one.name == "web")
        assert reasons(inventory) == {"noise": "gone: its first process ended"}


def test_self_statistics() -> None:
    stat = SelfStat()
    told = Told(container("web"), container("noise"))
    inventory = Inventory([source(told)], Filter(NOTHING, {"name": ["noise"]}), stat, LONG)
    inventory.start()
    inventory.snapshot()
    assert (stat.value("containers"), stat.value("runtime.up")) == (1, 1)
    told.error = RuntimeUnavailableError("cannot use it")
    inventory.refresh()
    wait_until(lambda: not inventory.states()[0].ok, "the failure is known")
    inventory.snapshot()
    assert (stat.value("containers"), stat.value("runtime.up")) == (1, 0)
    inventory.stop()


def test_without_any_runtime_nothing_is_known_and_nothing_is_down() -> None:
    stat = SelfStat()
    inventory = Inventory([], Filter(NOTHING, NOTHING), stat, LONG)
    inventory.start()
    assert inventory.snapshot() == []
    assert stat.value("runtime.up") is None
    inventory.stop()


def test_the_tree_can_wait_where_a_runtime_tells_of_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for a slow machine to find nothing looked at yet.
    later = 5 * LATER_SECONDS
    monkeypatch.setattr("falcon_agent.discovery.inventory.LATER_SECONDS", later)
    monkeypatch.setattr("falcon_agent.discovery.inventory.PROBE_SECONDS", LONG)
    told, tree = Told(container("web")), Told(container("unit", os.getppid(), runtime="lxc"), name="cgroups")
    inventory = Inventory([source(told), source(tree)], Filter(NOTHING, NOTHING), SelfStat(), LONG)
    try:
        started_at = time.monotonic()
        inventory.start(whole=False)
        assert ((told.looks, tree.looks), names(inventory)) == ((1, 0), ["web"])
        wait_until(lambda: names(inventory) == ["unit", "web"], "the tree was looked at")
        assert time.monotonic() - started_at >= later
    finally:
        inventory.stop()


@pytest.mark.parametrize("containers", [[], None])
def test_the_tree_does_not_wait_where_no_runtime_does(containers: list[Container] | None) -> None:
    told, tree = Told(*(containers or [])), Told(container("unit"), name="cgroups")
    told.error = RuntimeUnavailableError("cannot use it") if containers is None else None
    inventory = Inventory([source(told), source(tree)], Filter(NOTHING, NOTHING), SelfStat(), LONG)
    try:
        inventory.start(whole=False)
        assert tree.looks
    finally:
        inventory.stop()


def test_the_tree_does_not_wait_for_a_runtime_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("falcon_agent.discovery.inventory.FIRST_LOOK_SECONDS", 2.0)
    hanging, tree = (
        Told(container("web")),
        Told(container("unit", os.getppid(), runtime="lxc"), name="cgroups"),
    )
    hanging.hold.clear()
    inventory = Inventory([source(hanging), source(tree)], Filter(NOTHING, NOTHING), SelfStat(), LONG)
    try:
        inventory.start(whole=False)
        wait_until(lambda: names(inventory) == ["unit"], "the tree was looked at")
        hanging.hold.set()
        wait_until(lambda: names(inventory) == ["unit", "web"], "it answers")
    finally:
        inventory.stop()


def test_a_runtime_that_takes_its_time_is_waited_for_with_or_without_a_tree() -> None:
    slow = Told(container("web"))
    slow.hold.clear()
    inventory = Inventory([source(slow)], Filter(NOTHING, NOTHING), SelfStat(), LONG)
    timer = threading.Timer(1.5 * LATER_SECONDS, slow.hold.set)
    timer.start()
    try:
        inventory.start(whole=False)
        assert names(inventory) == ["web"]
    finally:
        timer.join()
        inventory.stop()


def test_a_runtime_that_fails_keeps_what_is_known() -> None:
    told = Told(container("web"))
    with started(told, resync=0.05) as inventory:
        told.error = RuntimeUnavailableError("cannot use it: it hangs")
        wait_until(lambda: not inventory.states()[0].ok, "the failure is known")
        assert names(inventory) == ["web"]
        [state] = inventory.states()
        assert (state.error, state.containers) == ("cannot use it: it hangs", 1)
        assert state.last_ok is not None
        told.error = None
        wait_until(lambda: inventory.states()[0].ok, "it answers again")
        assert inventory.states()[0].error == ""


def test_a_failure_is_followed_by_another_look_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_FIRST_RETRY", 0.01)
    told = Told(container("web"))
    told.error = RuntimeUnavailableError("cannot use it")
    with started(told, resync=LONG) as inventory:
        told.error = None
        wait_until(lambda: names(inventory) == ["web"], "it looks again long before the next resync")


def test_a_bug_in_a_runtime_is_contained(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(container("web"))
    with started(told, resync=0.05) as inventory:
        told.error = ZeroDivisionError("oops")
        wait_until(lambda: not inventory.states()[0].ok, "the failure is known")
        assert inventory.states()[0].error == "cannot look at told: ZeroDivisionError: oops"
        assert names(inventory) == ["web"]
        told.error = None
        wait_until(lambda: inventory.states()[0].ok, "the thread lives on")


def test_a_runtime_that_never_answered(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    told.error = RuntimeUnavailableError("cannot use it: no such socket")
    with started(told) as inventory:
        assert names(inventory) == []
        [state] = inventory.states()
        assert (state.ok, state.last_ok, state.error) == (False, None, "cannot use it: no such socket")
    assert [one.message for one in caplog.records if one.name == feed.__name__] == [
        "cannot use it: no such socket; containers that are known go on being measured"
    ]


def test_start_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("falcon_agent.discovery.inventory.FIRST_LOOK_SECONDS", 0.1)
    slow, quick = Told(container("slow")), Told(container("quick"))
    slow.hold.clear()
    with started(slow, quick) as inventory:
        wait_until(lambda: names(inventory) == ["quick"], "the quick one has answered")
        assert inventory.states()[0].error == "not asked yet"
        slow.hold.set()
        wait_until(lambda: names(inventory) == ["quick", "slow"], "the slow one has answered")


def test_an_event_brings_a_look_and_a_death_removes_at_once() -> None:
    told = Told(container("web"))
    with started(told) as inventory:
        told.found = Found([container("web"), container("new")])
        told.tell(Change("id-new"))
        wait_until(lambda: names(inventory) == ["new", "web"], "the new one is known")
        looks = told.looks
        told.tell(Change("id-web", ended=True))
        assert names(inventory) == ["new"]
        assert told.looks == looks
        assert reasons(inventory) == {"web": "gone: told said that it ended"}


def test_a_death_that_overtakes_the_listing_counts() -> None:
    told = Told(container("web"), container("db"))
    with started(told) as inventory:
        told.hold.clear()
        looks = told.looks
        inventory.refresh()
        wait_until(lambda: told.looks > looks, "a look is under way")
        told.tell(Change("id-web", ended=True))
        looked = inventory.states()[0].last_ok
        told.hold.set()
        wait_until(lambda: inventory.states()[0].last_ok != looked, "the look is over")
        assert names(inventory) == ["db"]


def test_missed_events_are_made_up_by_the_next_listing() -> None:
    told = Told(container("web"), container("db"))
    with started(told, resync=0.05) as inventory:
        told.found = Found([container("db"), container("new")])
        wait_until(lambda: names(inventory) == ["db", "new"], "the listing is taken over")
        gone = {"web": "gone: told does not list it any more"}
        wait_until(lambda: reasons(inventory) == gone, "it is known what became of the other")


def test_a_storm_of_events_is_few_looks() -> None:
    told = Told(container("web"))
    with started(told) as inventory:
        looks = told.looks
        began = time.monotonic()
        for _ in range(200):
            told.tell(Change("id-web"))
            time.sleep(0.002)  # long enough for a look of its own
        wait_until(lambda: told.looks > looks, "it looks")
        inventory.stop()
        assert told.looks <= looks + 2 + (time.monotonic() - began) / feed._BURST_SECONDS


def test_looking_takes_little_of_a_cpu_however_often_it_is_asked_for() -> None:
    class Laborious(Told):
        def find(self) -> Found:
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass
            return super().find()

    told = Laborious(container("web"))
    with started(told) as inventory:
        looks = told.looks
        began = time.monotonic()
        while time.monotonic() < began + 2.5:
            told.tell(Change("id-web"))
            time.sleep(0.01)
        inventory.stop()
        assert looks < told.looks <= looks + 2 + (time.monotonic() - began) / (feed._REST_TIMES * 0.02)


@pytest.mark.real
def test_an_ended_process_leaves_without_any_event() -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        told = Told(container("web"), container("short", sleeper.pid))
        with started(told) as inventory:
            assert names(inventory) == ["short", "web"]
            looks = told.looks
            told.found = Found([container("web")])
            sleeper.kill()
            sleeper.wait()
            assert names(inventory) == ["web"]
            assert reasons(inventory) == {"short": "gone: its first process ended"}
            wait_until(lambda: told.looks > looks, "it asks whether it was started again")


def test_what_is_gone_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(container("web"))
    with started(told) as inventory:
        told.tell(Change("id-web", ended=True))
        assert list(reasons(inventory)) == ["web"]
        inventory.refresh()
        wait_until(lambda: names(inventory) == ["web"], "it runs again")
        assert reasons(inventory) == {}
        told.tell(Change("id-web", ended=True))
        monkeypatch.setattr(feed, "GONE_SECONDS", 0.0)
        assert reasons(inventory) == {}


# With a real engine


def docker(engine: Engine, timeout: float = 30.0) -> DockerRuntime:
    return DockerRuntime(engine.url, timeout, "/proc")


@pytest.mark.real
def test_life_of_a_real_container(docker_engine: Engine) -> None:
    only = Filter({"label": ["test=life"]}, NOTHING)
    with started(docker(docker_engine), chosen=only) as inventory:
        assert names(inventory) == []
        with docker_engine.container("--name", "life-1", "--label", "test=life") as one:
            wait_until(lambda: names(inventory) == ["life-1"], "its start is heard")
            before = inventory.snapshot()[0]
            docker_engine.cli("rename", one, "life-2")
            wait_until(lambda: names(inventory) == ["life-2"], "its new name is heard")
            docker_engine.cli("restart", "--time", "1", one)
            wait_until(
                lambda: [c.key for c in inventory.snapshot()] not in ([], [before.key]),
                "its next life is known",
            )
            os.kill(docker_engine.pid(one), signal.SIGKILL)
            wait_until(lambda: names(inventory) == [], "its end is known")
            wait_until(lambda: "gone: " in reasons(inventory).get("life-2", ""), "it is known why")


@pytest.mark.real
def test_a_hanging_engine_changes_nothing_but_its_state(docker_engine: Engine) -> None:
    only = Filter({"label": ["test=hang"]}, NOTHING)
    with (
        docker_engine.container("--name", "hang-stays", "--label", "test=hang"),
        docker_engine.container("--name", "hang-dies", "--label", "test=hang") as dying,
        started(docker(docker_engine, 0.5), chosen=only) as inventory,
    ):

        def both_are_known() -> bool:
            inventory.refresh()  # half a second may not be enough for an answer
            return names(inventory) == ["hang-dies", "hang-stays"]

        wait_until(both_are_known, "both are known")
        pid = docker_engine.pid(dying)
        with docker_engine.hanging():
            inventory.refresh()
            wait_until(lambda: not inventory.states()[0].ok, "the state says that it hangs")
            assert inventory.states()[0].error.endswith("no answer within 0.5 s; the daemon hangs")
            assert names(inventory) == ["hang-dies", "hang-stays"]
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: names(inventory) == ["hang-stays"], "the kernel knows without the daemon")
        wait_until(lambda: inventory.states()[0].ok, "it has recovered by itself")
        assert names(inventory) == ["hang-stays"]


@pytest.mark.real
def test_an_inventory_stops_although_the_engine_hangs(
    docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falcon_agent.discovery.inventory.FIRST_LOOK_SECONDS", 0.1)
    with docker_engine.hanging(), started(docker(docker_engine, 60.0)) as inventory:
        assert names(inventory) == []


@pytest.fixture
def own_engine() -> Iterator[Engine]:
    """One that may be killed: its containers do not survive that."""
    engine = Engine()
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@pytest.mark.real
def test_a_killed_engine_that_comes_back(own_engine: Engine, tmp_path: Path) -> None:
    first = own_engine.run("--name", "first")
    own_engine.run("--name", "second", "--restart", "always")
    with started(docker(own_engine), resync=0.5) as inventory:
        assert names(inventory) == ["first", "second"]
        own_engine.kill_daemon()
        wait_until(lambda: "the daemon does not run" in inventory.states()[0].error, "the state says so")
        assert names(inventory) == ["first", "second"]
        # Its end while nobody listens: no event will ever tell.
        before = {one.name: one.pid for one in inventory.snapshot()}
        os.kill(before["first"], signal.SIGKILL)
        wait_until(lambda: names(inventory) == ["second"], "the kernel knows")
        own_engine.start_daemon()
        wait_until(lambda: inventory.states()[0].ok, "it answers again")
        wait_until(
            lambda: (
                [(one.name, one.pid != before["second"]) for one in inventory.snapshot()]
                == [("second", True)]
            ),
            "what the new daemon restarted is known",
        )
        assert first not in {one.id for one in inventory.snapshot()}
