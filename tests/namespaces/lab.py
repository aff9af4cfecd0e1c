"""Real network namespaces for tests: a process that lives in one, veths, sockets inside, what `ss` says."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
import time
import warnings
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from falcon_agent.collectors.base import Target
from falcon_agent.container import CgroupPaths, Container
from falcon_agent.procfs.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str) -> str:
    """Run a program to its end and return what it printed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until something is so, for half a minute at least; it fails only where it never becomes so."""
    for _ in range(1500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError(f"never came true: {what}")


def on_thread(before: Callable[[], object], call: Callable[[], T]) -> T:
    """Run `before`, which changes the thread, and then a call, on a thread that ends with it."""
    result: Future[T] = Future()

    def work() -> None:
        try:
            before()
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001  raised again where the test waits
            result.set_exception(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return result.result()


def inside(namespace: str, call: Callable[[], T]) -> T:
    """Run a call in the network namespace at a path."""

    def enter() -> None:
        fd = os.open(namespace, os.O_RDONLY)
        try:
            assert _libc.setns(fd, 0x40000000) == 0
        finally:
            os.close(fd)

    return on_thread(enter, call)


class Box:
    """The network namespace of a process that somebody else started, a container's for one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.inode = os.stat(f"/proc/{pid}/ns/net").st_ino

    def run(self, *command: str) -> str:
        """Run a program inside."""
        return run("nsenter", f"--net=/proc/{self.pid}/ns/net", *command)

    def inside(self, call: Callable[[], T]) -> T:
        """Run a call inside."""
        return inside(f"/proc/{self.pid}/ns/net", call)

    def socket(self, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        """A TCP socket of this namespace."""
        return self.inside(lambda: socket.socket(family, socket.SOCK_STREAM))

    def ss(self, state: str) -> int:
        """How many TCP sockets `ss` finds in a state."""
        return len(self.run("ss", "-Htan", "state", state).splitlines())

    def read(self, name: str) -> bytes:
        """A file below /proc/PID of the process."""
        with open(f"/proc/{self.pid}/{name}", "rb") as file:
            return file.read()


class Netns(Box):
    """A process in a network namespace of its own, loopback up: as much of a container as needed here."""

    def __init__(self) -> None:
        home = os.stat("/proc/self/ns/net").st_ino
        self._process = subprocess.Popen(["unshare", "--net", "sleep", "3600"])
        pid = self._process.pid
        # The pid stays the same through the exec, so wait for both to have happened.
        eventually(
            lambda: (
                os.stat(f"/proc/{pid}/ns/net").st_ino != home
                and os.readlink(f"/proc/{pid}/exe") != os.readlink(f"/proc/{os.getpid()}/exe")
                and "unshare" not in os.readlink(f"/proc/{pid}/exe")
            ),
            "a process in a new network namespace",
        )
        super().__init__(pid)
        self.run("ip", "link", "set", "lo", "up")

    def end(self) -> None:
        """Kill the process; without it the namespace goes away, unless somebody holds it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def netns() -> Iterator[Netns]:
    """A namespace for the length of a test."""
    made = Netns()
    try:
        yield made
    finally:
        made.end()


def veth(host: str, container: Box, name: str, peer: Box | None = None) -> None:
    """A veth pair, up: `host` here (or in namespace `peer`), `name` in the container."""
    if peer is None:
        run("ip", "link", "add", host, "type", "veth", "peer", "name", name, "netns", str(container.pid))
        run("ip", "link", "set", host, "up")
    else:
        container.run("ip", "link", "add", name, "type", "veth", "peer", "name", host, "netns", str(peer.pid))
        peer.run("ip", "link", "set", host, "up")
    container.run("ip", "link", "set", name, "up")


@contextmanager
def target(container: Box, name: str = "c", **more: Any) -> Iterator[Target]:
    """The namespace's process as collectors are given it, with `more` that is known of the container."""
    process = Process("/proc", container.pid)
    try:
        known = Container(
            id=name,
            name=name,
            runtime="test",
            pid=container.pid,
            starttime=process.starttime(),
            cgroup=CgroupPaths({}, "/"),
            netns=container.inode,
            **more,
        )
        yield Target(known, process, cast("Any", None))
    finally:
        process.close()


def drop_capability(number: int) -> None:
    """Take a capability from the calling thread, and from nobody else (capset(2))."""
    header = struct.pack("=Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    assert _libc.capget(header, data) == 0
    words = list(struct.unpack("=6I", data.raw))
    word = 3 * (number // 32)
    words[word] &= ~(1 << number % 32)  # effective
    words[word + 1] &= ~(1 << number % 32)  # permitted
    assert _libc.capset(header, struct.pack("=6I", *words)) == 0


def in_child(call: Callable[[], object], *, before: Callable[[], None]) -> str:
    """What `call` returns, or the error it raises, as text, in a child that gave up something `before`."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads; this child calls little and leaves by _exit.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            try:
                before()
                answer = str(call())
            except Exception as error:  # noqa: BLE001  the answer is about it
                answer = repr(error)
            os.write(writing, answer.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def without_capability(number: int, call: Callable[[], T]) -> T:
    """Run a call on a thread that gave up a capability."""
    return on_thread(lambda: drop_capability(number), call)


def become_first_of_a_pid_namespace() -> None:
    """For `in_child`: the children of this process begin a new pid namespace; /proc stays what it is."""
    assert _libc.unshare(0x20000000) == 0


def become_nobody() -> None:
    """Give up every privilege."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def open_descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


def descriptors() -> set[tuple[str, str]]:
    """Those this process has, each with what it leads to.

    What an earlier test left behind may be closed at any moment. So who left nothing open is not known by their number,
    but by having all of them among those that were there before.
    """
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one by which they are listed, for one
            # Files of procfs are called deleted from some moment on that says nothing.
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")))
    return found


class Pair:
    """Two namespaces joined by a veth, with addresses of both families, for TCP sockets of every state."""

    V4 = ("10.231.0.1", "10.231.0.2")
    V6 = ("fd00:231::1", "fd00:231::2")

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.near = stack.enter_context(netns())
        self.far = stack.enter_context(netns())
        veth("eth0", self.near, "eth0", self.far)
        for side, v4, v6 in zip((self.near, self.far), self.V4, self.V6, strict=True):
            side.run("ip", "address", "add", f"{v4}/24", "dev", "eth0")
            side.run("ip", "address", "add", f"{v6}/64", "dev", "eth0", "nodad")

    def keep(self, made: socket.socket) -> socket.socket:
        """Close a socket when the test ends, if not before."""
        self._stack.callback(made.close)
        return made

    def listen(self, side: Netns, port: int, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        """A listening socket on one side."""
        made = self.keep(side.socket(family))
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(("", port))
        made.listen(50)
        return made

    def connection(
        self, port: int, family: socket.AddressFamily = socket.AF_INET
    ) -> tuple[socket.socket, socket.socket]:
        """A connection from the near side to a port of the far side: both its ends."""
        listening = self.listen(self.far, port, family)
        near = self.keep(self.near.socket(family))
        near.settimeout(60)
        near.connect(((self.V6 if family == socket.AF_INET6 else self.V4)[1], port))
        far = self.keep(listening.accept()[0])
        listening.close()
        return near, far

    def drop(self, side: Netns, *match: str) -> None:
        """Let packets vanish on their way out of a side, of both families."""
        for program in ("iptables", "ip6tables"):
            side.run(program, "-w", "-A", "OUTPUT", "-p", "tcp", *match, "-j", "DROP")
