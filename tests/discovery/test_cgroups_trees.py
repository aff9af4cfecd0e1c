"""Runtimes and layouts that cannot run here, as trees in their documented forms (fixtures/discovery/trees.toml)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.discovery.hosttree import HostTree

STANDS_FOR = {
    "{A}": "3f4c0a1b" * 8,
    "{B}": "5e6d7c8b" * 8,
    "{C}": "9a8b7c6d" * 8,
    "{D}": "1a2b3c4d" * 8,
    "{UID}": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
    "{UID_}": "0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0",
}


def load() -> dict[str, Any]:
    text = (Path(__file__).parents[1] / "fixtures/discovery/trees.toml").read_text()
    for placeholder, value in STANDS_FOR.items():
        text = text.replace(placeholder, value)
    return tomllib.loads(text)


TREES = load()


@pytest.mark.parametrize("name", TREES)
def test_tree(name: str, tmp_path: Path) -> None:
    told = TREES[name]
    tree = HostTree(
        tmp_path, v1=tuple(told.get("v1", ())), v2=told.get("v2", True), seen=told.get("seen", "/")
    )
    processes = told["processes"]
    if all(process["pid"] != 1 for process in processes):
        tree.process(1, "/init.scope")
    for process in processes:
        tree.process(
            process["pid"],
            process["path"],
            nspid=tuple(process.get("nspid", ())),
            ppid=process.get("ppid", 0),
            name=process.get("name", "sh"),
            netns_of=process.get("netns_of"),
            elsewhere=process.get("elsewhere"),
        )
    runtime = tree.runtime()
    found = runtime.find()
    assert found.left_out == []
    containers = sorted(found.containers, key=lambda one: one.pid)
    wanted = sorted(told["containers"], key=lambda one: one["pid"])
    assert [one.pid for one in containers] == [one["pid"] for one in wanted]
    for container, expected in zip(containers, wanted, strict=True):
        assert (container.id, container.runtime) == (expected["id"], expected["runtime"])
        assert container.name == expected.get("name", expected["id"][:12])
        assert (container.pod.uid if container.pod else None) == expected.get("pod")
        assert container.pause == expected.get("pause", False)
        assert container.host_network == expected.get("host_network", False)
        known_in = {*container.cgroup.v1, *([] if container.cgroup.v2 is None else [""])}
        mounted = {one for controllers in told.get("v1", ()) for one in controllers.split(",")}
        if told.get("v2", True):
            mounted.add("")
        assert known_in == set(expected.get("only_in", mounted))
    # What is learnt once holds at the next look.
    assert runtime.find() == found
