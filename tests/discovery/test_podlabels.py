"""Kubernetes over Docker: containers of a real engine that carry the labels of dockershim and cri-dockerd."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from falcon_agent.container import Pod
from falcon_agent.discovery.docker import DockerRuntime
from falcon_agent.discovery.podlabels import is_sandbox, name_in_pod, pod_labels, pod_of
from tests.discovery.looking import find
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
OTHER_UID = "7b1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


@pytest.fixture
def runtime(docker_engine: Engine) -> Iterator[DockerRuntime]:
    runtime = DockerRuntime(docker_engine.url, 30.0, "/proc")
    yield runtime
    runtime.close()


class Kubelet:
    """Makes containers as dockershim (Kubernetes 1.23) and cri-dockerd do: these names, labels, network modes."""

    def __init__(self, engine: Engine, stack: ExitStack) -> None:
        self._engine = engine
        self._stack = stack

    def _labels(self, pod: Pod, name: str, kind: str) -> dict[str, str]:
        return {
            "io.kubernetes.pod.name": pod.name,
            "io.kubernetes.pod.namespace": pod.namespace,
            "io.kubernetes.pod.uid": pod.uid,
            "io.kubernetes.container.name": name,
            "io.kubernetes.docker.type": kind,
        }

    def _run(self, pod: Pod, name: str, labels: dict[str, str], *options: str, attempt: int = 0) -> str:
        words = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
        full = f"k8s_{name}_{pod.name}_{pod.namespace}_{pod.uid}_{attempt}"
        return self._stack.enter_context(self._engine.container("--name", full, *words, *options))

    def sandbox(self, pod: Pod, network: str = "bridge", **labels: str) -> str:
        """The id of a pod's sandbox; `labels` are the pod's own."""
        own = self._labels(pod, "POD", "podsandbox") | {"annotation.config": "long"} | labels
        return self._run(pod, "POD", own, "--network", network)

    def container(self, pod: Pod, sandbox: str, name: str, attempt: int = 0, **labels: str) -> str:
        """The id of a container in a pod; `labels` are its image's."""
        own = self._labels(pod, name, "container") | {"io.kubernetes.sandbox.id": sandbox} | labels
        return self._run(pod, name, own, "--network", f"container:{sandbox}", attempt=attempt)


@pytest.fixture
def kubelet(docker_engine: Engine) -> Iterator[Kubelet]:
    with ExitStack() as stack:
        yield Kubelet(docker_engine, stack)


@pytest.mark.real
def test_a_pod(kubelet: Kubelet, runtime: DockerRuntime, docker_engine: Engine) -> None:
    pod = Pod("web-0", "prod", UID)
    sandbox = kubelet.sandbox(pod, app="web", tier="front")
    app = kubelet.container(pod, sandbox, "app", tier="of the image")
    side = kubelet.container(pod, sandbox, "side")
    found = find(runtime)
    assert (found[sandbox].name, found[sandbox].pause, found[sandbox].pod) == ("web-0", True, pod)
    assert (found[sandbox].labels["app"], found[sandbox].network_of) == ("web", sandbox)
    assert [(found[one].name, found[one].pause, found[one].pod) for one in (app, side)] == [
        ("app", False, pod),
        ("side", False, pod),
    ]
    assert found[app].network_of == found[side].network_of == sandbox
    assert found[app].netns == found[side].netns == found[sandbox].netns
    assert not found[app].host_network
    # The pod's labels, and the container's own where both have one; nothing that is about the sandbox alone.
    assert (found[app].labels["app"], found[app].labels["tier"]) == ("web", "of the image")
    assert (found[side].labels["app"], found[side].labels["tier"]) == ("web", "front")
    assert found[side].labels["io.kubernetes.docker.type"] == "container"
    assert "annotation.config" not in found[side].labels
    # Asked again, now that they are known: nothing is lost or doubled.
    assert find(runtime) == found
    docker_engine.cli("pause", app)
    assert [one.id for one in find(runtime).values() if one.paused] == [app]


