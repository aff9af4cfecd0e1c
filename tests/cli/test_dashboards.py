"""`falcon-agent dashboards`, and the dashboards that are shipped; the portal is the double of tests/portal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.collectors import catalogue
from falcon_agent.portal.screens import read_screen
from tests.cli.programs import falcon_agent
from tests.portal.double import Portal

if TYPE_CHECKING:
    from collections.abc import Iterator

DASHBOARDS = Path(__file__).parent.parent.parent / "config" / "dashboards"
SCREEN = DASHBOARDS / "screen.toml"
METRICS = {metric.name: metric for _, metric in catalogue()}
TARGET = re.compile(r"\$host#([A-Za-z_#]+)(/|/\(\[\^/\]\*,\)\?name=\$container\(\[#,\]\|\$\)|\(/\|\$\))")


def panels() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row of the Grafana dashboard with each of its panels."""
    for row in json.loads((DASHBOARDS / "grafana.json").read_text())["rows"]:
        for panel in row["panels"]:
            yield row, panel


@pytest.fixture
def portal() -> Iterator[Portal]:
    running = Portal()
    try:
        yield running
    finally:
        running.close()


def test_the_screen_is_about_what_the_agent_sends() -> None:
    asked = {metric for graph in read_screen(str(SCREEN)).graphs for metric in graph.metrics}
    assert asked <= METRICS.keys()


def test_grafana_asks_for_what_the_agent_sends() -> None:
    for row, panel in panels():
        for target in panel["targets"]:
            found = TARGET.fullmatch(target["target"])
            assert found, target
            metric = METRICS[found[1].replace("#", ".")]
            of_container = metric.name.startswith("container.")
            assert of_container == ("container" in row["title"])
            assert ("$container" in target["target"]) == (row.get("repeat") == "container")
            if panel["yaxes"][0]["format"] == "percent":
                assert metric.unit == "percent"
            # The plugin takes every dot for a step of the name, also one of a regular expression.
            assert "." not in target["target"]


def test_grafana_shows_the_host_each_container_and_the_agent() -> None:
    document = json.loads((DASHBOARDS / "grafana.json").read_text())
    assert [row.get("repeat") for row in document["rows"]] == [None, "container", None]
    assert [variable["name"] for variable in document["templating"]["list"]] == ["host", "container"]
    numbers = [panel["id"] for _, panel in panels()]
    assert len(set(numbers)) == len(numbers)
    (source,) = document["__inputs"]
    assert {panel["datasource"] for _, panel in panels()} == {"${" + source["name"] + "}"}
    container = document["templating"]["list"][1]
    pattern = re.compile(container["regex"].strip("/"))
    found = pattern.search("busy/idc=bj,name=web,namespace=d")
    assert found
    assert found[1] == "web"


def test_apply(portal: Portal, tmp_path: Path) -> None:
    portal.series = {"h1": [f"{metric}/name=web" for metric in METRICS]}
    token = tmp_path / "token"
    token.write_text("root:rootsig")
    token.chmod(0o600)
    things = len(read_screen(str(SCREEN)).graphs) + 1
    where = ("--api", portal.address, "--token-file", str(token), "--host", "h1", "--host", "h1")
    dry = falcon_agent("dashboards", "apply", *where, "--dry-run", "--json")
    assert json.loads(dry.stdout)["created"] == things
    assert portal.changes == []
    done = falcon_agent("dashboards", "apply", *where, "--screen", str(SCREEN))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{things} created, 0 updated, 0 unchanged\n")
    assert len(portal.graphs) == things - 1
    again = falcon_agent("dashboards", "apply", *where)
    assert again.stdout == f"0 created, 0 updated, {things} unchanged\n"


def test_what_cannot_be_used(portal: Portal, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("root:bad")
    where = ("--api", portal.address, "--token-file", str(token))
    for options, code, text in (
        ((), 2, "--host"),
        (("--host", "h1"), 1, "answered 401"),
        (("--host", "h1", "--screen", "/nonexistent"), 2, "cannot read /nonexistent"),
    ):
        done = falcon_agent("dashboards", "apply", *where, *options)
        assert done.returncode == code
        assert text in done.stderr
        assert "Traceback" not in done.stderr
