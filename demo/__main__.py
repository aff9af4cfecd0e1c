"""Shows the main job: collect from live containers, then run the agent against the built-in receiver."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from demo import throwaway

if TYPE_CHECKING:
    from collections.abc import Iterator

_AGENT = str(Path(sys.executable).with_name("falcon-agent"))
_STEP = 2
_DOCKER_SOCKET = "/var/run/docker.sock"
_IMAGE = "falcon-agent-demo:latest"
_TIMEOUT = 30


def main() -> int:
    """Run the demo; returns the exit code."""
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        if _docker_answers():
            _say("Docker answers: two containers with connections, CPU work and limits")
            stack.enter_context(_docker_containers())
        else:
            _say(
                "No Docker here: two throw-away containers out of namespaces and cgroups, which no runtime knows"
            )
            stack.enter_context(_plain_containers())
            environment["FALCON_AGENT__DISCOVERY__RUNTIMES"] = "cgroups"
        time.sleep(1)
        _say("falcon-agent containers")
        subprocess.run([_AGENT, "containers"], check=True, env=environment, timeout=_TIMEOUT)
        _say("falcon-agent collect --dry-run")
        subprocess.run(
            [_AGENT, "collect", "--dry-run", "--table"], check=True, env=environment, timeout=_TIMEOUT
        )
        _say(f"falcon-agent run, step {_STEP} s, two cycles, pushing to falcon-agent receive")
        return _run_and_receive(environment)


def _run_and_receive(environment: dict[str, str]) -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spool = tempfile.TemporaryDirectory(prefix="falcon-agent-demo-")
    environment["FALCON_AGENT__SPOOL__DIRECTORY"] = spool.name
    environment["FALCON_AGENT__AGENT__STEP"] = str(_STEP)
    environment["FALCON_AGENT__TRANSFER__ADDRESSES"] = f"http://127.0.0.1:{port}/api/push"
    # A real graph would raise the short step of this demo, and drop most of its points.
    receiver = subprocess.Popen(
        [_AGENT, "receive", "--min-step", str(_STEP), "--listen", f"127.0.0.1:{port}"]
    )
    _wait_for(port)
    agent = subprocess.Popen([_AGENT, "run"], env=environment)
    # The first report at once, then two at multiples of the step.
    time.sleep(1 + 3 * _STEP)
    codes = []
    for process in (agent, receiver):
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait(timeout=_TIMEOUT))
    spool.cleanup()
    return max(codes)


def _wait_for(port: int) -> None:
    until = time.monotonic() + _TIMEOUT
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"cannot reach the receiver on port {port}")


def _say(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}== {text}{plain}\n", flush=True)


def _docker_answers() -> bool:
    command = ["docker", "-H", f"unix://{_DOCKER_SOCKET}", "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=5).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextlib.contextmanager
def _docker_containers() -> Iterator[None]:
    """Two containers from an image of one static busybox, and both gone again at the end."""
    docker = ["docker", "-H", f"unix://{_DOCKER_SOCKET}"]
    script = (
        "nc -ll -p 8000 -e cat & sleep 1; for n in 1 2 3; do sleep 600 | nc 127.0.0.1 8000 >/dev/null & done;"
        " while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1; done"
    )
    names = [f"falcon-demo-{what}-{os.getpid()}" for what in ("web", "worker")]
    with tempfile.TemporaryDirectory() as directory:
        binaries = Path(directory, "bin")
        binaries.mkdir()
        busybox = binaries / "busybox"
        busybox.write_bytes(Path("/bin/busybox").read_bytes())
        busybox.chmod(0o755)
        for name in ("sh", "nc", "sleep", "cat"):
            (binaries / name).symlink_to("busybox")
        image = subprocess.run(["tar", "-C", directory, "-c", "."], check=True, capture_output=True).stdout
    subprocess.run([*docker, "import", "-", _IMAGE], input=image, check=True, stdout=subprocess.DEVNULL)
    try:
        for name in names:
            limits = ["--memory", "64m", "--cpus", "0.5"]
            started = [*docker, "run", "-d", "--name", name, *limits, _IMAGE, "/bin/sh", "-c", script]
            subprocess.run(started, check=True, stdout=subprocess.DEVNULL, timeout=_TIMEOUT)
        time.sleep(1)
        yield
    finally:
        for name in names:
            subprocess.run([*docker, "rm", "-f", name], check=False, capture_output=True, timeout=_TIMEOUT)
        subprocess.run([*docker, "rmi", "-f", _IMAGE], check=False, capture_output=True, timeout=_TIMEOUT)


@contextlib.contextmanager
def _plain_containers() -> Iterator[None]:
    """Two containers without a runtime, and traffic to the first of them."""
    mebibyte = 1024 * 1024
    web = throwaway.start("web", 0, busy=0.3, cores=0.5, memory=64 * mebibyte)
    with throwaway.running(web):
        worker = throwaway.start("worker", 1, busy=0.1)
        with throwaway.running(worker):
            stop = threading.Event()
            talk = threading.Thread(target=_talk, args=(web.address, stop), daemon=True)
            talk.start()
            try:
                yield
            finally:
                stop.set()
                talk.join()


def _talk(address: str, stop: threading.Event) -> None:
    """Send something to the container every tenth of a second, so that its interface has traffic."""
    while not stop.is_set():
        with contextlib.suppress(OSError), socket.create_connection((address, 8000), 1) as connection:
            connection.settimeout(1)
            while not stop.wait(0.1):
                connection.sendall(b"x" * 1000)
                connection.recv(65536)


if __name__ == "__main__":
    sys.exit(main())
