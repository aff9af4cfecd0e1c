"""The runtime of Kubernetes that runs here: a real containerd, asked by the agent and by grpcio."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as cri

from falcon_agent.container import Pod
from falcon_agent.discovery.cri import CriRuntime
from falcon_agent.discovery.runtime import Change
from falcon_agent.errors import RuntimeAbsentError, RuntimeUnavailableError
from tests.discovery.looking import watching
from tests.real.containerd import IMAGE, PAUSE_IMAGE, containerd_for_tests
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falcon_agent.container import Container
    from tests.real.containerd import Containerd
    from tests.real.engine import Engine

pytestmark = pytest.mark.real

STATIC_UID = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
"""The UID of a static pod is a hash, without dashes."""


@pytest.fixture
def runtime(containerd: Containerd) -> Iterator[CriRuntime]:
    runtime = CriRuntime(containerd.url, 30.0, "/proc")
    yield runtime
    runtime.close()


def find(runtime: CriRuntime) -> dict[str, Container]:
    found = runtime.find()
    assert found.left_out == []
    return {one.id: one for one in found.containers}


def netns(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_a_pod_of_two_containers(containerd: Containerd, runtime: CriRuntime) -> None:
    assert runtime.name == "cri"
    uid = "9c2e3a10-54d6-4f7b-8a1c-3f5e7d9b1a2c"
    with containerd.pod("web-0", "prod", uid=uid, labels={"app": "web", "odd": 'a\n"b'}) as sandbox:
        app = containerd.run_container(sandbox, "app", env={"MODE": "a=b"})
        side = containerd.run_container(sandbox, "side")
        found = find(runtime)
        assert set(found) == {sandbox, app, side}
        # The process: as the interface says it by grpcio, and as ctr does.
        told = {one: json.loads(containerd.container_status(one).info["info"])["pid"] for one in (app, side)}
        assert {one.id: one.pid for one in found.values()} == containerd.tasks()
        assert {one: found[one].pid for one in (app, side)} == told
        assert all(one.netns == netns(found[sandbox].pid) != netns(os.getpid()) for one in found.values())
        assert all(one.pod == Pod("web-0", "prod", uid) for one in found.values())
        seen = {(one.runtime, one.network_of, one.host_network) for one in found.values()}
        assert seen == {("containerd", sandbox, False)}
        assert {one.id: (one.name, one.pause, one.image) for one in found.values()} == {
            sandbox: ("web-0", True, PAUSE_IMAGE),
            app: ("app", False, IMAGE),
            side: ("side", False, IMAGE),
        }
        assert found[app].cgroup.path("memory") == f"/{containerd.name}/kubepods/pod{uid}/{app}"
        of_pod = {"app": "web", "odd": 'a\n"b'} | {
            f"io.kubernetes.pod.{key}": value
            for key, value in (("name", "web-0"), ("namespace", "prod"), ("uid", uid))
        }
        assert found[sandbox].labels == of_pod
        assert found[side].labels == of_pod | {"io.kubernetes.container.name": "side"}
        assert found[app].env["MODE"] == "a=b"
        assert found[app].env["IMAGE_SAYS"] == "a=b"
        assert runtime.name == "containerd"
        # Asked again, now that they are known.
        assert find(runtime) == found
    assert find(runtime) == {}


def test_host_network(containerd: Containerd, runtime: CriRuntime) -> None:
    with (
        containerd.pod("node-agent", "kube-system", host_network=True) as on_host,
        containerd.pod("web-1") as own,
    ):
        container = containerd.run_container(on_host, "agent")
        found = find(runtime)
        # "The host" is here the network namespace that containerd runs in, which is not ours: so this is
        # known from what the sandbox was asked to be, not from the inode.
        assert {one for one in found if found[one].host_network} == {on_host, container}
        assert found[container].netns == netns(containerd.daemon_pid) != netns(os.getpid())
        assert not found[own].host_network


def test_names_again_and_again(containerd: Containerd, runtime: CriRuntime) -> None:
    with (
        containerd.pod("web-0", "prod", uid=STATIC_UID) as prod,
        containerd.pod("web-0", "test") as test,
    ):
        in_prod = containerd.run_container(prod, "app")
        in_test = containerd.run_container(test, "app")
        found = find(runtime)
        assert found[in_prod].name == found[in_test].name == "app"
        assert found[in_prod].pod == found[prod].pod == Pod("web-0", "prod", STATIC_UID)
        assert found[in_test].pod == found[test].pod
        assert found[in_test].pod != found[in_prod].pod
        assert found[in_prod].netns != found[in_test].netns
        assert found[in_test].network_of == test


def test_an_init_container_is_over_before_the_others_begin(
    containerd: Containerd, runtime: CriRuntime
) -> None:
    with containerd.pod("job") as sandbox:
        containerd.run_container(sandbox, "init", command=["true"])
        exited = cri.ContainerFilter(
            pod_sandbox_id=sandbox, state=cri.ContainerStateValue(state=cri.CONTAINER_EXITED)
        )
        request = cri.ListContainersRequest(filter=exited)
        wait_until(lambda: containerd.runtime.ListContainers(request).containers, "the init container ended")
        main = containerd.run_container(sandbox, "main")
        assert set(find(runtime)) == {sandbox, main}


def test_a_container_that_outlives_what_holds_its_pods_namespaces(
    containerd: Containerd, runtime: CriRuntime
) -> None:
    with containerd.pod("orphan", "prod", labels={"app": "orphan"}) as sandbox:
        container = containerd.run_container(sandbox, "app")
        os.kill(containerd.tasks()[sandbox], signal.SIGKILL)
        wait_until(
            lambda: containerd.sandbox_status(sandbox).status.state == cri.SANDBOX_NOTREADY,
            "the sandbox is not ready",
        )
        [one] = find(runtime).values()
        assert (one.id, one.network_of, one.labels["app"]) == (container, sandbox, "orphan")
        assert one.pod is not None
        assert (one.pod.name, one.pod.namespace) == ("orphan", "prod")


def test_a_container_that_ended_since_it_was_listed(
    containerd: Containerd, runtime: CriRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = runtime._list
    with containerd.pod("short", "prod") as sandbox, containerd.pod("shorter", "prod") as other:
        removed = containerd.run_container(sandbox, "removed")
        stopped = containerd.run_container(sandbox, "stopped")

        def list_and_end(rpc: object) -> object:
            listing = listed(runtime._asking)
            containerd.stop_container(stopped)
            containerd.stop_container(removed)
            containerd.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=removed))
            containerd.stop_pod(other)
            return listing

        monkeypatch.setattr(runtime, "_list", list_and_end)
        found = runtime.find()
        assert [one.id for one in found.containers] == [sandbox]
        assert [(one.id, one.reason) for one in found.left_out] == [
            (stopped, "gone: it does not run (any more)")
        ]


def test_a_container_started_again_in_a_living_pod(containerd: Containerd, runtime: CriRuntime) -> None:
    with containerd.pod("web-2") as sandbox:
        first = containerd.run_container(sandbox, "app")
        with watching(runtime) as told:
            wait_until(lambda: told == [Change()], "the stream has begun")
            before = find(runtime)
            # The end of another process than the first one is none of the container.
            containerd.exec(first, "true")
            os.kill(before[first].pid, signal.SIGKILL)
            wait_until(lambda: len(told) > 1, "the end was told")
            # The runtime itself may know it a moment later, and would still list it.
            wait_until(
                lambda: containerd.container_status(first).status.state == cri.CONTAINER_EXITED,
                "it is listed no longer",
            )
            second = containerd.run_container(sandbox, "app", attempt=1)
            wait_until(lambda: Change(second) in told, "the start was told")
            after = find(runtime)
        assert told == [Change(), Change(first, ended=True), Change(second)]
        assert set(after) == {sandbox, second}
        assert after[second].name == before[first].name == "app"
        assert (before[first].restarts, after[second].restarts) == (0, 1)
        assert after[second].netns == before[first].netns
        assert after[sandbox] == before[sandbox]


def test_a_look_waits_for_what_an_event_told_of(
    containerd: Containerd, runtime: CriRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    # containerd tells of a start before it lists the container as running: looked for at the moment of each event,
    # none may be missed, if only there is time enough for a slow machine.
    monkeypatch.setattr("falcon_agent.discovery.cri._SETTLE_PAUSES", (0.1,) * 600)
    seen: dict[str, bool] = {}

    def look(change: Change) -> None:
        told.append(change)
        if change.id and not change.ended:
            seen[change.id] = change.id in {one.id for one in runtime.find().containers}

    told: list[Change] = []
    thread = threading.Thread(target=runtime.watch, args=(look,), daemon=True)
    thread.start()
    wait_until(lambda: told, "the stream has begun")
    with containerd.pod("many") as sandbox:
        started = [containerd.run_container(sandbox, f"c{number}") for number in range(5)]
        wait_until(lambda: set(started) <= seen.keys(), "all starts were told")
    runtime.close()
    thread.join(20)
    assert seen == dict.fromkeys([sandbox, *started], True)


def test_a_hanging_daemon(containerd: Containerd) -> None:
    with containerd.pod("kept") as sandbox:
        found = find(CriRuntime(containerd.url, 30.0, "/proc"))
        runtime = CriRuntime(containerd.url, 0.5, "/proc")
        assert set(found) == {sandbox}
        with watching(runtime) as told:
            wait_until(lambda: told, "the stream has begun")
            with containerd.hanging():
                with pytest.raises(
                    RuntimeUnavailableError, match=r"no answer within 0\.5 s; the daemon hangs"
                ):
                    runtime.find()
                assert runtime.alive(found[sandbox])
                # Both what waits for an answer and what listens end at once.
                patient = CriRuntime(containerd.url, 3600.0, "/proc")
                with watching(patient):
                    thread = threading.Thread(target=ask, args=(patient,), daemon=True)
                    thread.start()
                    wait_until(lambda: patient._asking._connection, "the call waits")
                    patient.close()
                    thread.join(20)
                    assert not thread.is_alive()
                runtime.close()


def ask(runtime: CriRuntime) -> None:
    with contextlib.suppress(RuntimeUnavailableError):
        runtime.find()


def test_a_daemon_that_is_killed_and_comes_back(containerd: Containerd, runtime: CriRuntime) -> None:
    with containerd.pod("survivor") as sandbox:
        container = containerd.run_container(sandbox, "app")
        before = find(runtime)
        with watching(runtime) as told:
            wait_until(lambda: told == [Change()], "the stream has begun")
            containerd.kill_daemon()
            with pytest.raises(RuntimeUnavailableError, match="connection refused; the daemon does not run"):
                runtime.find()
            assert all(runtime.alive(one) for one in before.values())
            containerd.start_daemon()
            wait_until(lambda: len(told) > 1, "the stream began again")
            assert set(told) == {Change()}
            assert find(runtime) == before
            second = containerd.run_container(sandbox, "other")
            wait_until(lambda: Change(second) in told, "the start was told")
            assert set(find(runtime)) == {sandbox, container, second}


def test_containers_of_another_namespace_are_none_of_kubernetes(
    containerd: Containerd, runtime: CriRuntime
) -> None:
    # As those of a Docker engine that was given the host's containerd, with its CRI plugin: their namespace is "moby".
    with watching(runtime) as told:
        wait_until(lambda: told == [Change()], "the stream has begun")
        with containerd.pod("own") as sandbox, containerd.bare_container("moby") as other:
            assert other in containerd.ctr("tasks", "ls", namespace="moby")
            assert set(find(runtime)) == {sandbox}
            later = containerd.run_container(sandbox, "later")
            wait_until(lambda: Change(later) in told, "a later start was told")
            assert told == [Change(), Change(sandbox), Change(later)]


def test_stop_leaves_nothing_of_a_killed_daemon_and_its_pods() -> None:
    with containerd_for_tests() as daemon:
        with_network = daemon.run_container(daemon.run_pod("left"), "app")
        daemon.run_container(daemon.run_pod("on-host", host_network=True), "app")
        pid = daemon.tasks()[with_network]
        assert left_behind(daemon)
        daemon.kill_daemon()
    assert left_behind(daemon) == []
    with contextlib.suppress(OSError):  # else it is gone
        assert not Path(f"/proc/{pid}/cmdline").read_bytes()
    daemon.stop()


def left_behind(daemon: Containerd) -> list[str]:
    left = [str(path) for path in (daemon.directory, daemon.netns) if path.exists()]
    left += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{daemon.name}")]
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(daemon.name) in cmdline.read_bytes():
                left.append(str(cmdline))
    return left


def test_the_containerd_of_docker_lists_no_containers_of_docker(docker_engine: Engine) -> None:
    path = docker_engine.directory / "exec/containerd/containerd.sock"
    with docker_engine.container() as container:
        runtime = CriRuntime(f"unix://{path}", 30.0, "/proc")
        with pytest.raises(
            RuntimeAbsentError, match=r"this containerd has no CRI plugin; .*disabled_plugins in /etc/"
        ):
            runtime.find()
        # It tells no events of them either.
        with watching(runtime) as told:
            wait_until(lambda: told, "the stream has begun")
            docker_engine.rm(container)
            docker_engine.rm(docker_engine.run())
        assert set(told) == {Change()}


def test_a_containerd_whose_plugin_is_switched_off() -> None:
    with containerd_for_tests(disabled_plugins=["io.containerd.grpc.v1.cri"]) as daemon:
        with pytest.raises(grpc.RpcError) as caught:
            daemon.runtime.Version(cri.VersionRequest())
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(RuntimeAbsentError, match="this containerd has no CRI plugin"):
            CriRuntime(daemon.url, 30.0, "/proc").find()


def test_the_socket_of_docker(docker_engine: Engine) -> None:
    with pytest.raises(
        RuntimeUnavailableError, match=r"is it the socket of containerd or CRI-O\?|no CRI plugin"
    ):
        CriRuntime(docker_engine.url, 30.0, "/proc").find()