@pytest.mark.real
def test_two_pods_of_one_name_in_two_namespaces(kubelet: Kubelet, runtime: DockerRuntime) -> None:
    pods = [Pod("web-0", "prod", UID), Pod("web-0", "test", OTHER_UID)]
    sandboxes = [kubelet.sandbox(pod, stage=pod.namespace) for pod in pods]
    apps = [kubelet.container(pod, sandbox, "app") for pod, sandbox in zip(pods, sandboxes, strict=True)]
    found = find(runtime)
    assert [found[app].pod for app in apps] == pods
    assert [found[app].network_of for app in apps] == sandboxes
    assert [found[app].labels["stage"] for app in apps] == ["prod", "test"]
    assert found[apps[0]].netns != found[apps[1]].netns


@pytest.mark.real
def test_a_restarted_container_in_a_living_sandbox(
    kubelet: Kubelet, runtime: DockerRuntime, docker_engine: Engine
) -> None:
    pod = Pod("web-0", "prod", UID)
    sandbox = kubelet.sandbox(pod, app="web")
    first = kubelet.container(pod, sandbox, "app")
    before = find(runtime)
    docker_engine.cli("kill", first)  # kubelet keeps the dead one and makes the next attempt beside it
    second = kubelet.container(pod, sandbox, "app", attempt=1)
    wait_until(lambda: not runtime.alive(before[first]), "the first attempt ended")
    found = find(runtime)
    assert first not in found
    assert found[sandbox] == before[sandbox]
    assert (found[second].name, found[second].pod, found[second].network_of) == ("app", pod, sandbox)
    assert found[second].labels["app"] == "web"
    assert found[second].key != before[first].key


@pytest.mark.real
def test_a_pod_in_the_hosts_network(kubelet: Kubelet, runtime: DockerRuntime) -> None:
    pod = Pod("kube-proxy-x", "kube-system", UID)
    sandbox = kubelet.sandbox(pod, network="host")
    proxy = kubelet.container(pod, sandbox, "kube-proxy")
    found = find(runtime)
    # The engine has a network namespace of its own here, so only its word can tell.
    assert (found[proxy].host_network, found[sandbox].host_network) == (True, True)
    assert found[proxy].network_of == sandbox


@pytest.mark.real
def test_a_pod_whose_sandbox_is_gone(kubelet: Kubelet, runtime: DockerRuntime, docker_engine: Engine) -> None:
    pod = Pod("web-0", "prod", UID)
    sandbox = kubelet.sandbox(pod, app="web")
    app = kubelet.container(pod, sandbox, "app")
    docker_engine.rm(sandbox)
    found = find(runtime)
    assert (found[app].name, found[app].pod, found[app].network_of) == ("app", pod, sandbox)
    assert "app" not in found[app].labels


@pytest.mark.real
def test_who_only_says_to_be_in_a_sandbox_gets_no_labels(
    docker_engine: Engine, runtime: DockerRuntime
) -> None:
    with (
        docker_engine.container("--label", "team=shop") as other,
        docker_engine.container("--label", f"io.kubernetes.sandbox.id={other}") as liar,
    ):
        found = find(runtime)
        assert found[liar].labels == {"io.kubernetes.sandbox.id": other}
        assert (found[liar].pod, found[liar].network_of) == (None, liar)


def test_labels_of_older_kubelets() -> None:
    labels = {"io.kubernetes.pod.name": "web-0", "io.kubernetes.container.name": "POD"}
    assert is_sandbox(labels)
    assert pod_of(labels) == Pod("web-0", "", "")
    assert name_in_pod(labels, pause=True) == "web-0"
    assert pod_labels(labels) == {"io.kubernetes.pod.name": "web-0"}


@pytest.mark.parametrize(
    "labels", [{}, {"io.kubernetes.container.name": "app"}, {"io.kubernetes.pod.name": ""}], ids=json.dumps
)
def test_outside_kubernetes(labels: dict[str, str]) -> None:
    assert not is_sandbox(labels)
    assert pod_of(labels) is None
    assert name_in_pod(labels, pause=False) == ""
