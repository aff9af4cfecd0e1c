from __future__ import annotations

import json
import os
import subprocess
import threading
from typing import TYPE_CHECKING, cast

import pytest

from falcon_agent.collectors import layersize
from falcon_agent.collectors.layersize import LAYER_BYTES, LayersizeCollector
from falcon_agent.kernelfile import recording
from tests.namespaces.lab import become_nobody, eventually, in_child, on_thread, open_descriptors, target
from tests.namespaces.mounted import Mounts, mounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from falcon_agent.collectors.base import Target
    from tests.real.engine import Engine

pytestmark = pytest.mark.real


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Inside:
    """A container of the engine, as `target` wants it."""

    def __init__(self, engine: Engine, container: str) -> None:
        self.pid = engine.pid(container)
        self.inode = os.stat(f"/proc/{self.pid}/ns/net").st_ino


@pytest.fixture
def inside(docker_engine: Engine) -> Iterator[tuple[str, Target]]:
    with (
        docker_engine.container() as container,
        target(cast("Mounts", Inside(docker_engine, container)), container) as of,
    ):
        yield container, of


def docker_says(engine: Engine, container: str) -> int:
    """SIZE of `docker ps -s`, not rounded; it is left out where it is 0."""
    listed = json.loads(engine.get("/containers/json?size=1"))
    size: int = next(each.get("SizeRw", 0) for each in listed if each["Id"] == container)
    return size


