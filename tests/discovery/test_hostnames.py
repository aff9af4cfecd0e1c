"""Names from UTS namespaces: real ones, and what may be in them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from falcon_agent.container import CgroupPaths, Container, Pod
from falcon_agent.discovery.cgroups import CgroupRuntime
from falcon_agent.discovery.hostnames import Hostnames, name_by_hostname
from falcon_agent.procfs.process import Process
from tests.namespaces.lab import become_nobody, in_child
from tests.real.engine import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.engine import Engine

A, B, C = (digits * 8 for digits in ("3f4c0a1b", "5e6d7c8b", "9a8b7c6d"))

# sethostname(2) takes any bytes, which hostname(1) does not.
SET = """
import ctypes, os, sys
name = os.fsencode(sys.argv[1])
assert ctypes.CDLL(None).sethostname(name, len(name)) == 0
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def named(hostname: str) -> Iterator[Process]:
    """A process in a UTS namespace of its own."""
    argv = ["unshare", "--uts", sys.executable, "-c", SET, hostname]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = Process("/proc", child.pid)
        try:
            yield process
        finally:
            process.close()
            child.kill()


@pytest.mark.real
@pytest.mark.parametrize("hostname", ["web", "web-1.example.org", "a", "shop_db", "W3", "x" * 64])
def test_names_of_hosts(hostname: str) -> None:
    with named(hostname) as process:
        assert Hostnames("/proc").read(process) == hostname


@pytest.mark.real
@pytest.mark.parametrize(
    "hostname",
    [
        *(
            "",
            "-web",
            "web-",
            ".",
            "a b",
            "web\n",
            "a=b,c=d",
            "\x1b[2J",
            "../../etc",
            "bücher",
            "\udcff\udcfe",
        ),
        # Docker's and podman's way to say that nobody named it.
        "3f4c0a1b3f4c",
        os.uname().nodename,
    ],
)
def test_what_is_no_name(hostname: str) -> None:
    with named(hostname) as process:
        assert Hostnames("/proc").read(process) is None


@pytest.mark.real
def test_the_hosts_own_is_not_the_containers() -> None:
    process = Process("/proc", os.getpid())
    try:
        assert Hostnames("/proc").read(process) is None
    finally:
        process.close()


@pytest.mark.real
def test_without_privilege_there_is_none() -> None:
    with named("web") as process:
        assert in_child(lambda: Hostnames("/proc").read(process), before=become_nobody) == "None"


@pytest.mark.real
def test_an_ended_process_has_none() -> None:
    hostnames = Hostnames("/proc")
    with named("web") as process:
        assert hostnames.read(process) == "web"
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: hostnames.read(process) is None, "it is gone")


def container(id_: str, starttime: int, pod: Pod | None = None) -> Container:
    return Container(id_, id_[:12], "docker", starttime, starttime, CgroupPaths({}, "/"), pod=pod)


def names(*found: tuple[Container, str | None], taken: tuple[str, ...] = ()) -> dict[str, str]:
    return {one.id: one.name for one in name_by_hostname(found, taken)}


def test_the_older_one_has_the_name() -> None:
    found = (container(A, 3), "web"), (container(B, 1), "web"), (container(C, 2), None)
    assert names(*found) == {A: f"web-{A[:12]}", B: "web", C: C[:12]}


def test_a_name_that_is_given_stays_with_who_has_it() -> None:
    assert names((container(A, 1), "web"), taken=("web",)) == {A: f"web-{A[:12]}"}


def test_a_pods_hostname_is_the_pods_name() -> None:
    found = (container(A, 1, Pod("", "", "u")), "web-0"), (container(B, 2, Pod("", "", "u")), "web-0")
    named_ = name_by_hostname(found, ())
    assert [(one.name, one.pod) for one in named_] == [
        (A[:12], Pod("web-0", "", "u")),
        (B[:12], Pod("web-0", "", "u")),
    ]


@pytest.mark.real
def test_docker_containers_without_docker(docker_engine: Engine) -> None:
    runtime = CgroupRuntime("/proc", "/sys/fs/cgroup")

    def told() -> dict[str, str]:
        return {one.id: one.name for one in runtime.find().containers}

    # Containers of others may be called web.
    shared = f"web-{secrets.token_hex(4)}"
    with (
        docker_engine.container("--hostname", shared) as web,
        docker_engine.container("--hostname", shared) as second,
        docker_engine.container() as plain,
        docker_engine.container("--network", f"container:{plain}") as sharing,
        docker_engine.container("--uts", "host") as host,
        docker_engine.container("--hostname", f"shop-{shared}", "--cap-add", "SYS_ADMIN") as renamed,
    ):
        expected = {
            web: shared,
            second: f"{shared}-{second[:12]}",
            plain: plain[:12],
            sharing: sharing[:12],
            host: host[:12],
            renamed: f"shop-{shared}",
        }
        wait_until(lambda: expected.items() <= told().items(), "all are named")
        # What it calls itself later changes nothing, nor that the first one ends.
        docker_engine.exec(renamed, "hostname", "other")
        docker_engine.rm(web)
        del expected[web]
        assert expected.items() <= told().items()
