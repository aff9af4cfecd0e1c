"""Screens of Open-Falcon's dashboard: for each host one, with the series that its containers have now.

A graph of a screen lists every series by name (falcon-plus, modules/api/app/controller/dashboard_graph), so the
series are asked for and a screen is made anew as containers come and go: applying again brings it up to date.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from falcon_agent.errors import ConfigError
from falcon_agent.portal.answers import rows
from falcon_agent.portal.changes import Change, Plan, Request
from falcon_agent.portal.rules import allowed_metric, allowed_note, allowed_owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from falcon_agent.portal.answers import Row
    from falcon_agent.portal.bodies import Body
    from falcon_agent.portal.client import Portal

MAX_COUNTERS = 1024
"""Characters that the table has for the series of a graph, `|` between them."""

MAX_SERIES = 2000
"""Series of one metric on one host that are asked for."""

_SCREEN_ID = "screen_id"
_SPAN = 3 * 3600
_BY_HOST = "h"


@dataclass(frozen=True, slots=True)
class Graph:
    """One picture: a line for each series of each metric.

    Attributes:
        title: what is above it; finds the graph again.
        metrics: their names.
    """

    title: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Screen:
    """The pictures of one host; its name is followed by the host's."""

    name: str
    graphs: tuple[Graph, ...]


def read_screen(path: str) -> Screen:
    """The screen in a TOML file: `name`, and `[[graph]]` with `title` and `metrics`.

    Raises:
        ConfigError: it cannot be read, or used.
    """
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot use {path}: not valid TOML: {error}") from None
    graphs = document.get("graph")
    if set(document) != {"name", "graph"} or not isinstance(graphs, list) or allowed_owner(document["name"]):
        raise ConfigError(f'cannot use {path}: allowed: name = "containers" and [[graph]], and nothing else')
    read = tuple(_graph(path, number, entry) for number, entry in enumerate(graphs, 1))
    if len({graph.title for graph in read}) < len(read):
        raise ConfigError(f"cannot use {path}: two graphs have one title")
    return Screen(document["name"], read)


def _graph(path: str, number: int, entry: Any) -> Graph:
    wanted = f'cannot use {path}: graph {number}: allowed: title = "..." and metrics = ["container.cpu.busy"]'
    if not isinstance(entry, dict) or set(entry) != {"title", "metrics"} or allowed_note(entry["title"]):
        raise ConfigError(wanted)
    metrics = entry["metrics"]
    if not isinstance(metrics, list) or not metrics or any(map(allowed_metric, metrics)):
        raise ConfigError(wanted)
    return Graph(entry["title"], tuple(metrics))


def plan_screens(screen: Screen, hosts: Sequence[str], portal: Portal) -> Plan:
    """Compare the screens of these hosts with the portal's.

    Raises:
        PortalError: the API does not answer, or not sensibly.
    """
    present = {
        row["name"]: row["id"]
        for row in rows(portal.get("/dashboard/screens/pid/0"), {"id": int, "name": str})
    }
    changes: list[Change] = []
    advice: list[str] = []
    for host in hosts:
        found = rows(portal.get("/graph/endpointobj", {"endpoints": host}), {"id": int, "endpoint": str})
        ids = [row["id"] for row in found if row["endpoint"] == host]
        if not ids:
            advice.append(f"host {host} has no series yet: the endpoint of its records must be this name")
            continue
        name = f"{screen.name} {host}"
        number = present.get(name)
        if number is None:
            form = {"pid": "0", "name": name}
            request = Request("POST", "/dashboard/screen", form, learns=_SCREEN_ID, form=True)
            changes.append(Change("+", "screen", name, request=request))
        else:
            changes.append(Change("=", "screen", name))
        drawn = {} if number is None else _graphs(number, portal)
        for position, graph in enumerate(screen.graphs, 1):
            counters, missing = _counters(graph, ids[0], portal)
            if missing:
                advice.append(f"{name}: {graph.title}: {missing} series do not fit; Grafana shows them all")
            if counters:
                body = _body(graph.title, host, counters, position, number)
                changes.append(_change(f"{graph.title} of {host}", body, drawn.get(graph.title)))
    return Plan(tuple(changes), {}, tuple(advice))


def _body(title: str, host: str, counters: list[str], position: int, screen: int | None) -> Body:
    return {
        _SCREEN_ID: screen,
        "title": title,
        "endpoints": [host],
        "counters": counters,
        "timespan": _SPAN,
        "graph_type": _BY_HOST,
        "method": "",
        "position": position,
    }


def _change(name: str, body: Body, row: Row | None) -> Change:
    if row is None:
        return Change("+", "graph", name, request=Request("POST", "/dashboard/graph", body))
    differs = {key: (row[key], body[key]) for key in ("endpoints", "counters") if row[key] != body[key]}
    if not differs:
        return Change("=", "graph", name)
    request = Request("PUT", f"/dashboard/graph/{row['graph_id']}", {key: body[key] for key in differs})
    return Change("~", "graph", name, differs, request)


def _graphs(screen: int, portal: Portal) -> dict[str, Row]:
    """The graphs of a screen by title."""
    fields = {"graph_id": int, "title": str, "endpoints": list, "counters": list}
    return {row["title"]: row for row in rows(portal.get(f"/dashboard/graphs/screen/{screen}"), fields)}


def _counters(graph: Graph, endpoint: int, portal: Portal) -> tuple[list[str], int]:
    """The series that fit into a graph, sorted as the API does, and how many do not."""
    found: set[str] = set()
    for metric in graph.metrics:
        pattern = "^" + metric.replace(".", "[.]") + "(/|$)"
        query = {"eid": str(endpoint), "metricQuery": pattern, "limit": str(MAX_SERIES)}
        for row in rows(portal.get("/graph/endpoint_counter", query), {"counter": str}):
            found.add(row["counter"])
    kept: list[str] = []
    # The API joins them by this sign, and a name that holds it would come apart.
    for counter in sorted(each for each in found if "|" not in each):
        if len("|".join([*kept, counter])) <= MAX_COUNTERS:
            kept.append(counter)
    return kept, len(found) - len(kept)