def value(collector: LayersizeCollector, of: Target) -> int | None:
    collector.begin([of])
    samples = list(collector.collect(of))
    assert len(samples) <= 1
    return int(samples[0][1]) if samples else None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk comes to its end in one cycle however busy the machine is, unless the test says otherwise."""
    for limit in ("_CPU_SECONDS", "_WALL_SECONDS", "_HANG_SECONDS"):
        monkeypatch.setattr(layersize, limit, 600.0)


def test_what_docker_ps_shows(docker_engine: Engine, inside: tuple[str, Target], clock: Clock) -> None:
    container, of = inside
    docker_engine.exec(
        container,
        "sh",
        "-c",
        "mkdir -p /d/e; dd if=/dev/zero of=/d/e/f bs=1k count=700; ln /d/e/f /g; ln -s /d/e/f /h;"
        "rm /bin/ls; echo > /etc/x",
    )
    collector = LayersizeCollector(interval=100, clock=clock)
    first = value(collector, of)
    assert first == docker_says(docker_engine, container)
    assert first is not None
    assert first > 700 * 1024
    assert collector.absent(LAYER_BYTES, of) is None
    # It is walked through again when it is time, and the last size is sent until then.
    docker_engine.exec(container, "sh", "-c", "echo 12345 > /more")
    clock.now += 99
    assert value(collector, of) == first
    clock.now += 2
    assert value(collector, of) == docker_says(docker_engine, container) == first + 6


def test_a_walk_goes_on_over_many_cycles_and_has_no_value_before_its_end(
    docker_engine: Engine, inside: tuple[str, Target], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    container, of = inside
    docker_engine.exec(container, "sh", "-c", "i=0; while [ $i -lt 1000 ]; do echo > /$i; i=$((i+1)); done")
    monkeypatch.setattr(layersize, "_CPU_SECONDS", 1e-6)
    collector = LayersizeCollector(interval=100, clock=clock)
    before = open_descriptors()
    cycles = 0
    while (found := value(collector, of)) is None:
        cycles += 1
        assert "files so far" in (collector.absent(LAYER_BYTES, of) or "")
    assert cycles > 5
    assert found == docker_says(docker_engine, container)
    assert open_descriptors() <= before
    # A size becomes too old where the next walk does not come to an end.
    clock.now += 101
    for _ in range(2):
        assert value(collector, of) == found
    clock.now += 200
    assert value(collector, of) is None
    collector.forget(of)
    assert open_descriptors() <= before
    assert collector.absent(LAYER_BYTES, of) is None


def test_containers_have_their_turn_one_after_the_other(
    docker_engine: Engine, inside: tuple[str, Target], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layersize, "_CPU_SECONDS", 0.0)
    collector = LayersizeCollector(interval=100, clock=clock)
    _, one = inside
    with (
        docker_engine.container() as second,
        target(cast("Mounts", Inside(docker_engine, second)), second) as two,
    ):
        collector.begin([one, two])
        assert collector.absent(LAYER_BYTES, two) == "it waits for its turn to be walked through"
        monkeypatch.setattr(layersize, "_CPU_SECONDS", 600.0)
        collector.begin([one, two])
        assert [list(collector.collect(each)) != [] for each in (one, two)] == [True, True]


def test_a_root_that_is_no_overlay_has_a_reason() -> None:
    with mounts() as box, target(box) as of:
        collector = LayersizeCollector()
        assert value(collector, of) is None
        assert (collector.absent(LAYER_BYTES, of) or "").startswith("its root is no overlay but ")


def test_an_overlay_that_a_container_made_itself_is_not_believed(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "root"):
        (tmp_path / name).mkdir()
    with mounts() as box:
        options = f"lowerdir=/,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
        box.run("mount", "-t", "overlay", "-o", options, "x", f"{tmp_path}/root")
        box.run("touch", f"{tmp_path}/root/file")
        own = os.stat(f"/proc/{box.pid}/root").st_dev
        pid = int(box.run("sh", "-c", f"chroot {tmp_path}/root sleep 3600 >/dev/null 2>&1 & echo $!"))
        eventually(lambda: os.stat(f"/proc/{pid}/root").st_dev != own, "it has changed its root")
        inner = Mounts.__new__(Mounts)
        inner.pid, inner.inode = pid, box.inode
        try:
            with target(inner) as of:
                collector = LayersizeCollector()
                assert value(collector, of) is None
                reason = collector.absent(LAYER_BYTES, of)
                assert reason == "the host does not see its overlay, or it cannot be written"
        finally:
            os.kill(pid, 9)


def test_a_container_that_leaves_during_its_walk_leaves_nothing(
    docker_engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layersize, "_CPU_SECONDS", 1e-6)
    collector = LayersizeCollector(clock=clock)
    before = open_descriptors()
    with docker_engine.container() as container:
        docker_engine.exec(
            container, "sh", "-c", "i=0; while [ $i -lt 500 ]; do echo > /$i; i=$((i+1)); done"
        )
        with target(cast("Mounts", Inside(docker_engine, container)), container) as of:
            assert value(collector, of) is None
            collector.forget(of)
    collector.begin([])
    assert open_descriptors() <= before
    assert not collector._layers


def test_a_layer_that_was_removed_ends_its_walk(inside: tuple[str, Target], clock: Clock) -> None:
    _, of = inside
    collector = LayersizeCollector(interval=100, clock=clock)
    assert value(collector, of) is not None
    collector._layers[of.container.key].upper = "/nowhere"
    clock.now += 101
    assert value(collector, of) is None
    assert "/nowhere: No such file or directory" in (collector.absent(LAYER_BYTES, of) or "")


def test_without_the_privilege_the_reason_is_named(inside: tuple[str, Target]) -> None:
    _, of = inside

    def ask() -> str:
        collector = LayersizeCollector()
        assert value(collector, of) is None
        return str(collector.absent(LAYER_BYTES, of))

    answer = in_child(ask, before=become_nobody)
    assert answer.endswith("/diff: Permission denied; the agent needs CAP_DAC_READ_SEARCH")


def test_explain_is_told_where_it_looked(inside: tuple[str, Target], clock: Clock) -> None:
    _, of = inside
    collector = LayersizeCollector(clock=clock)
    size = value(collector, of)
    with recording() as noted:
        list(collector.collect(of))
    ((path, text),) = noted
    assert path.startswith("layer of /")
    assert path.endswith("/diff")
    assert text == b"%d bytes, 0 s ago\n" % (size or 0)


def test_the_thread_gives_way_to_others() -> None:
    seen: list[str] = []

    def ask() -> None:
        layersize._be_idle()
        done = subprocess.run(
            ["ionice", "-p", str(threading.get_native_id())], capture_output=True, text=True, check=True
        )
        seen.append(done.stdout.strip())

    on_thread(lambda: None, ask)
    assert seen == ["idle"]
    own = subprocess.run(["ionice", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    assert own.stdout.strip() != "idle"
