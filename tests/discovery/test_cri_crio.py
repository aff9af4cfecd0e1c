"""CRI-O, which no package of the test machine has: a server of ours, over real gRPC, that answers as its source says.

`server/container_status.go`, `server/sandbox_status.go` and `server/container_events.go` of
https://github.com/cri-o/cri-o. The processes are real ones, in cgroups named as CRI-O names them.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as cri
from cri_api.v1.api_pb2_grpc import RuntimeServiceServicer, add_RuntimeServiceServicer_to_server

from falcon_agent.container import Pod
from falcon_agent.discovery import cri as room
from falcon_agent.discovery.cri import CriRuntime
from falcon_agent.discovery.runtime import Change
from falcon_agent.errors import RuntimeAbsentError, RuntimeUnavailableError
from tests.discovery.looking import watching
from tests.real.engine import removed, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real

SANDBOX, APP, SIDE = (letter * 64 for letter in "5ab")
DIGEST = "c0ffee" + "0" * 58


class Crio(RuntimeServiceServicer):
    """One pod of two containers.

    Attributes:
        pids: first process by id; a sandbox without one has no pause process (`drop_infra_ctr`).
        asked: method and id of each question that was asked.
        events: what GetContainerEvents tells, or None where `enable_pod_events` is off.
        refusing: the status that it has instead, as cri-dockerd does.
        late: lists the first of its running containers this many listings too late.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self.name = "cri-o"
        self.pids = pids
        self.asked: list[tuple[str, str]] = []
        self.events: queue.Queue[Any] | None = None
        self.refusing: grpc.StatusCode | None = None
        self.late = 0
        self.running = [APP, SIDE]
        self.network: Any = cri.POD
        self.failing: dict[str, grpc.StatusCode] = {}

    def Version(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return cri.VersionResponse(
            version="0.1.0", runtime_name=self.name, runtime_version="1.30.0", runtime_api_version="v1"
        )

    def ListPodSandbox(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        metadata = cri.PodSandboxMetadata(name="web-0", uid="u-1", namespace="prod")
        labels = {"app": "web", "io.kubernetes.container.name": "POD"}
        return cri.ListPodSandboxResponse(
            items=[cri.PodSandbox(id=SANDBOX, metadata=metadata, state=cri.SANDBOX_READY, labels=labels)]
        )

    def ListContainers(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.asked.append(("list", ""))
        self.late -= 1
        assert request.filter.state.state == cri.CONTAINER_RUNNING
        return cri.ListContainersResponse(
            containers=[
                cri.Container(
                    id=one,
                    pod_sandbox_id=SANDBOX,
                    metadata=cri.ContainerMetadata(name=f"name-{one[:1]}"),
                    image=cri.ImageSpec(image=DIGEST),
                    image_ref=DIGEST,
                    state=cri.CONTAINER_RUNNING,
                    labels={"io.kubernetes.container.name": "app"} if one == APP else {},
                )
                for one in self.running[self.late >= 0 :]
            ]
        )

    def ContainerStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        assert request.verbose
        one = request.container_id
        self.asked.append(("container", one))
        if one in self.failing:
            context.abort(self.failing[one], "cannot say")
        info = {"sandboxID": SANDBOX, "runtimeSpec": {"process": {"env": ["MODE=x"]}}, "privileged": False}
        if one in self.pids:
            info["pid"] = self.pids[one]
        status = cri.ContainerStatus(
            id=one, state=cri.CONTAINER_RUNNING, image=cri.ImageSpec(image="shop/app:2"), image_ref=DIGEST
        )
        return cri.ContainerStatusResponse(status=status, info={"info": json.dumps(info)})

    def PodSandboxStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.asked.append(("sandbox", request.pod_sandbox_id))
        info: dict[str, Any] = {"runtimeSpec": {}}
        if SANDBOX in self.pids:
            info |= {"image": "registry.k8s.io/pause:3.9", "pid": self.pids[SANDBOX]}
        options = cri.NamespaceOption(network=self.network)
        status = cri.PodSandboxStatus(
            id=SANDBOX,
            state=cri.SANDBOX_READY,
            linux=cri.LinuxPodSandboxStatus(namespaces=cri.Namespace(options=options)),
        )
        return cri.PodSandboxStatusResponse(status=status, info={"info": json.dumps(info)})

    def GetContainerEvents(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        self.asked.append(("events", ""))
        if self.refusing is not None:
            context.abort(self.refusing, "GetContainerEvents is not implemented")
        while self.events is not None and (event := self.events.get()) is not None:
            yield event


@contextlib.contextmanager
def processes() -> Iterator[dict[str, int]]:
    """A process for each id, in a cgroup as CRI-O makes them with the systemd driver."""
    top = next(
        Path(path)
        for path in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup")
        if Path(path, "cgroup.procs").exists()
    )
    pod = top / f"falcon-{secrets.token_hex(4)}"
    pods = pod / "kubepods-besteffort-podu_1.slice"
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for one in (SANDBOX, APP, SIDE):
            cgroup = pods / f"crio-{one}.scope"
            cgroup.mkdir(parents=True)
            started[one] = subprocess.Popen(["sleep", "86400"])
            (cgroup / "cgroup.procs").write_text(str(started[one].pid))
        yield {one: process.pid for one, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()
        for directory, _, _ in os.walk(pod, topdown=False):
            wait_until(partial(removed, Path(directory)), f"{directory} is removed")


@contextlib.contextmanager
def serving(path: Path, crio: Crio, service: str = "runtime.v1.RuntimeService") -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    add: Callable[[Any, Any], None] = add_RuntimeServiceServicer_to_server
    add(crio, server if service == "runtime.v1.RuntimeService" else Renamed(server, service))
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        yield f"unix://{path}"
    finally:
        if crio.events is not None:
            crio.events.put(None)
        server.stop(0).wait()


class Renamed:
    """Registers a service under another name: v1alpha2 has the same messages as v1."""

    def __init__(self, server: grpc.Server, service: str) -> None:
        self._server = server
        self._service = service

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        [handler] = handlers
        methods = {name.rpartition("/")[2]: method for name, method in handler._method_handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self._service, methods),))

    def add_registered_method_handlers(self, service: str, methods: Any) -> None:
        self._server.add_registered_method_handlers(self._service, methods)


@pytest.fixture
def crio() -> Iterator[Crio]:
    with processes() as pids:
        yield Crio(pids)


def test_a_pod(tmp_path: Path, crio: Crio) -> None:
    with serving(tmp_path / "s", crio) as url:
        runtime = CriRuntime(url, 30.0, "/proc")
        found = {one.id: one for one in runtime.find().containers}
        assert set(found) == {SANDBOX, APP, SIDE}
        assert all(one.pod == Pod("web-0", "prod", "u-1") for one in found.values())
        assert {one.id: one.pid for one in found.values()} == crio.pids
        assert {(one.runtime, one.network_of) for one in found.values()} == {("cri-o", SANDBOX)}
        assert {one.id: (one.name, one.pause, one.image) for one in found.values()} == {
            SANDBOX: ("web-0", True, "registry.k8s.io/pause:3.9"),
            APP: ("app", False, "shop/app:2"),
            SIDE: ("name-b", False, "shop/app:2"),
        }
        assert found[APP].env == {"MODE": "x"}
        assert found[APP].labels == {"app": "web", "io.kubernetes.container.name": "app"}
        # These processes are in our own network namespace.
        assert found[APP].host_network
        crio.asked.clear()
        assert {one.id: one for one in runtime.find().containers} == found
        assert crio.asked == [("list", "")]
    assert runtime.name == "cri-o"


def test_a_pod_without_a_pause_process(tmp_path: Path, crio: Crio) -> None:
    del crio.pids[SANDBOX]
    with serving(tmp_path / "s", crio) as url:
        runtime = CriRuntime(url, 30.0, "/proc")
        found = runtime.find()
        assert {(one.id, one.network_of) for one in found.containers} == {(APP, SANDBOX), (SIDE, SANDBOX)}
        assert found.left_out == []
        runtime.find()
        # What is known to be none is not asked for again.
        assert crio.asked.count(("sandbox", SANDBOX)) == 1


def test_the_hosts_network_is_known_also_without_the_privilege_to_see_it(
    tmp_path: Path, crio: Crio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "host_netns", lambda proc: None)
    with serving(tmp_path / "s", crio) as url:
        assert not any(one.host_network for one in CriRuntime(url, 30.0, "/proc").find().containers)
        crio.network = cri.NODE
        assert all(one.host_network for one in CriRuntime(url, 30.0, "/proc").find().containers)


def test_a_runtime_that_tells_no_pid(tmp_path: Path, crio: Crio) -> None:
    del crio.pids[APP]
    with serving(tmp_path / "s", crio) as url:
        found = CriRuntime(url, 30.0, "/proc").find()
    assert {one.id for one in found.containers} == {SANDBOX, SIDE}
    assert [(one.id, one.name, one.reason) for one in found.left_out] == [
        (APP, "name-a", "cannot find the first process: cri-o does not tell its pid")
    ]


def test_a_pid_that_was_used_again(tmp_path: Path, crio: Crio) -> None:
    crio.pids[APP] = os.getpid()
    with serving(tmp_path / "s", crio) as url:
        found = CriRuntime(url, 30.0, "/proc").find()
    assert {one.id for one in found.containers} == {SANDBOX, SIDE}
    assert "the pid was used again" in found.left_out[0].reason


def test_containers_that_cannot_be_described_do_not_hide_the_others(tmp_path: Path, crio: Crio) -> None:
    odd = [f"{number:064x}" for number in range(5)]
    gone, late = (f"{number:064x}" for number in (100, 101))
    crio.running = [*odd, gone, late, APP]
    crio.failing = dict.fromkeys(odd, grpc.StatusCode.UNKNOWN)
    crio.failing |= {gone: grpc.StatusCode.NOT_FOUND, late: grpc.StatusCode.DEADLINE_EXCEEDED}
    with serving(tmp_path / "s", crio) as url:
        found = CriRuntime(url, 30.0, "/proc").find()
        assert {one.id for one in found.containers} == {SANDBOX, APP}
        assert [one.id for one in found.left_out] == [*odd, late]
        assert all("cannot say" in one.reason for one in found.left_out)
        # A daemon that got stuck is not waited for again and again.
        crio.asked.clear()
        crio.failing = dict.fromkeys(odd, grpc.StatusCode.DEADLINE_EXCEEDED)
        found = CriRuntime(url, 30.0, "/proc").find()
    assert [one for kind, one in crio.asked if kind == "container"] == odd[:2]
    assert [one.reason for one in found.left_out[2:]] == ["not described: the runtime hangs on others"] * 6


def test_an_id_that_is_none_is_not_believed(tmp_path: Path, crio: Crio) -> None:
    # A short one would be part of the name of many a cgroup.
    crio.running = ["", "a", "../x", APP[:-1], f"{APP}\n", APP.upper(), APP]
    with serving(tmp_path / "s", crio) as url:
        found = CriRuntime(url, 30.0, "/proc").find()
    assert {one.id for one in found.containers} == {SANDBOX, APP}
    assert found.left_out == []


def test_an_interface_of_before(tmp_path: Path, crio: Crio) -> None:
    crio.name = "containerd"
    with serving(tmp_path / "s", crio, "runtime.v1alpha2.RuntimeService") as url:
        runtime = CriRuntime(url, 30.0, "/proc")
        assert len(runtime.find().containers) == 3
        assert (runtime.name, runtime._service) == ("containerd", "runtime.v1alpha2.RuntimeService")
        assert len(runtime.find().containers) == 3
    with serving(tmp_path / "s", crio) as url:
        # The daemon was updated meanwhile.
        assert len(runtime.find().containers) == 3
    with serving(tmp_path / "s", crio, "runtime.v2.RuntimeService") as url, pytest.raises(RuntimeAbsentError):
        runtime.find()


def test_garbage_in_a_listing(tmp_path: Path, crio: Crio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crio, "ListContainers", lambda request, context: cri.VersionResponse(version="\0\0"))
    with (
        serving(tmp_path / "s", crio) as url,
        pytest.raises(
            RuntimeUnavailableError, match=r"cannot use unix://.*: cannot parse a message of the container"
        ),
    ):
        CriRuntime(url, 30.0, "/proc").find()


def event(container: str, kind: Any) -> Any:
    return cri.ContainerEventResponse(container_id=container, container_event_type=kind)


def test_events(tmp_path: Path, crio: Crio) -> None:
    crio.events = queue.Queue()
    with serving(tmp_path / "s", crio) as url, watching(CriRuntime(url, 30.0, "/proc")) as told:
        wait_until(lambda: ("events", "") in crio.asked, "events are asked for")
        for kind in (
            cri.CONTAINER_CREATED_EVENT,
            cri.CONTAINER_STARTED_EVENT,
            cri.CONTAINER_STOPPED_EVENT,
            cri.CONTAINER_DELETED_EVENT,
        ):
            crio.events.put(event(APP, kind))
        changes = [Change(APP), Change(APP, ended=True), Change(APP, ended=True)]
        wait_until(lambda: told[-3:] == changes, "the changes were told")
        assert set(told[:-3]) == {Change()}
        # A stream that was there and ends is begun again, not given up.
        crio.events.put(None)
        wait_until(lambda: crio.asked.count(("events", "")) == 2, "events are asked for again")


def test_a_look_waits_for_what_an_event_told_of_but_not_for_ever(tmp_path: Path, crio: Crio) -> None:
    crio.events = queue.Queue()
    runtime = CriRuntime(f"unix://{tmp_path}/s", 30.0, "/proc")
    with serving(tmp_path / "s", crio), watching(runtime) as told:
        crio.events.put(event(APP, cri.CONTAINER_STARTED_EVENT))
        wait_until(lambda: Change(APP) in told, "the start was told")
        crio.late = 3
        assert APP in {one.id for one in runtime.find().containers}
        assert crio.asked.count(("list", "")) == 4
        # It has been found: nothing is waited for any more.
        crio.asked.clear()
        runtime.find()
        assert crio.asked == [("list", "")]
        nobody = "f" * 64
        crio.events.put(event(nobody, cri.CONTAINER_STARTED_EVENT))
        wait_until(lambda: Change(nobody) in told, "the start was told")
        for looks in (1 + len(room._SETTLE_PAUSES), 1):
            crio.asked.clear()
            runtime.find()
            assert crio.asked == [("list", "")] * looks


@pytest.mark.parametrize("status", [None, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED])
def test_without_events_it_is_listed_again_and_again(
    tmp_path: Path, crio: Crio, monkeypatch: pytest.MonkeyPatch, status: grpc.StatusCode | None
) -> None:
    crio.refusing = status
    monkeypatch.setattr(room, "_POLL_SECONDS", 0.05)
    crio.running = [APP]
    with serving(tmp_path / "s", crio) as url, watching(CriRuntime(url, 30.0, "/proc")) as told:
        wait_until(lambda: crio.asked.count(("list", "")) > 1, "it was listed after both streams had ended")
        assert set(told) == {Change()}
        assert crio.asked.count(("events", "")) == 1
        told.clear()
        crio.running = [SIDE]
        wait_until(lambda: len(told) == 2, "the changes were told")
        assert set(told) == {Change(SIDE), Change(APP, ended=True)}
