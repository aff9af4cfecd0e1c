"""A real Docker engine of the tests' own: private network namespace and directories, always removed again."""

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
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

BUSYBOX = "falcon-test/busybox"

_PROGRAMS = ("dockerd", "docker", "containerd", "runc", "ip", "nsenter", "iptables", "busybox")
_START_SECONDS = 60.0
_COMMAND_SECONDS = 120.0
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_SYSTEMD = Path("/run/systemd/system").is_dir()
"""Whether systemd runs this machine (sd_booted(3)), and is asked for the containers' cgroups."""


class EngineError(RuntimeError):
    """The engine, or a command given to it, failed; the message holds what it printed."""


class Engine:
    """A dockerd that lives in a network namespace, data directory and parent cgroup made for it.

    A second dockerd in one network namespace would delete the bridge of the first, so it is never started in
    the namespace of the caller. The host's side of each veth pair is therefore in `netns` too: run what is to
    see it by `nsenter_argv`. The engine uses the cgroup driver that is usual on the machine: systemd's where systemd
    runs it, else cgroupfs.

    Attributes:
        name: unique; of the network namespace, and with cgroupfs of the parent cgroup.
        directory: everything the engine writes.
        socket: path of its API socket.
        netns: path of its network namespace.

    Args:
        daemon_args: more options for dockerd, e.g. `--live-restore`.
    """

    def __init__(self, *daemon_args: str) -> None:
        self._daemon_args = daemon_args
        self.name = f"falcon-{secrets.token_hex(4)}"
        self.directory = Path(tempfile.gettempdir()) / self.name
        self.socket = self.directory / "docker.sock"
        self.netns = Path("/run/netns") / self.name
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `--host` and the configuration."""
        return f"unix://{self.socket}"

    @property
    def daemon_pid(self) -> int:
        """The running dockerd."""
        if self._daemon is None:
            raise EngineError("the private dockerd is not running")
        return self._daemon.pid

    # Life of the engine

    def start(self) -> None:
        """Make the namespace, start dockerd, wait until it answers, import the busybox image.

        Raises:
            EngineError: a program is missing, or dockerd did not come up (then with the end of its log).
        """
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if missing or os.geteuid() != 0:
            why = f"{', '.join(missing)} missing" if missing else "not root"
            raise EngineError(f"cannot start a Docker engine for the tests: {why}; run `make setup` as root")
        atexit.register(self.stop)
        try:
            self.directory.mkdir(mode=0o700)
            call(["ip", "netns", "add", self.name])
            call(self.nsenter_argv("ip", "link", "set", "lo", "up"))
            self.start_daemon()
            self._import_busybox()
        except BaseException:
            self.stop()
            raise

    def start_daemon(self) -> None:
        """Start dockerd and wait until it answers; also after `end_daemon`, `kill_daemon`, over the same data."""
        with contextlib.suppress(FileNotFoundError):
            (self.directory / "pid").unlink()
        with (self.directory / "log").open("ab") as log:
            # A session of its own: Ctrl-C at the tests' terminal must not end it before the containers are
            # removed.
            self._daemon = subprocess.Popen(
                self.nsenter_argv(
                    "dockerd",
                    *("--data-root", str(self.directory / "data")),
                    *("--exec-root", str(self.directory / "exec")),
                    *("--host", self.url, "--pidfile", str(self.directory / "pid")),
                    *("--log-level", "warn", *self._cgroup_options()),
                    *self._daemon_args,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "the private dockerd answers", _START_SECONDS)

    def _cgroup_options(self) -> tuple[str, ...]:
        if _SYSTEMD:
            return "--exec-opt", "native.cgroupdriver=systemd"
        return "--cgroup-parent", f"/{self.name}/docker"

    def _answers(self) -> bool:
        if self._daemon is None or self._daemon.poll() is not None:
            raise EngineError(f"the private dockerd ended:\n{self._log_tail()}")
        probe = ["docker", "--host", self.url, "version", "--format", "{{.Server.Version}}"]
        return (
            subprocess.run(probe, capture_output=True, timeout=_COMMAND_SECONDS, check=False).returncode == 0
        )

    def _log_tail(self) -> str:
        return "\n".join((self.directory / "log").read_text(errors="replace").splitlines()[-20:])

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Inside the block dockerd takes connections and never answers."""
        with frozen(self.daemon_pid):
            yield

    def end_daemon(self) -> None:
        """End dockerd as its unit does; it takes the containers with it, unless `--live-restore`."""
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(_COMMAND_SECONDS)
        self._daemon = None

    def kill_daemon(self) -> None:
        """`kill -9` dockerd; its containerd ends with it, shims and containers live on."""
        os.kill(self.daemon_pid, signal.SIGKILL)
        if self._daemon is not None:
            self._daemon.wait()
        self._daemon = None
        # Until PID 1 has reaped containerd, which may take it long, its pid counts as alive for the next
        # dockerd.
        pidfile = self.directory / "exec/containerd/containerd.pid"
        containerd = int(pidfile.read_text())
        wait_until(lambda: has_ended(containerd), "the containerd of a killed dockerd ended")
        pidfile.unlink()

    def stop(self) -> None:
        """Remove containers, processes, mounts, namespace, cgroups, files; at any point, more than once."""
        daemon, self._daemon = self._daemon, None
        if daemon is not None and daemon.poll() is None:
            daemon.send_signal(signal.SIGCONT)
            with contextlib.suppress(EngineError, subprocess.TimeoutExpired):
                self.rm(*self.cli("ps", "-aq").split())
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        # What a killed dockerd left behind, in the order in which one holds the other.
        self._end_processes()
        remove_cgroups(self.name)
        unmount_below(self.directory)
        if self.netns.exists():
            call(["ip", "netns", "delete", self.name])
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.stop)

    def _end_processes(self) -> None:
        """End containerd, its shims and their runc, and what still runs in the containers.

        The former name this engine's directory in their command lines, the latter are in its containers' cgroups.
        """
        deadline = time.monotonic() + 20
        while (pids := self._processes()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _processes(self) -> list[int]:
        found = []
        containers = [self.cgroup(one.name) for one in (self.directory / "data/containers").glob("*")]
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                program = Path(os.fsdecode(words[0])).name
                ours = program.startswith(("containerd", "dockerd", "docker-proxy", "runc"))
                named = any(word.startswith(os.fsencode(self.directory) + b"/") for word in words)
                paths = (entry / "cgroup").read_text()
                inside = any(container in paths for container in containers)
            except OSError:
                continue  # it ended while we looked
            # A zombie has no command line; only its parent can end it.
            if words[0] and ((ours and named) or inside):
                found.append(int(entry.name))
        return found

    # Images

    def _import_busybox(self) -> None:
        root = self.directory / "busybox"
        make_busybox(root)
        self.import_image(root, BUSYBOX)

    def import_image(self, root: Path, tag: str) -> None:
        """Make an image of a directory."""
        archive = root.with_suffix(".tar")
        call(["tar", "-C", str(root), "-cf", str(archive), "."])
        self.cli("import", str(archive), tag)
        archive.unlink()
        shutil.rmtree(root)

    # Containers

    def cli(self, *args: str, timeout: float = _COMMAND_SECONDS) -> str:
        """What `docker ARGS` prints; errors as EngineError."""
        return call(["docker", "--host", self.url, *args], timeout=timeout)

    def run(self, *options: str, image: str = BUSYBOX, command: Sequence[str] = ("sleep", "86400")) -> str:
        """Start a container in the background; its full id. `--init` makes it end at once when stopped."""
        return self.cli("run", "--detach", "--init", *options, image, *command).strip()

    @contextlib.contextmanager
    def container(
        self, *options: str, image: str = BUSYBOX, command: Sequence[str] = ("sleep", "86400")
    ) -> Iterator[str]:
        """A container for the block, by its full id; removed afterwards."""
        container = self.run(*options, image=image, command=command)
        try:
            yield container
        finally:
            self.rm(container)

    def get(self, path: str) -> bytes:
        """The body that the engine's API answers to GET; errors as EngineError."""
        return self._request("GET", path, None)

    def create(self, body: bytes) -> str:
        """Create and start a container from the API's own description of it; its full id."""
        container: str = json.loads(self._request("POST", "/containers/create", body))["Id"]
        self._request("POST", f"/containers/{container}/start", None)
        return container

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = HTTPConnection("localhost", timeout=_COMMAND_SECONDS)
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(self.socket))
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise EngineError(
                f"{method} {path}: status {response.status}: {content.decode(errors='replace')}"
            )
        return content

    def exec(self, container: str, *argv: str, detach: bool = False) -> str:
        """What a command prints inside a container."""
        return self.cli("exec", *(["--detach"] if detach else []), container, *argv)

    def rm(self, *containers: str) -> None:
        """Kill and remove containers; one that is gone already is fine."""
        if containers:
            self.cli("rm", "--force", "--volumes", *containers)

    def inspect(self, container: str) -> Any:
        """The decoded answer of `docker inspect`."""
        return json.loads(self.cli("inspect", container))[0]

    def cgroup(self, container: str) -> str:
        """The cgroup of a container that was given no parent, below the cgroup mounts; by its full id."""
        if _SYSTEMD:
            return f"/system.slice/docker-{container}.scope"
        return f"/{self.name}/docker/{container}"

    def pid(self, container: str) -> int:
        """The container's first process, as the host numbers it."""
        return int(self.inspect(container)["State"]["Pid"])

    def nsenter_argv(self, *argv: str) -> list[str]:
        """The command, to be run in the engine's network namespace.

        Not `ip netns exec`: that mounts a new /sys, without the cgroups.
        """
        return ["nsenter", f"--net={self.netns}", *argv]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for something that happens by itself.

    Raises:
        EngineError: it did not happen.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise EngineError(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(0.02)


def make_busybox(root: Path) -> None:
    """A root directory with nothing but busybox and its commands."""
    (root / "bin").mkdir(parents=True)
    shutil.copy2(shutil.which("busybox") or "", root / "bin/busybox")
    call([str(root / "bin/busybox"), "--install", "-s", str(root / "bin")])
    # The links were made to the path outside; inside there is only /bin.
    for link in (root / "bin").iterdir():
        if link.is_symlink():
            link.unlink()
            link.symlink_to("busybox")
    for directory in ("tmp", "etc", "root", "var"):
        (root / directory).mkdir()


def removed(directory: Path) -> bool:
    """Whether a cgroup is gone, now that it was tried: it stays as long as a process is in it."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_cgroups(name: str, patience: float = 20.0) -> None:
    """Remove a top-level cgroup and those below it, in every hierarchy, as far as nothing runs there.

    A process that ends is in its cgroup still when nothing else is left to see of it: such a one is waited for.
    """
    deadline = time.monotonic() + patience
    while True:
        tops = sorted(_CGROUP_ROOT.glob(f"*/{name}")) + sorted(_CGROUP_ROOT.glob(name))
        for top in tops:
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()
        if not any(top.exists() for top in tops) or time.monotonic() > deadline:
            return
        time.sleep(0.05)


def unmount_below(directory: Path) -> None:
    """Unmount everything that is mounted below a directory."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process stands still inside the block.

    The signal is only an order: until one thread has taken it, the others go on and may even answer.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: _stands_still(pid), f"process {pid} stands still")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _stands_still(pid: int) -> bool:
    try:
        return all(_state(thread) == "T" for thread in Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False  # a thread ended while we looked


def _state(process: Path) -> str:
    """The state letter of a process or thread (proc(5), stat field 3)."""
    return (process / "stat").read_text().rpartition(")")[2].split()[0]


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        return _state(Path(f"/proc/{pid}")) == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def call(argv: Sequence[str], timeout: float = _COMMAND_SECONDS, env: Mapping[str, str] | None = None) -> str:
    """What a program prints.

    Raises:
        EngineError: it failed; with all that it printed.
    """
    done = subprocess.run(argv, capture_output=True, timeout=timeout, check=False, env=env)
    if done.returncode != 0:
        text = (done.stdout + done.stderr).decode(errors="replace")
        raise EngineError(f"{' '.join(argv)}: exit {done.returncode}\n{text}")
    return done.stdout.decode(errors="replace")
