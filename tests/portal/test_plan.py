from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.portal.changes import carry_out
from falcon_agent.portal.client import PortalClient, PortalError
from falcon_agent.portal.plan import EmptyPortal, make_plan
from falcon_agent.portal.rules import NoData, Rule, RuleSet
from falcon_agent.portal.token import Token
from tests.portal.double import ANN, ROOT, Refused

if TYPE_CHECKING:
    from tests.portal.double import Portal

BUSY = Rule(
    "strategy",
    "busy",
    "container.cpu.busy",
    (("name", "web"),),
    "all(#3)",
    ">=",
    90,
    3,
    2,
    "busy",
    "why",
    "act",
)
KILL = replace(
    BUSY, name="kill", metric="container.mem.oom.kills", tags=(), op=">", threshold=0, note="killed"
)
SILENT = replace(
    BUSY,
    kind="expression",
    name="silent",
    metric="agent.alive",
    tags=(("agent", "falcon-agent"), ("idc", "bj")),
)
NODATA = NoData("silent", "agent.alive", (("agent", "falcon-agent"),), "GAUGE", 60, -0.5, "why")
RULES = RuleSet("falcon.agent", "docker-hosts", ("ops", "dev"), (BUSY, SILENT, KILL), (NODATA,))


def apply(portal: Portal, rules: RuleSet, *, prune: bool = False, user: tuple[str, str] = ROOT) -> list[str]:
    """What changed, as `sign kind name field...`."""
    with closing(PortalClient(portal.address, Token(*user))) as client:
        plan = make_plan(rules, client, prune=prune)
        done = list(carry_out(plan, client))
    return [
        " ".join([change.sign, change.kind, change.name, *change.fields])
        for change in done
        if change.sign != "="
    ]


def test_everything_is_created_once(portal: Portal) -> None:
    assert apply(portal, RULES) == [
        "+ template falcon.agent",
        "+ host group docker-hosts",
        "+ binding docker-hosts",
        "+ teams falcon.agent",
        "+ strategy busy",
        "+ strategy kill",
        "+ expression silent",
        "+ nodata silent",
    ]
    assert portal.strategies[1] == {
        "id": 1, "metric": "container.cpu.busy", "tags": "name=web", "max_step": 3, "priority": 2,
        "func": "all(#3)", "op": ">=", "right_value": "90", "note": "falcon.agent/busy: busy", "run_begin": "",
        "run_end": "", "tpl_id": 1,
    }  # fmt: skip
    assert portal.expressions[1] == {
        "id": 1, "expression": "each(metric=agent.alive agent=falcon-agent idc=bj)", "func": "all(#3)", "op": ">=",
        "right_value": "90", "max_step": 3, "priority": 2, "note": "falcon.agent/silent: busy", "pause": 0,
        "action_id": 2, "create_user": "root",
    }  # fmt: skip
    assert portal.nodata[1] == {
        "id": 1, "name": "falcon.agent/silent", "obj": "docker-hosts", "obj_type": "group", "metric": "agent.alive",
        "tags": "agent=falcon-agent", "dstype": "GAUGE", "step": 60, "mock": -0.5, "creator": "root",
    }  # fmt: skip
    assert [action["uic"] for action in portal.actions.values()] == ["ops,dev", "ops,dev"]
    assert portal.templates[1]["action_id"] == 1
    assert [(row["grp_id"], row["tpl_id"]) for row in portal.bindings] == [(1, 1)]
    portal.asked.clear()
    assert apply(portal, RULES) == []
    assert portal.changes == []


def test_planning_alone_changes_nothing(portal: Portal) -> None:
    with closing(PortalClient(portal.address, Token(*ROOT))) as client:
        plan = make_plan(RULES, client)
    assert [change.sign for change in plan.changes] == ["+"] * 8
    assert portal.changes == []
    assert make_plan(RULES, EmptyPortal()).changes == plan.changes


def test_what_was_changed_by_hand_is_shown_and_set_back(portal: Portal) -> None:
    apply(portal, RULES)
    portal.strategies[1] |= {"right_value": "50", "run_begin": "08:00"}
    portal.strategies[2]["note"] = "in my own words"
    portal.expressions[1]["op"] = "<"
    portal.nodata[1]["obj"] = "other"
    portal.actions[1]["uic"] = "sales"
    with closing(PortalClient(portal.address, Token(*ROOT))) as client:
        changes = [change for change in make_plan(RULES, client).changes if change.fields]
    assert [(change.name, change.fields) for change in changes] == [
        ("falcon.agent", {"uic": ("sales", "ops,dev")}),
        ("busy", {"right_value": ("50", "90"), "run_begin": ("08:00", "")}),
        ("kill", {"note": ("in my own words", "falcon.agent/kill: killed")}),
        ("silent", {"op": ("<", ">=")}),
        ("silent", {"obj": ("other", "docker-hosts")}),
    ]
    assert apply(portal, RULES) == [
        "~ teams falcon.agent uic",
        "~ strategy busy right_value run_begin",
        "~ strategy kill note",
        "~ expression silent op",
        "~ nodata silent obj",
    ]
    assert apply(portal, RULES) == []
    assert len(portal.strategies) == 2


def test_a_threshold_is_changed_in_the_file(portal: Portal) -> None:
    apply(portal, RULES)
    changed = replace(RULES, rules=(replace(BUSY, threshold=95.5), SILENT, KILL))
    assert apply(portal, changed) == ["~ strategy busy right_value"]
    assert portal.strategies[1]["right_value"] == "95.5"


