"""What is kept of a process goes when it ends, and not when somebody looks next."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from falcon_agent.errors import GoneError
from falcon_agent.procfs.endings import Endings
from falcon_agent.procfs.process import Process
from falcon_agent.procfs.sockstat import parse_sockstat
from tests.collectors.traffic import exists, host_name
from tests.namespaces.lab import Netns, descriptors, eventually, netns, veth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real

SOCKSTAT = "net/sockstat"


@pytest.fixture
def endings() -> Iterator[Endings]:
    made = Endings("/proc")
    yield made
    made.close()


@pytest.fixture
def box() -> Iterator[Netns]:
    with netns() as made:
        yield made


def own(sockstat: bytes) -> tuple[int, int, int]:
    """What it says of the namespace; the rest is of the whole host, where others come and go."""
    found = parse_sockstat(sockstat)
    return found.sockets_used, found.tcp_inuse, found.udp_inuse


def test_files_stay_open_and_are_read_anew(endings: Endings, box: Netns) -> None:
    process = Process("/proc", box.pid)
    assert endings.watch(process)
    # The kernel lets go of sockets a moment after they were closed, here of those that made the namespace.
    eventually(lambda: own(process.read_record(SOCKSTAT)) == (0, 0, 0), "no socket is left")
    opened = descriptors()
    with box.socket():
        assert own(process.read_record(SOCKSTAT)) == own(box.read(SOCKSTAT)) == (1, 0, 0)
    eventually(lambda: own(process.read_record(SOCKSTAT)) == (0, 0, 0), "no socket is left again")
    assert descriptors() <= opened
    assert process.still_runs()
    endings.forget(process)
    process.close()


def test_the_namespace_of_a_dead_container_is_not_held(endings: Endings, box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    process = Process("/proc", box.pid)
    endings.watch(process)
    process.read_record(SOCKSTAT)
    process.read_record("net/sockstat6")
    box.end()
    # Nobody looks; the thread lets go.
    eventually(lambda: not exists(name), "a veth that vanished")
    assert not process.still_runs()
    with pytest.raises(GoneError):
        process.read_record(SOCKSTAT)
    process.close()


def test_a_socket_stays_open_and_is_used_again(endings: Endings, box: Netns) -> None:
    process = Process("/proc", box.pid)
    endings.watch(process)
    made: list[socket.socket] = []

    def make() -> socket.socket:
        made.append(box.socket())
        return made[-1]

    def fail(_: socket.socket) -> int:
        raise TimeoutError

    numbers = [process.use_socket("tcp", make, socket.socket.fileno) for _ in range(3)]
    assert numbers == [made[0].fileno()] * 3
    # Who knows what may still come on it: the next question gets another.
    with pytest.raises(TimeoutError):
        process.use_socket("tcp", make, fail)
    assert made[0].fileno() == -1
    assert process.use_socket("tcp", make, socket.socket.fileno) == made[1].fileno()
    with pytest.raises(TimeoutError):
        process.use_socket("another", make, fail)
    assert [one.fileno() == -1 for one in made] == [True, False, True]
    assert process.use_socket("tcp", make, socket.socket.fileno) == made[1].fileno()
    process.close()
    assert made[1].fileno() == -1
    endings.forget(process)


def test_a_kept_socket_does_not_hold_a_dead_container(endings: Endings, box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    process = Process("/proc", box.pid)
    endings.watch(process)
    process.use_socket("tcp", box.socket, socket.socket.fileno)
    box.end()
    eventually(lambda: not exists(name), "a veth that vanished")
    process.close()


def test_without_a_watch_nothing_is_kept(box: Netns) -> None:
    process = Process("/proc", box.pid)
    before = descriptors()
    process.read_record(SOCKSTAT)
    assert process.use_socket("tcp", box.socket, socket.socket.fileno) > 0
    assert descriptors() <= before
    process.close()


def test_one_that_has_ended_is_gone(endings: Endings) -> None:
    with subprocess.Popen(["sleep", "60"]) as ended:
        process = Process("/proc", ended.pid)
        ended.kill()
    before = descriptors()
    with pytest.raises(GoneError):
        endings.watch(process)
    assert descriptors() <= before
    process.close()


def test_a_number_that_belongs_to_another_is_not_watched(endings: Endings) -> None:
    with subprocess.Popen(["sleep", "60"]) as ended, subprocess.Popen(["sleep", "60"]) as other:
        process = Process("/proc", ended.pid)
        ended.kill()
        ended.wait()
        process.pid = other.pid  # as if it had been given again
        with pytest.raises(GoneError):
            endings.watch(process)
        process.close()
        other.kill()


def test_where_pids_are_others_nothing_is_watched(tmp_path: Path, box: Netns) -> None:
    # No procfs whose reader numbers processes as we do.
    endings = Endings(str(tmp_path))
    process = Process("/proc", box.pid)
    assert not endings.watch(process)
    before = descriptors()
    process.read_record(SOCKSTAT)
    assert descriptors() <= before
    process.close()
    endings.close()


def test_closing_leaves_no_thread_and_no_descriptor(box: Netns) -> None:
    before = descriptors()
    endings = Endings("/proc")
    many = [Process("/proc", box.pid) for _ in range(50)]
    for process in many:
        assert endings.watch(process)
        process.read_record(SOCKSTAT)
    for process in many[:20]:
        endings.forget(process)
        process.close()
    endings.close()
    for process in many:
        process.close()
    assert descriptors() <= before
    endings.close()
