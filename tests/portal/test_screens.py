from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.errors import ConfigError
from falcon_agent.portal.changes import carry_out
from falcon_agent.portal.client import PortalClient, PortalError
from falcon_agent.portal.screens import MAX_COUNTERS, Graph, Screen, plan_screens, read_screen
from falcon_agent.portal.token import Token
from tests.portal.double import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.portal.double import Portal

SCREEN = Screen("c", (Graph("CPU", ("a.cpu", "a.user")), Graph("TCP", ("a.tcp",))))
TEXT = 'name = "c"\n[[graph]]\ntitle = "CPU"\nmetrics = ["a.cpu"]\n'


def apply(portal: Portal, *hosts: str, screen: Screen = SCREEN) -> tuple[list[str], tuple[str, ...]]:
    with closing(PortalClient(portal.address, Token(*ROOT))) as client:
        plan = plan_screens(screen, hosts, client)
        done = list(carry_out(plan, client))
    return [
        f"{change.sign} {change.kind} {change.name}" for change in done if change.sign != "="
    ], plan.advice


def drawn(portal: Portal) -> list[tuple[Any, ...]]:
    rows = portal.graphs.values()
    return [
        (row["screen_id"], row["title"], row["endpoints"], row["counters"], row["position"]) for row in rows
    ]


def test_a_screen_for_each_host_with_its_series(portal: Portal) -> None:
    portal.series = {
        "h1": [
            "a.tcp/name=y",
            "a.tcp/name=x",
            "a.cpu/name=x",
            "a.cpux/name=x",
            "a.cpu.x",
            "a-cpu",
            "a.user/name=x",
        ],
        "h2": ["a.cpu", "a.cpu/name=z"],
    }
    # MySQL finds h1 for H1 too, but it is not the name in the records.
    assert apply(portal, "h1", "h2", "H1") == (
        [
            "+ screen c h1",
            "+ graph CPU of h1",
            "+ graph TCP of h1",
            "+ screen c h2",
            "+ graph CPU of h2",
        ],
        ("host H1 has no series yet: the endpoint of its records must be this name",),
    )
    assert drawn(portal) == [
        (1, "CPU", ["h1"], ["a.cpu/name=x", "a.user/name=x"], 1),
        (1, "TCP", ["h1"], ["a.tcp/name=x", "a.tcp/name=y"], 2),
        (2, "CPU", ["h2"], ["a.cpu", "a.cpu/name=z"], 1),
    ]
    portal.asked.clear()
    assert apply(portal, "h1", "h2") == ([], ())
    assert portal.changes == []


def test_a_screen_follows_the_containers(portal: Portal) -> None:
    portal.series = {"h1": ["a.cpu/name=x"]}
    apply(portal, "h1")
    portal.graphs[1]["title"] = "CPU"
    portal.series["h1"] = ["a.cpu/name=y", "a.tcp/name=y"]
    assert apply(portal, "h1")[0] == ["~ graph CPU of h1", "+ graph TCP of h1"]
    assert [row[3] for row in drawn(portal)] == [["a.cpu/name=y"], ["a.tcp/name=y"]]
    assert apply(portal, "h1")[0] == []


def test_as_many_series_as_the_table_holds(portal: Portal) -> None:
    portal.series = {"h1": [f"a.tcp/name={number:03}" for number in range(100)] + ["a.tcp/name=a|b"]}
    _, advice = apply(portal, "h1")
    (counters,) = [row[3] for row in drawn(portal)]
    assert MAX_COUNTERS - len("|a.tcp/name=000") < len("|".join(counters)) <= MAX_COUNTERS
    assert advice == (f"c h1: TCP: {101 - len(counters)} series do not fit; Grafana shows them all",)
    assert apply(portal, "h1")[0] == []


def test_answers_of_another_form(portal: Portal) -> None:
    class Odd:
        def get(self, path: str, query: Any = None) -> Any:
            return {"error": 1}

        def send(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("nothing is to be changed")

    with pytest.raises(PortalError, match="cannot compare with the portal"):
        plan_screens(SCREEN, ["h1"], Odd())


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "screen.toml"
    path.write_text(TEXT)
    assert read_screen(str(path)) == Screen("c", (Graph("CPU", ("a.cpu",)),))
    for text, reason in (
        ("[", "not valid TOML"),
        ("\udcff", "not valid TOML"),
        ("", 'allowed: name = "containers" and'),
        (TEXT.replace("name", "nam"), "allowed: name"),
        (TEXT.replace('"c"', '"a b"'), "allowed: name"),
        ('name = "c"\ngraph = 3', "allowed: name"),
        ('name = "c"\ngraph = [3]', "graph 1: allowed: title"),
        (TEXT.replace('"CPU"', "3"), "graph 1: allowed: title"),
        (TEXT.replace('["a.cpu"]', "[]"), "graph 1: allowed: title"),
        (TEXT.replace('["a.cpu"]', '["a cpu"]'), "graph 1: allowed: title"),
        (TEXT + "height = 3", "graph 1: allowed: title"),
        (TEXT + TEXT.split("\n", 1)[1], "two graphs have one title"),
    ):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ConfigError, match=f"cannot use {path}: {reason}"):
            read_screen(str(path))
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        read_screen(str(tmp_path / "absent"))
