"""From the rules of the files to the requests that make the portal hold them.

What is ours is found again by name: the template by its own, strategies and expressions by the mark that
begins their notes, nodata by its name. Everything else in the portal is left alone, as are the things that
people set there and no rule speaks of: the pause of an expression, callbacks, and who is told where the files
name nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falcon_agent.portal import bodies
from falcon_agent.portal.answers import checked, rows
from falcon_agent.portal.changes import Change, Plan, Request
from falcon_agent.portal.client import PortalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from falcon_agent.portal.answers import Row
    from falcon_agent.portal.bodies import Body
    from falcon_agent.portal.client import Portal
    from falcon_agent.portal.rules import Rule, RuleSet

TEMPLATE_ID = "tpl_id"
GROUP_ID = "grp_id"
"""Ids that the portal gives when it creates the thing; a body that holds None for one gets it then."""


class EmptyPortal:
    """A portal that holds nothing: what a plan for it sends is all that the rules amount to."""

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:  # noqa: ARG002  as the protocol
        """Nothing, in the form that the API gives it."""
        return {"templates": []} if path == "/template" else []

    def send(self, method: str, path: str, body: Mapping[str, Any] | None, *, form: bool = False) -> Any:  # noqa: ARG002  the same
        """Nothing is ever sent to it."""
        raise PortalError(f"cannot {method} {path}: there is no portal")


def make_plan(rules: RuleSet, portal: Portal, *, prune: bool = False) -> Plan:
    """Compare the rules with the portal.

    Args:
        rules: what is to be.
        portal: what is; only read.
        prune: remove what is ours and no longer in the files.

    Raises:
        PortalError: the API does not answer, or not sensibly.
    """
    return _Planning(rules, portal, prune=prune).plan()


class _Planning:
    def __init__(self, rules: RuleSet, portal: Portal, *, prune: bool) -> None:
        self._rules = rules
        self._portal = portal
        self._prune = prune
        self._ids: dict[str, int] = {}
        self._changes: list[Change] = []
        self._advice: list[str] = []

    def plan(self) -> Plan:
        strategies, action = self._template()
        self._host_group()
        self._teams(action)
        self._strategies(strategies)
        self._expressions()
        self._nodata()
        return Plan(tuple(self._changes), self._ids, tuple(self._advice))

    def _add(self, kind: str, name: str, request: Request) -> None:
        self._changes.append(Change("+", kind, name, request=request))

    def _keep(self, kind: str, name: str) -> None:
        self._changes.append(Change("=", kind, name))

    def _update(self, kind: str, name: str, differs: Mapping[str, tuple[Any, Any]], request: Request) -> None:
        if differs:
            self._changes.append(Change("~", kind, name, differs, request))
        else:
            self._keep(kind, name)

    def _left_over(self, kind: str, name: str, path: str) -> None:
        if self._prune:
            self._changes.append(Change("-", kind, name, request=Request("DELETE", path)))
        else:
            self._changes.append(Change("?", kind, name))

    def _template(self) -> tuple[list[Row], Row]:
        """Plan the template; returns its strategies and its action as they are."""
        name = self._rules.template
        # A dot is all that a name may hold of what MySQL's regular expressions give a meaning.
        answer = self._portal.get("/template", {"q": f"^{name.replace('.', '[.]')}$"})
        found = [
            checked(row.get("template"), {"id": int, "tpl_name": str})
            for row in rows(checked(answer, {"templates": list})["templates"], {})
        ]
        for row in found:
            if row["tpl_name"] == name:
                self._ids[TEMPLATE_ID] = row["id"]
                self._keep("template", name)
                whole = checked(
                    self._portal.get(f"/template/{row['id']}"), {"stratges": list, "action": dict}
                )
                strategies = rows(whole["stratges"], {"id": int, "note": str, "metric": str, "tags": str})
                return strategies, checked(whole["action"], {"id": int, "uic": str})
        self._add(
            "template", name, Request("POST", "/template", {"name": name, "parent_id": 0}, learns=TEMPLATE_ID)
        )
        return [], {"id": 0, "uic": ""}

    def _host_group(self) -> None:
        """Plan the host group and that the template is bound to it."""
        name = self._rules.host_group
        answer = self._portal.get("/hostgroup", {"q": f"^{name.replace('.', '[.]')}$"})
        found = [row for row in rows(answer, {"id": int, "grp_name": str}) if row["grp_name"] == name]
        binding = Request("POST", "/hostgroup/template", {TEMPLATE_ID: None, GROUP_ID: None})
        empty = f"host group {name} holds no host, so no strategy applies yet: add hosts to it"
        if not found:
            self._add("host group", name, Request("POST", "/hostgroup", {"name": name}, learns=GROUP_ID))
            self._add("binding", name, binding)
            self._advice.append(empty)
            return
        group = found[0]["id"]
        self._ids[GROUP_ID] = group
        self._keep("host group", name)
        bound = checked(self._portal.get(f"/hostgroup/{group}/template"), {"templates": list})["templates"]
        if any(row["id"] == self._ids.get(TEMPLATE_ID) for row in rows(bound, {"id": int})):
            self._keep("binding", name)
        else:
            self._add("binding", name, binding)
        if not checked(self._portal.get(f"/hostgroup/{group}"), {"hosts": list})["hosts"]:
            self._advice.append(empty)

    def _teams(self, action: Row) -> None:
        """Plan whom the template tells."""
        wanted = ",".join(self._rules.teams)
        if not wanted:
            if not action["uic"]:
                self._advice.append("nobody is told: give --team NAME, or teams in [template] of the rules")
        elif not action["id"]:
            body = {**bodies.action_body(wanted), TEMPLATE_ID: None}
            self._add("teams", self._rules.template, Request("POST", "/template/action", body))
        else:
            differs = {} if action["uic"] == wanted else {"uic": (action["uic"], wanted)}
            body = {**bodies.action_body(wanted, action), "id": action["id"]}
            self._update("teams", self._rules.template, differs, Request("PUT", "/template/action", body))

    def _strategies(self, present: Sequence[Row]) -> None:
        ours, others = self._claimed(present)
        for rule in self._wanted("strategy"):
            body = bodies.strategy_body(self._rules, rule)
            row = _take(ours, rule.name) or _same(others, body)
            if row is None:
                self._add("strategy", rule.name, Request("POST", "/strategy", {**body, TEMPLATE_ID: None}))
            else:
                request = Request("PUT", "/strategy", {"id": row["id"], **body})
                self._update("strategy", rule.name, _difference(row, body), request)
        for name, row in ours:
            self._left_over("strategy", name, f"/strategy/{row['id']}")

    def _expressions(self) -> None:
        answer = self._portal.get("/expression")
        ours, _ = self._claimed(rows(answer, {"id": int, "note": str, "pause": int}))
        for rule in self._wanted("expression"):
            body = bodies.expression_body(self._rules, rule)
            row = _take(ours, rule.name)
            if row is None:
                teams = list(self._rules.teams)
                whole = {**body, "pause": 0, "action": {**bodies.action_body(""), "uic": teams}}
                self._add("expression", rule.name, Request("POST", "/expression", whole))
            else:
                self._update_expression(rule, row, body)
        for name, row in ours:
            self._left_over("expression", name, f"/expression/{row['id']}")

    def _update_expression(self, rule: Rule, row: Row, body: Body) -> None:
        answer = checked(self._portal.get(f"/expression/{row['id']}"), {"action": dict})
        action = checked(answer["action"], {"uic": str})
        uic = ",".join(self._rules.teams) or action["uic"]
        differs = _difference(row, body)
        if uic != action["uic"]:
            differs["uic"] = (action["uic"], uic)
        told = {**bodies.action_body(uic, action), "uic": [team for team in uic.split(",") if team]}
        whole = {"id": row["id"], **body, "pause": row["pause"], "action": told}
        self._update("expression", rule.name, differs, Request("PUT", "/expression", whole))

    def _nodata(self) -> None:
        found = rows(self._portal.get("/nodata"), {"id": int, "name": str})
        begin = self._rules.mark("")
        ours = [(row["name"].removeprefix(begin), row) for row in found if row["name"].startswith(begin)]
        for nodata in self._rules.nodata:
            body = bodies.nodata_body(self._rules, nodata)
            row = _take(ours, nodata.name)
            # The API has these two at a path that ends with a slash.
            if row is None:
                whole = {"name": self._rules.mark(nodata.name), **body}
                self._add("nodata", nodata.name, Request("POST", "/nodata/", whole))
            else:
                request = Request("PUT", "/nodata/", {"id": row["id"], **body})
                self._update("nodata", nodata.name, _difference(row, body), request)
        for name, row in ours:
            self._left_over("nodata", name, f"/nodata/{row['id']}")

    def _wanted(self, kind: str) -> list[Rule]:
        return [rule for rule in self._rules.rules if rule.kind == kind]

    def _claimed(self, present: Iterable[Row]) -> tuple[list[tuple[str, Row]], list[Row]]:
        """The rows that are ours, by name, and the others."""
        ours: list[tuple[str, Row]] = []
        others: list[Row] = []
        for row in present:
            name = bodies.name_in(self._rules, row["note"])
            if name is None:
                others.append(row)
            else:
                ours.append((name, row))
        return ours, others


def _take(ours: list[tuple[str, Row]], name: str) -> Row | None:
    """Take the row of that name out; a second one of the same name is left over."""
    for index, (found, row) in enumerate(ours):
        if found == name:
            del ours[index]
            return row
    return None


def _same(others: list[Row], body: Body) -> Row | None:
    """Take the strategy out whose note somebody wrote anew, so that nobody is told twice."""
    for index, row in enumerate(others):
        if all(row.get(key) == body[key] for key in ("metric", "tags", "func", "op")):
            return others.pop(index)
    return None


def _difference(row: Row, body: Body) -> dict[str, tuple[Any, Any]]:
    return {key: (row.get(key), value) for key, value in body.items() if row.get(key) != value}
