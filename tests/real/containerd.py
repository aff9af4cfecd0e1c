"""A real containerd with its Kubernetes interface, of the tests' own: made for them, always removed again.

It is spoken to by grpcio and the interface's own messages, which have nothing in common with the agent's client.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Else gRPC starts its threads anew in every process that a test forks, and tries for ten seconds where it may not.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import grpc
from cri_api.v1 import api_pb2 as cri
from cri_api.v1.api_pb2_grpc import RuntimeServiceStub

from tests.real.engine import frozen, remove_cgroups, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

IMAGE = "docker.io/falcon-test/busybox:1"
PAUSE_IMAGE = "docker.io/falcon-test/pause:1"

_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "ip", "nsenter", "unshare", "busybox")
_CNI = Path("/usr/lib/cni")
_START_SECONDS = 60.0
_COMMAND_SECONDS = 120.0
_PRIVATE = "for d in /run/netns /run/containerd /var/lib/cni; do mkdir -p $d && mount -t tmpfs none $d; done"
"""Where pods' namespaces, shims' sockets and addresses are written whatever the configuration says."""

_CONFIG = """version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [{disabled}]
[grpc]
address = "{directory}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{directory}/cni"
"""
_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "falcon-test",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]]},
        }
    ],
}


class ContainerdError(RuntimeError):
    """containerd, or a command given to it, failed; the message holds what it printed."""


class Containerd:
    """A containerd that lives in a network and a mount namespace, directory and parent cgroup made for it.

    The mount namespace is held by a process that outlives containerd, so that containerd can be killed and started
    again, and everything mounted ends with it. Pods' cgroups are at `/NAME/kubepods/podUID`.

    Attributes:
        name: unique; of the network namespace, and of the parent cgroup.
        directory: everything containerd writes.
        socket: path of its socket.
        netns: path of its network namespace, where the host's side of each veth pair is.
        runtime: the client.
    """

    def __init__(self, *, disabled_plugins: Sequence[str] = ()) -> None:
        self.name = f"falcon-{secrets.token_hex(4)}"
        self.directory = Path(tempfile.gettempdir()) / self.name
        self.socket = self.directory / "containerd.sock"
        self.netns = Path("/run/netns") / self.name
        self._disabled = disabled_plugins
        self._holder: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None

    @property
    def url(self) -> str:
        """For the configuration."""
        return f"unix://{self.socket}"

    @property
    def daemon_pid(self) -> int:
        """The running containerd."""
        if self._daemon is None:
            raise ContainerdError("the private containerd is not running")
        return self._daemon.pid

    @property
    def runtime(self) -> RuntimeServiceStub:
        """The Container Runtime Interface by grpcio; errors as grpc.RpcError."""
        if self._channel is None:
            # Connecting again after a restart must not wait for long.
            options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50)]
            self._channel = grpc.insecure_channel(self.url, options)
        return RuntimeServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated code

    # Its life

    def start(self) -> None:
        """Make the namespaces, start containerd, wait until it answers, import the images.

        Raises:
            ContainerdError: a program is missing, or containerd did not come up (then with the end of its log).
        """
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        missing += [str(_CNI / plugin) for plugin in ("bridge", "host-local") if not (_CNI / plugin).exists()]
        if missing or os.geteuid() != 0:
            why = f"{', '.join(missing)} missing" if missing else "not root"
            raise ContainerdError(f"cannot start containerd for the tests: {why}; run `make setup` as root")
        atexit.register(self.stop)
        try:
            (self.directory / "cni").mkdir(mode=0o700, parents=True)
            (self.directory / "cni/10-test.conflist").write_text(json.dumps(_NETWORK))
            disabled = ", ".join(f'"{plugin}"' for plugin in self._disabled)
            (self.directory / "config.toml").write_text(
                _CONFIG.format(directory=self.directory, pause=PAUSE_IMAGE, cni=_CNI, disabled=disabled)
            )
            _call(["ip", "netns", "add", self.name])
            self._hold_namespaces()
            self.start_daemon()
            self._import_images()
        except BaseException:
            self.stop()
            raise

    def _hold_namespaces(self) -> None:
        # `holding` is printed when all is mounted.
        script = f"{_PRIVATE}; ip link set lo up; echo holding; exec sleep infinity"
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
        self._holder = subprocess.Popen(
            ["nsenter", f"--net={self.netns}", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._holder.stdout is None or self._holder.stdout.readline() != b"holding\n":
            raise ContainerdError("cannot make the mount namespace of the private containerd")

    def start_daemon(self) -> None:
        """Start containerd and wait until it answers; also after `kill_daemon`, over the same data."""
        with (self.directory / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                self.enter_argv(
                    "containerd", "--config", f"{self.directory}/config.toml", "--log-level", "warn"
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "the private containerd answers", _START_SECONDS)

    def _answers(self) -> bool:
        if self._daemon is None or self._daemon.poll() is not None:
            raise ContainerdError(f"the private containerd ended:\n{self._log_tail()}")
        try:
            if self._disabled:
                self.ctr("version")
            else:
                # Until it has read what was there before, every call but this one fails.
                self.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=5)
        except (grpc.RpcError, ContainerdError):
            return False
        return True

    def _log_tail(self) -> str:
        return "\n".join((self.directory / "log").read_text(errors="replace").splitlines()[-20:])

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Inside the block containerd takes connections and never answers."""
        with frozen(self.daemon_pid):
            yield

    def kill_daemon(self) -> None:
        """`kill -9` containerd; shims and containers live on."""
        os.kill(self.daemon_pid, signal.SIGKILL)
        if self._daemon is not None:
            self._daemon.wait()
        self._daemon = None

    def stop(self) -> None:
        """Remove pods, processes, mounts, namespaces, cgroups, files; at any point, more than once."""
        daemon, self._daemon = self._daemon, None
        if daemon is not None and daemon.poll() is None:
            daemon.send_signal(signal.SIGCONT)
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        # Shims, and what runs in the containers. The mounts end with the last process of the mount namespace.
        deadline = time.monotonic() + 20
        while (pids := self._processes()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.kill()
            holder.wait()
            if holder.stdout is not None:
                holder.stdout.close()
        remove_cgroups(self.name)
        if self.netns.exists():
            _call(["ip", "netns", "delete", self.name])
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.stop)

    def _processes(self) -> list[int]:
        """Shims, which name this socket in their command lines, and what is in the cgroup of the pods."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                shim = Path(os.fsdecode(words[0])).name.startswith("containerd-shim")
                ours = shim and os.fsencode(self.socket) in words
                inside = f"/{self.name}/" in (entry / "cgroup").read_text()
            except OSError:
                continue  # it ended while we looked
            # A zombie has no command line; only its parent can end it.
            if words[0] and (ours or inside):
                found.append(int(entry.name))
        return found

    # Images

    def _import_images(self) -> None:
        binary = Path(shutil.which("busybox") or "").read_bytes()
        archive = self.directory / "images.tar"
        with tarfile.open(archive, "w") as images:
            _write_images(images, _busybox_layer(binary))
        self.ctr("images", "import", str(archive))
        archive.unlink()

    # Pods and containers

    def enter_argv(self, *argv: str) -> list[str]:
        """The command, to be run in containerd's network and mount namespace."""
        if self._holder is None:
            raise ContainerdError("the private containerd is not running")
        return ["nsenter", "--target", str(self._holder.pid), "--net", "--mount", *argv]

    def ctr(self, *args: str, namespace: str = "k8s.io") -> str:
        """What `ctr ARGS` prints; errors as ContainerdError."""
        return _call(self.enter_argv("ctr", "--address", str(self.socket), "--namespace", namespace, *args))

    def run_pod(
        self,
        name: str,
        namespace: str = "default",
        *,
        uid: str = "",
        labels: Mapping[str, str] | None = None,
        host_network: bool = False,
    ) -> str:
        """Run a pod's sandbox, as kubelet labels it; its id."""
        config = self._pod_config(name, namespace, uid or _uid(), labels or {}, host_network=host_network)
        request = cri.RunPodSandboxRequest(config=config)
        sandbox: str = self.runtime.RunPodSandbox(request, timeout=_COMMAND_SECONDS).pod_sandbox_id
        return sandbox

    def _pod_config(
        self, name: str, namespace: str, uid: str, labels: Mapping[str, str], *, host_network: bool
    ) -> Any:
        network = cri.NODE if host_network else cri.POD
        options = cri.NamespaceOption(network=network, pid=cri.CONTAINER)
        return cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, namespace=namespace, uid=uid),
            labels={**labels, **_pod_labels(name, namespace, uid)},
            annotations={"kubernetes.io/config.source": "api"},
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=f"/{self.name}/kubepods/pod{uid}",
                security_context=cri.LinuxSandboxSecurityContext(namespace_options=options),
            ),
        )

    def run_container(
        self,
        sandbox: str,
        name: str,
        *,
        env: Mapping[str, str] | None = None,
        attempt: int = 0,
        command: Sequence[str] = ("sleep", "86400"),
    ) -> str:
        """Run a container in a pod, as kubelet labels it; its id."""
        status = self.sandbox_status(sandbox).status
        pod = status.metadata
        network = status.linux.namespaces.options.network
        options = cri.NamespaceOption(network=network, pid=cri.CONTAINER)
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name, attempt=attempt),
            image=cri.ImageSpec(image=IMAGE),
            command=command,
            envs=[cri.KeyValue(key=key, value=value) for key, value in (env or {}).items()],
            labels={
                **_pod_labels(pod.name, pod.namespace, pod.uid),
                "io.kubernetes.container.name": name,
            },
            linux=cri.LinuxContainerConfig(
                security_context=cri.LinuxContainerSecurityContext(namespace_options=options)
            ),
        )
        own = {key: value for key, value in status.labels.items() if not key.startswith("io.kubernetes.")}
        of_pod = self._pod_config(pod.name, pod.namespace, pod.uid, own, host_network=network == cri.NODE)
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=config, sandbox_config=of_pod)
        container: str = self.runtime.CreateContainer(request, timeout=_COMMAND_SECONDS).container_id
        self.runtime.StartContainer(
            cri.StartContainerRequest(container_id=container), timeout=_COMMAND_SECONDS
        )
        return container

    def stop_container(self, container: str) -> None:
        """Kill a container; it stays listed as exited."""
        self.runtime.StopContainer(cri.StopContainerRequest(container_id=container), timeout=_COMMAND_SECONDS)

    def exec(self, container: str, *argv: str) -> str:
        """What a command prints inside a container."""
        request = cri.ExecSyncRequest(container_id=container, cmd=argv, timeout=int(_COMMAND_SECONDS))
        output: bytes = self.runtime.ExecSync(request, timeout=_COMMAND_SECONDS).stdout
        return output.decode()

    def stop_pod(self, sandbox: str) -> None:
        """End a pod; it stays listed as not ready."""
        self.runtime.StopPodSandbox(
            cri.StopPodSandboxRequest(pod_sandbox_id=sandbox), timeout=_COMMAND_SECONDS
        )

    def remove_pod(self, sandbox: str) -> None:
        """End and remove a pod and its containers."""
        self.stop_pod(sandbox)
        request = cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox)
        self.runtime.RemovePodSandbox(request, timeout=_COMMAND_SECONDS)

    @contextlib.contextmanager
    def pod(self, name: str, namespace: str = "default", **options: Any) -> Iterator[str]:
        """A pod for the block, by its sandbox's id; options as `run_pod`."""
        sandbox = self.run_pod(name, namespace, **options)
        try:
            yield sandbox
        finally:
            self.remove_pod(sandbox)

    def sandbox_status(self, sandbox: str) -> Any:
        """PodSandboxStatusResponse."""
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox, verbose=True)
        return self.runtime.PodSandboxStatus(request, timeout=_COMMAND_SECONDS)

    def container_status(self, container: str) -> Any:
        """ContainerStatusResponse."""
        request = cri.ContainerStatusRequest(container_id=container, verbose=True)
        return self.runtime.ContainerStatus(request, timeout=_COMMAND_SECONDS)

    @contextlib.contextmanager
    def bare_container(self, namespace: str) -> Iterator[str]:
        """A container that the Kubernetes interface did not make, in another namespace of containerd; its id."""
        container = secrets.token_hex(32)
        root = self.directory / container
        (root / "bin").mkdir(parents=True)
        shutil.copy2(shutil.which("busybox") or "", root / "bin/busybox")
        cgroup = f"/{self.name}/{namespace}/{container}"
        options = ("--detach", "--rootfs", "--cgroup", cgroup, str(root), container)
        self.ctr("run", *options, "/bin/busybox", "sleep", "86400", namespace=namespace)
        try:
            yield container
        finally:
            self.ctr("tasks", "rm", "--force", container, namespace=namespace)
            self.ctr("containers", "rm", container, namespace=namespace)

    def tasks(self) -> dict[str, int]:
        """First process of every running container and sandbox, as `ctr` says."""
        lines = [line.split() for line in self.ctr("tasks", "ls").splitlines()[1:]]
        return {container: int(pid) for container, pid, status in lines if status == "RUNNING"}


