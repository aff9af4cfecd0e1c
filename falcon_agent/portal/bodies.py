"""Rules in the form in which Open-Falcon's API takes them and gives them back.

The field names are the wire's (falcon-plus, modules/api/app/controller and .../model/falcon_portal).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from falcon_agent.portal.rules import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falcon_agent.portal.rules import NoData, Rule, RuleSet

Body: TypeAlias = dict[str, Any]

ACTION_FIELDS = (
    "uic",
    "url",
    "callback",
    "before_callback_sms",
    "before_callback_mail",
    "after_callback_sms",
    "after_callback_mail",
)
"""Who is told and what is called; all are required when one of them is changed."""


def note_of(rules: RuleSet, rule: Rule) -> str:
    """The note with the mark by which the rule is found again."""
    return f"{rules.mark(rule.name)}: {rule.note}"


def name_in(rules: RuleSet, note: str) -> str | None:
    """The name of our rule that a note of the portal belongs to, or None if it is not ours."""
    mark, colon, _ = note.partition(":")
    owner, slash, name = mark.partition("/")
    return name if colon and slash and owner == rules.template and name else None


def strategy_body(rules: RuleSet, rule: Rule) -> Body:
    """A strategy, without the id of its template."""
    return {
        "metric": rule.metric,
        "tags": _joined(rule.tags, ","),
        "func": rule.func,
        "op": rule.op,
        "right_value": number(rule.threshold),
        "max_step": rule.max_step,
        "priority": rule.priority,
        "note": note_of(rules, rule),
        "run_begin": rule.run_begin,
        "run_end": rule.run_end,
    }


def expression_body(rules: RuleSet, rule: Rule) -> Body:
    """An expression, without what a person may have set in the portal: pause and action."""
    return {
        "expression": f"each(metric={rule.metric} {_joined(rule.tags, ' ')})",
        "func": rule.func,
        "op": rule.op,
        "right_value": number(rule.threshold),
        "max_step": rule.max_step,
        "priority": rule.priority,
        "note": note_of(rules, rule),
    }


def nodata_body(rules: RuleSet, nodata: NoData) -> Body:
    """A nodata configuration, without its name."""
    return {
        "obj": rules.host_group,
        "obj_type": "group",
        "metric": nodata.metric,
        "tags": _joined(nodata.tags, ","),
        "dstype": nodata.counter_type,
        "step": nodata.step,
        "mock": nodata.mock,
    }


def action_body(uic: str, current: Mapping[str, Any] | None = None) -> Body:
    """Who is told, with everything else as it is in the portal."""
    kept = {name: (current or {}).get(name, "" if name == "url" else 0) for name in ACTION_FIELDS}
    return {**kept, "uic": uic}


def _joined(tags: tuple[tuple[str, str], ...], separator: str) -> str:
    return separator.join(f"{key}={value}" for key, value in tags)
