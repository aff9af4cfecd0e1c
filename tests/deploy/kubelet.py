"""What kubelet makes of a pod: requests of the Container Runtime Interface, here to the tests' own containerd.

There is no kubelet on this machine. Of a pod's description nothing is passed over: a field that is not handled here is
an error, so that what the manifests say is what runs.
"""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

from cri_api.v1 import api_pb2 as cri

from tests.real.containerd import IMAGE as BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.real.containerd import Containerd

_SECONDS = 120.0
_NODE = "node-7"
_CPU_PERIOD = 100_000
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_PROPAGATION = {"None": cri.PROPAGATION_PRIVATE, "HostToContainer": cri.PROPAGATION_HOST_TO_CONTAINER}
_SECCOMP = {
    "RuntimeDefault": cri.SecurityProfile.RuntimeDefault,
    "Unconfined": cri.SecurityProfile.Unconfined,
}
# What procMount: Default means (pkg/securitycontext/util.go in Kubernetes).
_MASKED = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# What kubelet does not tell the runtime, or not anything that shows on one node.
_NOT_FOR_THE_RUNTIME = (
    *("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "priorityClassName"),
    *("nodeSelector", "tolerations", "dnsPolicy"),
)


class Node:
    """A machine with a containerd.

    Args:
        containerd: runs the pods.
        images: what the images of the manifests are here.
        directories: what is the host's directory of this path here.
        files: the ConfigMaps' files, by name of the map.
        logs: a directory for what containers print, each to NAME.log.
    """

    def __init__(
        self,
        containerd: Containerd,
        images: Mapping[str, str],
        directories: Mapping[str, Path],
        files: Mapping[str, Path],
        logs: Path,
    ) -> None:
        self._containerd = containerd
        self._images = images
        self._directories = directories
        self._files = files
        self._logs = logs

    @contextlib.contextmanager
    def pod(self, name: str, namespace: str, spec: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        """A pod for the block; its containers' ids by name."""
        left = {key: value for key, value in spec.items() if key not in _NOT_FOR_THE_RUNTIME}
        containers, volumes = left.pop("containers"), left.pop("volumes", [])
        grace = left.pop("terminationGracePeriodSeconds")
        options = cri.NamespaceOption(
            network=cri.NODE if left.pop("hostNetwork", False) else cri.POD,
            pid=cri.NODE if left.pop("hostPID", False) else cri.CONTAINER,
        )
        assert not left, left
        config = self._sandbox(name, namespace, options)
        runtime = self._containerd.runtime
        request = cri.RunPodSandboxRequest(config=config)
        sandbox = runtime.RunPodSandbox(request, timeout=_SECONDS).pod_sandbox_id
        try:
            ids = {}
            for each in containers:
                made = cri.CreateContainerRequest(
                    pod_sandbox_id=sandbox,
                    config=self._container(each, volumes, config, options),
                    sandbox_config=config,
                )
                container = runtime.CreateContainer(made, timeout=_SECONDS).container_id
                runtime.StartContainer(cri.StartContainerRequest(container_id=container), timeout=_SECONDS)
                ids[each["name"]] = container
            yield ids
            for container in ids.values():
                self.stop(container, grace)
        finally:
            self._containerd.remove_pod(sandbox)

    def exec(self, container: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container, with what that one may."""
        request = cri.ExecSyncRequest(container_id=container, cmd=argv, timeout=int(_SECONDS))
        answer = self._containerd.runtime.ExecSync(request, timeout=_SECONDS)
        return subprocess.CompletedProcess(
            argv, answer.exit_code, answer.stdout.decode(), answer.stderr.decode()
        )

    def stop(self, container: str, grace: int) -> None:
        """End a container: by SIGTERM, after `grace` seconds by SIGKILL. One that has ended is fine."""
        request = cri.StopContainerRequest(container_id=container, timeout=grace)
        self._containerd.runtime.StopContainer(request, timeout=_SECONDS)

    def exit_code(self, container: str) -> int:
        """Of a container that has ended."""
        code: int = self._containerd.container_status(container).status.exit_code
        return code

    def _sandbox(self, name: str, namespace: str, options: Any) -> Any:
        uid = str(uuid.uuid4())
        return cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, namespace=namespace, uid=uid),
            labels={
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": namespace,
                "io.kubernetes.pod.uid": uid,
            },
            hostname="" if options.network == cri.NODE else name,
            log_directory=str(self._logs),
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=f"/{self._containerd.name}/kubepods/pod{uid}",
                security_context=cri.LinuxSandboxSecurityContext(namespace_options=options),
            ),
        )

    def _container(self, container: Mapping[str, Any], volumes: Any, sandbox: Any, options: Any) -> Any:
        left = dict(container)
        name, image = left.pop("name"), left.pop("image")
        left.pop("imagePullPolicy", None)
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image=self._images[image]),
            command=left.pop("command", []),
            args=left.pop("args", []),
            envs=[cri.KeyValue(key=each["name"], value=_value(each)) for each in left.pop("env", [])],
            mounts=[self._mount(dict(each), volumes) for each in left.pop("volumeMounts", [])],
            labels=dict(sandbox.labels) | {"io.kubernetes.container.name": name},
            log_path=f"{name}.log",
            linux=cri.LinuxContainerConfig(
                resources=_resources(left.pop("resources", {})),
                security_context=_security(left.pop("securityContext", {}), options),
            ),
        )
        assert not left, left
        return config

    def _mount(self, mount: dict[str, Any], volumes: Any) -> Any:
        name = mount.pop("name")
        (volume,) = [dict(each) for each in volumes if each["name"] == name]
        volume.pop("name")
        match volume:
            case {"hostPath": {"path": path}}:
                place = str(self._directories.get(path, path))
            case {"configMap": {"name": config}}:
                place = str(self._files[config] / mount.pop("subPath"))
            case _:
                raise AssertionError(volume)
        made = cri.Mount(
            container_path=mount.pop("mountPath"),
            host_path=place,
            readonly=mount.pop("readOnly", False),
            propagation=_PROPAGATION[mount.pop("mountPropagation", "None")],
        )
        assert not mount, mount
        return made


def workload(name: str, script: str) -> dict[str, Any]:
    """The description of a pod with one busybox container, which has a volume at /data/closed/volume."""
    container = {
        "name": name,
        "image": BUSYBOX,
        "command": ["sh", "-ec", script],
        "volumeMounts": [{"name": "volume", "mountPath": "/data/closed/volume"}],
    }
    volume = {"name": "volume", "hostPath": {"path": "/volume"}}
    return {"containers": [container], "volumes": [volume], "terminationGracePeriodSeconds": 0}


def _value(variable: Mapping[str, Any]) -> str:
    match variable:
        case {"value": str(value)}:
            return value
        case {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}:
            return _NODE
    raise AssertionError(variable)


def _resources(resources: Mapping[str, Any]) -> Any:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    return cri.LinuxContainerResources(
        cpu_shares=max(2, _cores(requests["cpu"]) * 1024 // 1000) if "cpu" in requests else 0,
        cpu_period=_CPU_PERIOD,
        cpu_quota=_cores(limits["cpu"]) * _CPU_PERIOD // 1000 if "cpu" in limits else 0,
        memory_limit_in_bytes=_bytes(limits["memory"]) if "memory" in limits else 0,
    )


def _cores(text: str) -> int:
    """Thousandths."""
    return int(text.removesuffix("m")) if text.endswith("m") else 1000 * int(text)


def _bytes(text: str) -> int:
    return int(text[:-2]) * _UNITS[text[-2:]]


def _security(context: Mapping[str, Any], options: Any) -> Any:
    left = dict(context)
    capabilities = left.pop("capabilities", {})
    # Where SELinux is off the runtime takes no notice of a label.
    left.pop("seLinuxOptions", None)
    user, group = left.pop("runAsUser", None), left.pop("runAsGroup", None)
    made = cri.LinuxContainerSecurityContext(
        namespace_options=options,
        capabilities=cri.Capability(
            add_capabilities=capabilities.get("add", []), drop_capabilities=capabilities.get("drop", [])
        ),
        privileged=left.pop("privileged", False),
        readonly_rootfs=left.pop("readOnlyRootFilesystem", False),
        no_new_privs=not left.pop("allowPrivilegeEscalation", True),
        run_as_user=cri.Int64Value(value=user) if user is not None else None,
        run_as_group=cri.Int64Value(value=group) if group is not None else None,
        seccomp=cri.SecurityProfile(
            profile_type=_SECCOMP[left.pop("seccompProfile", {"type": "Unconfined"})["type"]]
        ),
        masked_paths=_MASKED,
        readonly_paths=_READ_ONLY,
    )
    assert not left, left
    return made