@contextlib.contextmanager
def containerd_for_tests(*, disabled_plugins: Sequence[str] = ()) -> Iterator[Containerd]:
    """A containerd for the block."""
    containerd = Containerd(disabled_plugins=disabled_plugins)
    containerd.start()
    try:
        yield containerd
    finally:
        containerd.stop()


def _uid() -> str:
    digits = secrets.token_hex(16)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _pod_labels(name: str, namespace: str, uid: str) -> dict[str, str]:
    labels = {"name": name, "namespace": namespace, "uid": uid}
    return {f"io.kubernetes.pod.{key}": value for key, value in labels.items()}


def _busybox_layer(binary: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        for directory in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(binary), 0o755
        layer.addfile(entry, io.BytesIO(binary))
        for applet in ("sh", "sleep", "cat", "nc", "true", "ip"):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(entry)
    return content.getvalue()


def _write_images(archive: tarfile.TarFile, layer: bytes) -> None:
    """Two images of one layer, in the form of `docker save`."""
    manifest = []
    _write(archive, "layer.tar", layer)
    for tag, entrypoint in ((IMAGE, []), (PAUSE_IMAGE, ["/bin/sleep", "2147483647"])):
        config = {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin", "IMAGE_SAYS=a=b"], "Entrypoint": entrypoint},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
        content = json.dumps(config).encode()
        name = f"{hashlib.sha256(content).hexdigest()}.json"
        _write(archive, name, content)
        manifest.append({"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]})
    _write(archive, "manifest.json", json.dumps(manifest).encode())


def _write(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _call(argv: Sequence[str], timeout: float = _COMMAND_SECONDS) -> str:
    done = subprocess.run(argv, capture_output=True, timeout=timeout, check=False)
    if done.returncode != 0:
        text = (done.stdout + done.stderr).decode(errors="replace")
        raise ContainerdError(f"{' '.join(argv)}: exit {done.returncode}\n{text}")
    return done.stdout.decode(errors="replace")
