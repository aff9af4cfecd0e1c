"""Our parsers against messages that the real protobuf library makes from the interface's own definitions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cri_api.v1 import api_pb2 as cri
from hypothesis import given
from hypothesis import strategies as st

from falcon_agent.discovery import crianswers
from falcon_agent.discovery.crianswers import (
    Listed,
    Sandbox,
    is_image_name,
    parse_container_status,
    parse_containers,
    parse_sandbox_status,
    parse_sandboxes,
    parse_version,
    request_status,
)
from falcon_agent.discovery.crievents import event_streams, parse_container_event, parse_task_event
from falcon_agent.discovery.criwire import encode_bytes, encode_number
from falcon_agent.discovery.runtime import Change
from falcon_agent.errors import ParseError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LABELS = st.dictionaries(TEXT, TEXT)
DIGEST = "sha256:" + "ab" * 32


def container_status(info: Any = None, **fields: Any) -> bytes:
    added = {} if info is None else {"info": info if isinstance(info, str) else json.dumps(info)}
    fields = {"state": cri.CONTAINER_RUNNING} | fields
    answer = cri.ContainerStatusResponse(status=cri.ContainerStatus(**fields), info=added)
    content: bytes = answer.SerializeToString()
    return content


def test_requests() -> None:
    running = cri.ContainerFilter(state=cri.ContainerStateValue(state=cri.CONTAINER_RUNNING))
    assert cri.ListContainersRequest(filter=running).SerializeToString() == crianswers.RUNNING_CONTAINERS
    asked = cri.ContainerStatusRequest(container_id="ab", verbose=True).SerializeToString()
    assert request_status("ab") == asked
    assert (
        request_status("ab")
        == cri.PodSandboxStatusRequest(pod_sandbox_id="ab", verbose=True).SerializeToString()
    )


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("containerd", "containerd"),
        ("cri-o", "cri-o"),
        ("Docker", "docker"),
        ("", "cri"),
        ("a b", "cri"),
        ("x\n", "cri"),
        ("x" * 33, "cri"),
    ],
)
def test_version(told: str, name: str) -> None:
    answer = cri.VersionResponse(
        version="0.1.0", runtime_name=told, runtime_version="1", runtime_api_version="v1"
    )
    assert parse_version(answer.SerializeToString()) == name


@given(container=TEXT, name=TEXT, uid=TEXT, labels=LABELS, ready=st.booleans())
def test_sandboxes(container: str, name: str, uid: str, labels: dict[str, str], *, ready: bool) -> None:
    item = cri.PodSandbox(
        id=container,
        metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace="ns", attempt=7),
        state=cri.SANDBOX_READY if ready else cri.SANDBOX_NOTREADY,
        created_at=-1,
        labels=labels,
        annotations={"a": "b"},
        runtime_handler="runc",
    )
    answer = cri.ListPodSandboxResponse(items=[item, cri.PodSandbox()])
    assert parse_sandboxes(answer.SerializeToString()) == [
        Sandbox(container, name, "ns", uid, ready=ready, labels=labels),
        Sandbox("", "", "", "", ready=True, labels={}),
    ]


@given(TEXT, TEXT, LABELS)
def test_containers(container: str, name: str, labels: dict[str, str]) -> None:
    item = cri.Container(
        id=container,
        pod_sandbox_id="s",
        metadata=cri.ContainerMetadata(name=name, attempt=3),
        image=cri.ImageSpec(image="busybox:1", annotations={"x": "y"}),
        image_ref=DIGEST,
        state=cri.CONTAINER_RUNNING,
        created_at=1,
        labels=labels,
        annotations={"io.kubernetes.container.hash": "1"},
    )
    answer = cri.ListContainersResponse(containers=[item, cri.Container()])
    assert parse_containers(answer.SerializeToString()) == [
        Listed(container, "s", name, "busybox:1", labels, attempt=3),
        Listed("", "", "", "", {}),
    ]


def test_the_image_that_the_user_wrote_comes_first() -> None:
    spec = cri.ImageSpec(image=DIGEST, user_specified_image="shop/app:2")
    [item] = parse_containers(
        cri.ListContainersResponse(containers=[cri.Container(image=spec)]).SerializeToString()
    )
    assert item.image == "shop/app:2"
    assert parse_container_status(container_status(image=spec)).image == "shop/app:2"


@pytest.mark.parametrize(
    ("image", "is_name"),
    [("a/b:1", True), ("a@" + DIGEST, True), (DIGEST, False), ("ab" * 32, False), ("", False)],
)
def test_what_people_call_an_image(image: str, *, is_name: bool) -> None:
    assert is_image_name(image) is is_name


def test_container_status() -> None:
    info = {"pid": 7, "sandboxID": "s", "runtimeSpec": {"process": {"env": ["A=b=c", "odd", "E="]}}}
    details = parse_container_status(
        container_status(info, image=cri.ImageSpec(image="i"), labels={"a": "b"})
    )
    assert (details.up, details.pid, details.image, details.env) == (True, 7, "i", {"A": "b=c", "E": ""})
    assert not parse_container_status(container_status({"pid": 7}, state=cri.CONTAINER_EXITED)).up


@pytest.mark.parametrize(("info", "pid"), [(None, None), ({}, None), ({"pid": 0}, 0), ({"pid": None}, None)])
def test_a_runtime_that_tells_no_process(info: Any, pid: int | None) -> None:
    assert parse_container_status(container_status(info)).pid == pid


def test_a_large_environment_is_cut() -> None:
    # As kubelet gives it: the container's own variables, then those of thousands of services.
    lines = ["OWN=1", "LONG=" + "x" * 2000, *(f"S{number}_SERVICE_HOST=10.0.0.1" for number in range(50_000))]
    env = parse_container_status(container_status({"pid": 1, "runtimeSpec": {"process": {"env": lines}}})).env
    assert env["OWN"] == "1"
    assert "LONG" not in env
    assert len(env) == crianswers.MAX_VARIABLES - 1


@pytest.mark.parametrize("network", [cri.POD, cri.CONTAINER, cri.NODE])
def test_sandbox_status(network: cri.NamespaceMode.ValueType) -> None:
    options = cri.NamespaceOption(network=network, pid=cri.CONTAINER)
    status = cri.PodSandboxStatus(
        id="s",
        state=cri.SANDBOX_READY,
        network=cri.PodSandboxNetworkStatus(ip="10.0.0.1"),
        linux=cri.LinuxPodSandboxStatus(namespaces=cri.Namespace(options=options)),
        labels={"a": "b"},
    )
    answer = cri.PodSandboxStatusResponse(
        status=status, info={"info": '{"pid": 9, "image": "pause:3"}', "x": "y"}
    )
    details = parse_sandbox_status(answer.SerializeToString())
    assert (details.up, details.pid, details.image) == (True, 9, "pause:3")
    assert details.host_network is (network == cri.NODE)


def test_a_sandbox_of_which_little_is_known() -> None:
    details = parse_sandbox_status(b"")
    assert (details.up, details.pid, details.host_network, details.image) == (True, None, False, "")
    gone = cri.PodSandboxStatusResponse(status=cri.PodSandboxStatus(state=cri.SANDBOX_NOTREADY))
    assert not parse_sandbox_status(gone.SerializeToString()).up


@pytest.mark.parametrize(
    "info",
    [
        "",
        "{",
        "[]",
        "null",
        '{"pid": "7"}',
        '{"pid": true}',
        '{"pid": -1}',
        '{"runtimeSpec": []}',
        '{"runtimeSpec": {"process": 7}}',
        '{"runtimeSpec": {"process": {"env": {}}}}',
        "[" * 5000,
    ],
)
def test_odd_verbose_information(info: str) -> None:
    if info == '{"runtimeSpec": []}':
        assert parse_container_status(container_status(info)).env == {}
        return
    with pytest.raises(ParseError, match="verbose information"):
        parse_container_status(container_status(info))


@given(st.binary(max_size=300))
def test_garbage_is_refused_in_one_way(content: bytes) -> None:
    parsers = (
        parse_version,
        parse_sandboxes,
        parse_containers,
        parse_container_status,
        parse_sandbox_status,
        parse_task_event,
        parse_container_event,
    )
    for parse in parsers:
        try:
            parse(content)
        except ParseError as error:
            assert str(error).startswith("cannot parse ")  # noqa: PT017


# Events of containerd: an Envelope. Its definition is in no package; these are its documented field numbers.


def envelope(topic: str, event: bytes) -> bytes:
    kind = encode_bytes(1, b"containerd.events.TaskExit") + encode_bytes(2, event)
    when = encode_bytes(1, encode_number(1, 1_700_000_000))
    return when + encode_bytes(2, b"k8s.io") + encode_bytes(3, topic.encode()) + encode_bytes(4, kind)


def exited(container: str, process: str) -> bytes:
    event = encode_bytes(1, container.encode()) + encode_bytes(2, process.encode()) + encode_number(3, 77)
    return envelope("/tasks/exit", event + encode_number(4, 137))


def test_events_of_tasks() -> None:
    started = encode_bytes(1, b"abc") + encode_number(2, 77)
    assert parse_task_event(envelope("/tasks/start", started)) == Change("abc")
    assert parse_task_event(exited("abc", "abc")) == Change("abc", ended=True)
    assert parse_task_event(exited("abc", "probe-of-kubelet")) is None
    assert parse_task_event(exited("abc", "")) is None
    assert parse_task_event(envelope("/tasks/oom", started)) is None
    assert parse_task_event(envelope("/tasks/start", b"")) is None
    assert parse_task_event(b"") is None


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (cri.CONTAINER_CREATED_EVENT, None),
        (cri.CONTAINER_STARTED_EVENT, Change("abc")),
        (cri.CONTAINER_STOPPED_EVENT, Change("abc", ended=True)),
        (cri.CONTAINER_DELETED_EVENT, Change("abc", ended=True)),
        (99, None),
    ],
)
def test_events_of_containers(kind: Any, change: Change | None) -> None:
    status = cri.PodSandboxStatus(id="s", labels={"a": "b"})
    event = cri.ContainerEventResponse(
        container_id="abc", container_event_type=kind, created_at=1, pod_sandbox_status=status
    )
    assert parse_container_event(event.SerializeToString()) == change


def test_the_interface_is_asked_for_events_only_where_containerd_has_no_service_of_its_own() -> None:
    methods = [stream.method for stream in event_streams("runtime.v1.RuntimeService")]
    assert methods == [
        "containerd.services.events.v1.Events/Subscribe",
        "runtime.v1.RuntimeService/GetContainerEvents",
    ]