def test_what_people_set_and_no_rule_speaks_of_stays(portal: Portal) -> None:
    apply(portal, RULES)
    portal.expressions[1] |= {"pause": 1, "op": "<"}
    for action in portal.actions.values():
        action |= {"callback": 1, "url": "http://hook"}
    silent = replace(RULES, teams=())
    assert apply(portal, silent) == ["~ expression silent op"]
    assert portal.expressions[1]["pause"] == 1
    assert apply(portal, replace(RULES, teams=("new",))) == [
        "~ teams falcon.agent uic",
        "~ expression silent uic",
    ]
    for action in portal.actions.values():
        assert (action["uic"], action["callback"], action["url"]) == ("new", 1, "http://hook")


def test_rules_of_others_are_left_alone(portal: Portal) -> None:
    apply(portal, RULES)
    apply(portal, replace(RULES, template="falconXagent", host_group="docker.hosts"))
    row = dict(portal.strategies[1])
    portal.strategies.insert(row | {"note": "theirs", "metric": "cpu.busy"})
    portal.strategies.insert(row | {"note": "other/busy: theirs", "op": "<"})
    portal.expressions.insert(portal.expressions[1] | {"note": "falcon.agent without a colon"})
    before = [
        dict(table) for table in (portal.strategies, portal.expressions, portal.nodata, portal.templates)
    ]
    assert apply(portal, RULES, prune=True) == []
    assert [portal.strategies, portal.expressions, portal.nodata, portal.templates] == before


def test_what_is_no_longer_in_the_files(portal: Portal) -> None:
    apply(portal, RULES)
    portal.strategies.insert(dict(portal.strategies[1]))
    fewer = replace(RULES, rules=(BUSY,), nodata=())
    left = ["strategy kill", "strategy busy", "expression silent", "nodata silent"]
    portal.asked.clear()
    assert apply(portal, fewer) == [f"? {one}" for one in left]
    assert portal.changes == []
    assert apply(portal, fewer, prune=True) == [f"- {one}" for one in left]
    assert [row["note"] for row in portal.strategies.values()] == ["falcon.agent/busy: busy"]
    assert not portal.expressions
    assert not portal.nodata
    assert apply(portal, fewer, prune=True) == []


def test_names_are_compared_exactly(portal: Portal) -> None:
    """The portal looks names up by a regular expression, without case."""
    apply(portal, replace(RULES, template="xfalcon.agent", host_group="docker-hosts2"))
    assert apply(portal, RULES)[:3] == [
        "+ template falcon.agent",
        "+ host group docker-hosts",
        "+ binding docker-hosts",
    ]
    with pytest.raises(
        PortalError, match=r"cannot apply template FALCON.AGENT: .* answered 400 .*Duplicate entry"
    ):
        apply(portal, replace(RULES, template="FALCON.AGENT"))


def test_a_refusal_shows_how_far_it_came_and_the_next_one_goes_on(portal: Portal) -> None:
    portal.refuse["POST", "/api/v1/expression"] = Refused(417, "Error 1205: Lock wait timeout")
    with closing(PortalClient(portal.address, Token(*ROOT))) as client:
        doing = carry_out(make_plan(RULES, client), client)
        done = [next(doing).name for _ in range(6)]
        with pytest.raises(PortalError) as caught:
            next(doing)
    assert done[-1] == "kill"
    assert str(caught.value) == (
        f"cannot apply expression silent: POST {portal.address}/api/v1/expression: it answered 417 "
        '"Error 1205: Lock wait timeout"; nothing was changed by this request'
    )
    portal.refuse.clear()
    assert apply(portal, RULES) == ["+ expression silent", "+ nodata silent"]


def test_a_user_who_may_not(portal: Portal) -> None:
    apply(portal, RULES)
    portal.expressions[1]["op"] = "<"
    with pytest.raises(
        PortalError, match=r'cannot apply expression silent: .* "You don\'t have permission!"'
    ):
        apply(portal, RULES, user=ANN)


def test_advice(portal: Portal) -> None:
    def advice(rules: RuleSet) -> str:
        with closing(PortalClient(portal.address, Token(*ROOT))) as client:
            return "; ".join(make_plan(rules, client).advice)

    nobody = replace(RULES, teams=())
    assert "nobody is told" in advice(nobody)
    apply(portal, RULES)
    assert "holds no host" in advice(RULES)
    portal.hosts[1] = ["h1"]
    assert advice(RULES) == ""
    assert advice(nobody) == ""


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/template", []),
        ("/template", {"templates": [3]}),
        ("/template", {"templates": [{"template": {"id": "1", "tpl_name": "falcon.agent"}}]}),
        ("/template/1", {"stratges": [{"id": 1}], "action": {"id": 0, "uic": ""}}),
        ("/template/1", {"stratges": [], "action": None}),
        ("/hostgroup", {"hosts": []}),
        ("/hostgroup/1", {}),
        ("/hostgroup/1/template", []),
        ("/expression", [[]]),
        ("/expression/1", {"action": {}}),
        ("/nodata", "ok"),
    ],
)
def test_answers_of_another_form(portal: Portal, path: str, answer: Any) -> None:
    class Odd:
        def get(self, asked: str, query: Any = None) -> Any:
            return answer if asked == path else client.get(asked, query)

        def send(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("nothing is to be changed")

    apply(portal, RULES)
    with (
        closing(PortalClient(portal.address, Token(*ROOT))) as client,
        pytest.raises(PortalError, match="cannot compare with the portal"),
    ):
        make_plan(RULES, Odd())


def test_a_creation_that_tells_no_id() -> None:
    class Odd(EmptyPortal):
        def send(self, *_: Any, **__: Any) -> Any:
            return {"message": "ok"}

    plan = make_plan(RULES, EmptyPortal())
    with pytest.raises(PortalError, match="its answer does not have the form"):
        list(carry_out(plan, Odd()))
