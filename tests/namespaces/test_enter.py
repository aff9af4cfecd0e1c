from __future__ import annotations

import contextlib
import gc
import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from falcon_agent.errors import GoneError, KernelFileError
from falcon_agent.namespaces.enter import NetworkNamespaces, UtsNamespaces
from falcon_agent.procfs.process import Process
from tests.collectors.traffic import host_name
from tests.namespaces.lab import (
    Netns,
    become_nobody,
    drop_capability,
    eventually,
    in_child,
    netns,
    open_descriptors,
    veth,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real

CAP_SYS_ADMIN = 21
HOME = os.stat("/proc/self/ns/net").st_ino


@pytest.fixture
def box() -> Iterator[Netns]:
    with netns() as made:
        yield made


@pytest.fixture
def process(box: Netns) -> Iterator[Process]:
    made = Process("/proc", box.pid)
    yield made
    made.close()


def where() -> tuple[int, int]:
    """The namespace of the calling thread, and the thread."""
    return os.stat("/proc/thread-self/ns/net").st_ino, threading.get_native_id()


def namespaces_of_all_threads() -> set[int]:
    found = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that ended while we looked
            found.add(os.stat(f"/proc/self/task/{task}/ns/net").st_ino)
    return found


def all_are_home() -> None:
    """Wait for it: a thread of an earlier test may be on its last steps, and in another namespace."""
    eventually(lambda: namespaces_of_all_threads() == {HOME}, "all threads are at home")


def test_only_the_call_is_inside(box: Netns, process: Process) -> None:
    namespaces = NetworkNamespaces()
    inode, thread = namespaces.run(where, process.fd, process.path, box.inode)
    assert inode == box.inode != HOME
    assert thread != threading.get_native_id()
    assert where()[0] == HOME
    assert os.stat(f"/proc/self/task/{thread}/ns/net").st_ino == HOME
    assert namespaces.run(where, process.fd, process.path) == (inode, thread)


def test_an_error_inside_is_the_callers_and_the_thread_goes_home(box: Netns, process: Process) -> None:
    namespaces = NetworkNamespaces()

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        namespaces.run(fail, process.fd, process.path)
    all_are_home()
    assert namespaces.run(where, process.fd, process.path)[0] == box.inode


def test_not_even_leaving_the_program_keeps_the_thread_there(process: Process) -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        NetworkNamespaces().run(leave, process.fd, process.path)
    all_are_home()


def test_another_namespace_than_expected_is_not_entered(box: Netns, process: Process) -> None:
    entered = []
    with pytest.raises(KernelFileError, match="not in network namespace 1 any more"):
        NetworkNamespaces().run(lambda: entered.append(1), process.fd, process.path, 1)
    assert not entered


def test_a_process_that_ended(box: Netns, process: Process) -> None:
    box.end()
    with pytest.raises(GoneError):
        NetworkNamespaces().run(where, process.fd, process.path, box.inode)


def test_a_thread_that_cannot_go_home_never_works_again(box: Netns, process: Process) -> None:
    namespaces = NetworkNamespaces()

    def lose_the_way() -> int:
        drop_capability(CAP_SYS_ADMIN)  # setns needs it, and a thread has its own
        return threading.get_native_id()

    lost = namespaces.run(lose_the_way, process.fd, process.path)
    inode, thread = namespaces.run(where, process.fd, process.path)
    assert inode == box.inode
    assert thread != lost
    eventually(lambda: str(lost) not in os.listdir("/proc/self/task"), "the end of the lost thread")
    all_are_home()


def test_a_call_that_hangs_keeps_out_those_after_it_until_it_returns(box: Netns, process: Process) -> None:
    namespaces = NetworkNamespaces(timeout=0.2)
    go_on = threading.Event()
    before = set(threading.enumerate())
    with pytest.raises(KernelFileError, match="did not end in time"):
        namespaces.run(go_on.wait, process.fd, process.path)
    for _ in range(3):
        with pytest.raises(KernelFileError, match="still hangs"):
            namespaces.run(where, process.fd, process.path)
    assert len(set(threading.enumerate()) - before) == 1
    go_on.set()

    def works() -> bool:
        try:
            return namespaces.run(where, process.fd, process.path)[0] == box.inode
        except KernelFileError:
            return False

    eventually(works, "a call after the one that hung")
    all_are_home()


def test_without_privilege(process: Process) -> None:
    answer = in_child(lambda: NetworkNamespaces().run(where, process.fd, process.path), before=become_nobody)
    assert answer.startswith("DeniedError")
    assert "/ns/net" in answer


def test_allowed_to_look_but_not_to_enter(process: Process) -> None:
    answer = in_child(
        lambda: NetworkNamespaces().run(where, process.fd, process.path),
        before=lambda: drop_capability(CAP_SYS_ADMIN),
    )
    assert answer.startswith("DeniedError")


def test_a_socket_made_inside_works_outside(box: Netns, process: Process) -> None:
    def listen() -> socket.socket:
        made = socket.socket()
        made.bind(("127.0.0.1", 7000))
        made.listen()
        return made

    with NetworkNamespaces().run(listen, process.fd, process.path):
        assert box.ss("listening") == 1
    assert box.ss("listening") == 0


def test_a_thousand_calls_leave_nothing_open(process: Process) -> None:
    namespaces = NetworkNamespaces()
    namespaces.run(where, process.fd, process.path)
    # Threads of earlier tests may still be ending, hence at most as many.
    descriptors, threads = open_descriptors(), threading.active_count()
    for _ in range(1000):
        namespaces.run(where, process.fd, process.path)
        with pytest.raises(KernelFileError):
            namespaces.run(where, process.fd, process.path, 1)
    assert open_descriptors() <= descriptors
    assert threading.active_count() <= threads


def test_no_thread_can_be_made(box: Netns, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    namespaces = NetworkNamespaces()
    before = open_descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(KernelFileError, match="can't start new thread"):
            namespaces.run(where, process.fd, process.path)
    assert open_descriptors() <= before
    assert namespaces.run(where, process.fd, process.path)[0] == box.inode


def test_the_thread_ends_with_its_owner(process: Process) -> None:
    gc.collect()
    before = open_descriptors()
    namespaces = NetworkNamespaces()
    _, thread = namespaces.run(where, process.fd, process.path)
    del namespaces
    gc.collect()
    eventually(lambda: str(thread) not in os.listdir("/proc/self/task"), "the end of the thread")
    assert open_descriptors() <= before


@pytest.mark.parametrize("call", [where, lambda: 1 // 0], ids=["returns", "raises"])
def test_a_dead_namespace_is_not_held(box: Netns, process: Process, call: Callable[[], object]) -> None:
    name = host_name()
    veth(name, box, "eth0")
    namespaces = NetworkNamespaces()
    with contextlib.suppress(ZeroDivisionError):
        namespaces.run(call, process.fd, process.path)
    box.end()
    eventually(lambda: name not in {known for _, known in socket.if_nameindex()}, "a veth that vanished")


def test_a_uts_namespace_and_nothing_else() -> None:
    script = "hostname inside-uts; exec sleep 3600"
    with subprocess.Popen(["unshare", "--uts", "--net", "sh", "-c", script]) as child:
        process = Process("/proc", child.pid)
        try:
            namespaces = UtsNamespaces()
            eventually(
                lambda: namespaces.run(socket.gethostname, process.fd, process.path) == "inside-uts",
                "the hostname inside",
            )
            inode = process.namespace_inode("uts")
            assert namespaces.run(where, process.fd, process.path, inode)[0] == HOME
            assert socket.gethostname() != "inside-uts"
            with pytest.raises(
                KernelFileError, match="ns/uts: the process is not in UTS namespace 1 any more"
            ):
                namespaces.run(where, process.fd, process.path, 1)
        finally:
            process.close()
            child.kill()
