"""The agent somewhere else than where the veths are, or the processes."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest

from falcon_agent.collectors.network import NetworkCollector
from tests.collectors.traffic import collect, host_name, same_as_own
from tests.namespaces.lab import (
    Netns,
    become_first_of_a_pid_namespace,
    become_nobody,
    in_child,
    inside,
    netns,
    open_descriptors,
    target,
    veth,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real

NOT_HERE = "the agent is not in the host's network namespace"


@pytest.fixture
def box() -> Iterator[Netns]:
    with netns() as made:
        yield made


def nothing() -> None:
    pass


def in_pid_namespace(call: Callable[[], object], *, before: Callable[[], None] = nothing) -> str:
    """Run a call as the first process of a new pid namespace, below the /proc of the old one."""
    return in_child(lambda: in_child(call, before=before), before=become_first_of_a_pid_namespace)


def map_of(box: Netns) -> tuple[int, dict[str, str], dict[str, str]]:
    """What a new collector finds: number of interfaces with samples, mapped ones, and the others with reasons."""
    collector = NetworkCollector()
    with target(box) as of:
        (found,) = collect(collector, of)
        return len(found), collector.veths(of), collector.unmapped(of)


def test_in_another_network_namespace_all_is_read_inside(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    collector = NetworkCollector()
    with netns() as elsewhere, target(box) as of:
        elsewhere.inside(lambda: same_as_own(collector, box, of, "eth0"))
        assert collector.veths(of) == {}
        assert collector.unmapped(of)["eth0"].startswith(NOT_HERE)


def test_in_another_network_namespace_that_a_veth_leads_from(box: Netns) -> None:
    with netns() as home:
        veth("v0", box, "eth0", home)
        assert home.inside(lambda: map_of(box)) == (1, {"eth0": "v0"}, {})


def test_that_is_told_without_privilege(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    with netns() as elsewhere:
        path = f"/proc/{elsewhere.pid}/ns/net"
        answer = in_child(
            lambda: inside(path, lambda: in_child(lambda: map_of(box), before=become_nobody)), before=nothing
        )
    assert NOT_HERE in answer
    assert "(1, {}, {'eth0'" in answer


def test_in_another_pid_namespace_the_namespace_itself_is_asked_about(box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    assert in_pid_namespace(os.getpid) == "1"
    assert in_pid_namespace(lambda: map_of(box)) == str((1, {"eth0": name}, {}))


def test_in_another_pid_namespace_without_the_privilege_to(box: Netns) -> None:
    veth(host_name(), box, "eth0")
    answer = in_pid_namespace(lambda: map_of(box), before=become_nobody)
    assert answer.startswith("(1, {}, {'':")
    assert "pid namespace" in answer
    assert "CAP_SYS_PTRACE" in answer


def test_in_another_pid_namespace_nothing_stays_open(box: Netns) -> None:
    veth(host_name(), box, "eth0")

    def left_open() -> int:
        collector = NetworkCollector()
        with target(box) as of:
            gc.collect()  # so that nothing of earlier tests is closed meanwhile
            before = open_descriptors()
            collect(collector, of)
            return open_descriptors() - before

    # The socket of link events, and no namespace.
    assert in_pid_namespace(left_open) == "1"


def test_a_container_that_ended_below_another_proc(box: Netns) -> None:
    collector = NetworkCollector("/nonexistent")
    with target(box) as of:
        box.end()
        collector.begin([of])
        assert "/ns/net: No such" in collector.unmapped(of)[""]


def test_another_proc_than_the_agents(box: Netns) -> None:
    name = host_name()
    veth(name, box, "eth0")
    collector = NetworkCollector("/nonexistent")
    with target(box) as of:
        same_as_own(collector, box, of, "eth0")
        assert collector.veths(of) == {"eth0": name}
