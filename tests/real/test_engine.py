"""The tests' own engine and podman must leave nothing behind, whatever happens to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.real.engine import Engine, EngineError, has_ended, wait_until
from tests.real.podman import BUSYBOX, Podman


def left_behind(engine: Engine | Podman) -> list[str]:
    names = os.fsencode(engine.name)
    left = [str(path) for path in (engine.directory, engine.netns) if path.exists()]
    # Others' cgroups come and go meanwhile.
    left += [at for at, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(at) == engine.name]
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if engine.name in line]
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            content = cmdline.read_bytes()
        except OSError:
            continue
        if names in content:
            left.append(str(cmdline))
    return left


@pytest.mark.real
def test_stop_leaves_nothing_of_a_killed_daemon_and_its_containers() -> None:
    engine = Engine()
    engine.start()
    try:
        engine.run()
        engine.run("--network", "none")
        pid = engine.pid(engine.run("--network", "host"))
        assert left_behind(engine)
        engine.kill_daemon()
    finally:
        engine.stop()
    assert left_behind(engine) == []
    wait_until(lambda: has_ended(pid), "the container's process is gone")
    engine.stop()


@pytest.mark.real
def test_stop_leaves_nothing_of_a_killed_podman_and_its_containers() -> None:
    podman = Podman()
    podman.start()
    try:
        first = podman.run("--name", "first")
        podman.run("--network", "container:first")
        pid = podman.inspect(first)["State"]["Pid"]
        kept = Path(podman.inspect(first)["NetworkSettings"]["SandboxKey"])
        assert kept.exists()
        podman.cli(
            "pod", "create", "--name", "left", "--infra-image", BUSYBOX, "--infra-command", "sleep 999"
        )
        podman.run("--pod", "left")
        podman.kill_service()
    finally:
        podman.stop()
    assert left_behind(podman) == []
    assert not kept.exists()
    wait_until(lambda: has_ended(pid), "the container's process is gone")


@pytest.mark.real
def test_a_start_that_fails_halfway_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    monkeypatch.setattr(engine, "_import_busybox", lambda: engine.cli("import", "/does/not/exist"))
    with pytest.raises(EngineError, match="/does/not/exist"):
        engine.start()
    assert left_behind(engine) == []


@pytest.mark.real
def test_a_daemon_that_does_not_come_up_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    monkeypatch.setattr(Engine, "url", property(lambda self: f"unix://{self.directory}/{'x' * 200}"))
    with pytest.raises(EngineError, match="the private dockerd ended:\n"):
        engine.start()
    assert left_behind(engine) == []


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineError, match=r"dockerd, docker, .* missing; run `make setup` as root"):
        Engine().start()
