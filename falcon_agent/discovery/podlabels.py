"""What the labels of a container of Docker tell of its Kubernetes pod, as dockershim and cri-dockerd write them.

Both name them alike: pkg/kubelet/dockershim/{labels,helpers}.go of Kubernetes 1.23, core/{labels,helpers}.go of
cri-dockerd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.container import Pod

if TYPE_CHECKING:
    from collections.abc import Mapping

_POD = "io.kubernetes.pod.name"
_CONTAINER = "io.kubernetes.container.name"
_KIND = "io.kubernetes.docker.type"
_SANDBOX = "io.kubernetes.sandbox.id"
_OF_THE_SANDBOX = frozenset({_CONTAINER, _KIND})
_ANNOTATION = "annotation."
"""Docker has no annotations: a pod's are kept as labels behind this."""


def is_sandbox(labels: Mapping[str, str]) -> bool:
    """Whether the container only holds the namespaces of a pod."""
    return labels.get(_KIND) == "podsandbox" or labels.get(_CONTAINER) == "POD"


def sandbox_of(labels: Mapping[str, str]) -> str:
    """The id of the sandbox of the pod a container runs in; empty outside Kubernetes."""
    return labels.get(_SANDBOX, "")


def pod_labels(sandbox: Mapping[str, str]) -> dict[str, str]:
    """The pod's labels, among those of its sandbox."""
    return {
        key: text
        for key, text in sandbox.items()
        if key not in _OF_THE_SANDBOX and not key.startswith(_ANNOTATION)
    }


def pod_of(labels: Mapping[str, str]) -> Pod | None:
    """The pod that a container, or a sandbox, belongs to."""
    name = labels.get(_POD)
    if not name:
        return None
    return Pod(name, labels.get("io.kubernetes.pod.namespace", ""), labels.get("io.kubernetes.pod.uid", ""))


def name_in_pod(labels: Mapping[str, str], *, pause: bool) -> str:
    """What people call it, instead of `k8s_NAME_POD_NAMESPACE_UID_ATTEMPT`; empty outside Kubernetes.

    A container has its name in the pod, a sandbox is called like its pod.
    """
    if pause or not labels.get(_POD):
        return labels.get(_POD, "")
    return labels.get(_CONTAINER, "")
