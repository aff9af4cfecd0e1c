"""A real podman of the tests' own, with its Docker-compatible service: like `Engine`, always removed again."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.real.engine import (
    EngineError,
    call,
    frozen,
    make_busybox,
    remove_cgroups,
    unmount_below,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BUSYBOX = "localhost/falcon-test/busybox:latest"

_PROGRAMS = ("podman", "conmon", "runc", "ip", "nsenter", "busybox")
_SLEEP = ("sleep", "86400")
_CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""
"""Without these podman asks for its own, above what a machine without CAP_SYS_RESOURCE grants."""


class Podman:
    """A rootful podman whose storage, state, networks and network namespace are its own.

    There is no daemon: the service only answers questions, and containers belong to nobody. So they go on when
    it is killed. Containers are at `/libpod_parent/libpod-ID` below the cgroup mounts, unless `--cgroup-parent`.

    Attributes:
        name: unique; of the network namespace, and of a cgroup for `--cgroup-parent`.
        directory: everything it writes.
        socket: path of its API socket.
        netns: path of its network namespace.
    """

    def __init__(self) -> None:
        self.name = f"falcon-{secrets.token_hex(4)}"
        self.directory = Path(tempfile.gettempdir()) / self.name
        self.socket = self.directory / "podman.sock"
        self.netns = Path("/run/netns") / self.name
        self._service: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `--podman` and the configuration."""
        return f"unix://{self.socket}"

    @property
    def service_pid(self) -> int:
        """The running service."""
        if self._service is None:
            raise EngineError("the private podman service is not running")
        return self._service.pid

    # Life of the service

    def start(self) -> None:
        """Make the namespace, import the busybox image, start the service, wait until it answers.

        Raises:
            EngineError: a program is missing, or podman failed.
        """
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if missing or os.geteuid() != 0:
            why = f"{', '.join(missing)} missing" if missing else "not root"
            raise EngineError(f"cannot start a podman for the tests: {why}; run `make setup` as root")
        atexit.register(self.stop)
        try:
            self.directory.mkdir(mode=0o700)
            (self.directory / "containers.conf").write_text(_CONFIGURATION)
            (self.directory / "networks").mkdir()
            self.add_network("podman", "10.88.0")
            self.add_network("second", "10.89.0")
            call(["ip", "netns", "add", self.name])
            call(["nsenter", f"--net={self.netns}", "ip", "link", "set", "lo", "up"])
            self._import_busybox()
            self.start_service()
        except BaseException:
            self.stop()
            raise

    def add_network(self, name: str, subnet: str) -> None:
        """Configure a bridge network as `podman network create` does, but for the leases.

        Those would be kept for all podmans of the host.
        """
        ipam = {
            "type": "host-local",
            "dataDir": str(self.directory / "leases"),
            "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": f"{subnet}.0/24", "gateway": f"{subnet}.1"}]],
        }
        bridge = {"type": "bridge", "bridge": f"cni-{name}", "isGateway": True, "ipam": ipam}
        (self.directory / f"networks/{name}.conflist").write_text(
            json.dumps({"cniVersion": "0.4.0", "name": name, "plugins": [bridge]})
        )

    def _import_busybox(self) -> None:
        root = self.directory / "busybox"
        make_busybox(root)
        archive = root.with_suffix(".tar")
        call(["tar", "-C", str(root), "-cf", str(archive), "."])
        self.cli("import", str(archive), BUSYBOX)

    def start_service(self) -> None:
        """Start the service and wait until it answers; also after `kill_service`."""
        with (self.directory / "log").open("ab") as log:
            self._service = subprocess.Popen(
                self._argv("system", "service", "--time", "0", self.url),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environment(),
            )
        wait_until(self._answers, "the private podman answers", 60)

    def _answers(self) -> bool:
        if self._service is None or self._service.poll() is not None:
            log = (self.directory / "log").read_text(errors="replace").splitlines()
            raise EngineError("\n".join(["the private podman service ended:", *log[-20:]]))
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def kill_service(self) -> None:
        """`kill -9` the service; the containers live on."""
        os.kill(self.service_pid, signal.SIGKILL)
        if self._service is not None:
            self._service.wait()
        self._service = None
        self.socket.unlink()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Inside the block the service takes connections and never answers."""
        with frozen(self.service_pid):
            yield

    def stop(self) -> None:
        """Remove pods, containers, processes, mounts, namespace, cgroups, files; at any point, more than once."""
        service, self._service = self._service, None
        if service is not None:
            service.send_signal(signal.SIGCONT)
            service.kill()
            service.wait()
        if self.netns.exists():
            with contextlib.suppress(EngineError, subprocess.TimeoutExpired):
                self._remove_all()
            self._end_monitors()
            call(["ip", "netns", "delete", self.name])
        remove_cgroups(self.name)
        # Shared by all podmans of the host: goes only when it is empty.
        remove_cgroups("libpod_parent", 0)
        unmount_below(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.stop)

    def _remove_all(self) -> None:
        self.cli("pod", "rm", "--all", "--force", "--time", "0")
        # One whose network another one uses can only go after that: from the last made to the first.
        for container in self.cli("ps", "--all", "--quiet", "--no-trunc", "--sort", "created").split()[::-1]:
            self.rm(container)

    def _end_monitors(self) -> None:
        """Wait for the monitor processes (conmon) of the removed containers, which clean up after them."""
        ours = os.fsencode(self.directory) + b"/"

        def monitors() -> list[str]:
            found = []
            for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    words = cmdline.read_bytes().split(b"\0")
                    if words[0].endswith((b"conmon", b"podman")) and any(ours in word for word in words):
                        found.append(cmdline.parent.name)
            return found

        deadline = time.monotonic() + 60
        while (left := monitors()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    # Containers

    def _argv(self, *args: str) -> list[str]:
        directories = {
            "--root": "storage",
            "--runroot": "run",
            "--tmpdir": "tmp",
            "--network-config-dir": "networks",
        }
        return [
            # conmon leaves a file `oom` where it was started, when the kernel kills in its container.
            *("nsenter", f"--net={self.netns}", "env", f"--chdir={self.directory}", "podman"),
            *(word for option, name in directories.items() for word in (option, str(self.directory / name))),
            *("--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"),
            *("--storage-driver", "vfs", *args),
        ]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"CONTAINERS_CONF": str(self.directory / "containers.conf")}

    def cli(self, *args: str) -> str:
        """What `podman ARGS` prints, less what it warns of; errors as EngineError."""
        return call(self._argv(*args), env=self._environment())

    def run(self, *options: str, command: Sequence[str] = _SLEEP) -> str:
        """Start a container in the background; its full id."""
        return self.cli("run", "--detach", *options, BUSYBOX, *command).strip()

    @contextlib.contextmanager
    def container(self, *options: str, command: Sequence[str] = _SLEEP) -> Iterator[str]:
        """A container for the block, by its full id; removed afterwards."""
        container = self.run(*options, command=command)
        try:
            yield container
        finally:
            self.rm(container)

    @contextlib.contextmanager
    def pod(self, name: str) -> Iterator[str]:
        """A pod for the block, the full id of its infra container; removed with all its containers afterwards."""
        self.cli(
            *("pod", "create", "--name", name, "--cgroup-parent", f"/{self.name}"),
            *("--infra-image", BUSYBOX, "--infra-command", " ".join(_SLEEP)),
        )
        try:
            yield self.cli("pod", "inspect", "--format", "{{.InfraContainerID}}", name).strip()
        finally:
            self.cli("pod", "rm", "--force", "--time", "0", name)

    def rm(self, container: str) -> None:
        """Kill and remove a container; one that is gone already is fine."""
        self.cli("rm", "--force", "--ignore", "--time", "0", container)

    def inspect(self, container: str) -> Any:
        """The decoded answer of `podman inspect`."""
        return json.loads(self.cli("inspect", container))[0]
