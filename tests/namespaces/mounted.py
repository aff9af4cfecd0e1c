"""Processes with mounts of their own for tests, and file systems whose server does what the test wants."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tests.namespaces.lab import Box, eventually, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GETATTR, _STATFS, _INIT = 3, 17, 26
_REQUEST = struct.Struct("=IIQQIIIHH")
_ANSWER = struct.Struct("=IiQ")
_DIRECTORY = 0o40755


class Mounts(Box):
    """A process in a mount namespace of its own, whose root is that of the host: as much of a container as needed."""

    def __init__(self) -> None:
        home = os.stat("/proc/self/ns/mnt").st_ino
        self._process = subprocess.Popen(["unshare", "--mount", "sleep", "3600"])
        pid = self._process.pid
        eventually(
            lambda: (
                os.stat(f"/proc/{pid}/ns/mnt").st_ino != home
                and "unshare" not in os.readlink(f"/proc/{pid}/exe")
                and os.readlink(f"/proc/{pid}/exe") != os.readlink(f"/proc/{os.getpid()}/exe")
            ),
            "a process in a new mount namespace",
        )
        super().__init__(pid)

    def run(self, *command: str, pass_fds: tuple[int, ...] = ()) -> str:
        """Run a program among its mounts."""
        whole = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", *command]
        done = subprocess.run(
            whole, check=False, capture_output=True, text=True, timeout=120, pass_fds=pass_fds
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def end(self) -> None:
        """Kill the process; its mounts go with it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def mounts() -> Iterator[Mounts]:
    """A process with mounts of its own for the length of a test."""
    made = Mounts()
    try:
        yield made
    finally:
        made.end()


class FuseServer:
    """A file system with nothing but a root directory, answered from a thread of the test, or not at all.

    Attributes:
        statfs: what it says of its size: blocks, free, available, inodes, free inodes; of 4096 bytes each.
        asked: how often statfs was asked.
    """

    def __init__(self, box: Mounts, where: str) -> None:
        self.statfs = (1000, 400, 300, 50, 20)
        self.asked = 0
        self._answers = threading.Event()
        self._answers.set()
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        self._ended, self._end = os.pipe()
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        box.run("mkdir", "-p", where)
        box.run("mount", "-i", "-t", "fuse.test", "-o", options, "x", where, pass_fds=(self._fd,))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def hang(self) -> None:
        """Take questions and answer none of them."""
        self._answers.clear()

    def go_on(self) -> None:
        """Answer what was asked meanwhile, and everything from now on."""
        self._answers.set()

    def end(self) -> None:
        """Go away; whoever waits gets an error."""
        os.write(self._end, b"x")
        self._answers.set()
        self._thread.join()
        for fd in (self._fd, self._ended, self._end):
            os.close(fd)

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._fd, self._ended], [], [])
            if self._ended in ready:
                return
            with suppress(BlockingIOError, FileNotFoundError):
                request = os.read(self._fd, 1 << 17)
                _, opcode, unique, *_ = _REQUEST.unpack_from(request)
                self.asked += opcode == _STATFS
                if opcode != _INIT:
                    self._answers.wait()
                body = self._body(opcode)
                error = 0 if body is not None else -38  # ENOSYS
                answer = body or b""
                os.write(self._fd, _ANSWER.pack(_ANSWER.size + len(answer), error, unique) + answer)

    def _body(self, opcode: int) -> bytes | None:
        if opcode == _INIT:
            return struct.pack("=IIIIHHII", 7, 31, 0, 0, 0, 0, 4096, 1) + bytes(36)
        if opcode == _STATFS:
            return struct.pack("=QQQQQIIII24x", *self.statfs, 4096, 255, 4096, 0)
        if opcode == _GETATTR:
            attributes = struct.pack(
                "=QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, _DIRECTORY, 2, 0, 0, 0, 4096, 0
            )
            return struct.pack("=QII", 0, 0, 0) + attributes
        return None


@contextmanager
def fuse(box: Mounts, where: str) -> Iterator[FuseServer]:
    """A FUSE file system for the length of a test."""
    server = FuseServer(box, where)
    try:
        yield server
    finally:
        server.end()


@contextmanager
def ext4(image: Path, box: Mounts, where: str, size: str = "8M") -> Iterator[None]:
    """An ext4 file system in a file, mounted in a loop."""
    run("truncate", "-s", size, str(image))
    run("mkfs.ext4", "-q", "-N", "64", str(image))
    box.run("mkdir", "-p", where)
    box.run("mount", "-o", "loop", str(image), where)
    try:
        yield
    finally:
        box.run("umount", "--lazy", where)
