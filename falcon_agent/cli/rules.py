"""`falcon-agent rules`: the alert rules, shown and put into Open-Falcon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from falcon_agent.cli.options import add_json, command
from falcon_agent.cli.portal import add_portal, apply, warn
from falcon_agent.cli.show import print_json, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from falcon_agent.portal.rules import RuleSet

_TEXT = """\
Show the alert rules that belong to this agent's metrics, and put them into Open-Falcon through its API. Applying
again changes nothing; what somebody changed in the portal is shown and set back. docs/alerting.md is the guide."""
_EXAMPLES = """\
  falcon-agent rules list                            every rule, when it fires and why
  falcon-agent rules render                          the requests that an empty portal would get
  falcon-agent rules apply --api http://portal:8080 --token-file ~/.falcon --dry-run
  falcon-agent rules apply --api http://portal:8080 --token-file ~/.falcon --team ops
"""

INSTALLED = "/etc/falcon-agent/rules"
"""Where the package puts them."""

_SHIPPED = os.path.join(os.path.dirname(__file__), "..", "..", "config", "rules")
"""Where they are in the source tree."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and what it can do."""
    parser = command(
        commands, "rules", "show the alert rules, or put them into Open-Falcon", _TEXT, _EXAMPLES
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="every rule, when it fires and why")
    listing.set_defaults(run=_list)
    form = listing.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--markdown", action="store_true", help="print the table of docs/alerting.md")
    render = actions.add_parser(
        "render", help="the requests with their JSON, as an empty portal would get them"
    )
    render.set_defaults(run=_render)
    render.add_argument("--json", action="store_true", help="as it is without: the output is JSON already")
    applying = actions.add_parser(
        "apply", help="create and update them in the portal, and show what differed"
    )
    applying.set_defaults(run=_apply)
    add_portal(applying)
    applying.add_argument(
        "--prune", action="store_true", help="remove what is ours and no longer in the files"
    )
    for action in (listing, render, applying):
        action.add_argument(
            "--rules",
            metavar="DIR",
            help=f"the *.toml files (default: {INSTALLED}, or the source's config/rules)",
        )
        action.add_argument("--template", metavar="NAME", help="holds the strategies, and marks what is ours")
        action.add_argument(
            "--host-group", metavar="NAME", help="the hosts that strategies and nodata are about"
        )
        action.add_argument(
            "--team", metavar="NAME", action="append", default=[], help="who is told; may be given again"
        )


def _read(args: argparse.Namespace) -> RuleSet:
    """The rules that the command line asks for; those that cannot fire are warned of."""
    from falcon_agent.collectors import catalogue  # noqa: PLC0415
    from falcon_agent.portal.rulefiles import read_rules  # noqa: PLC0415

    directory = args.rules or (INSTALLED if os.path.isdir(INSTALLED) else os.path.normpath(_SHIPPED))
    found = read_rules(directory, args.template, args.host_group, args.team)
    known = {metric.name for _, metric in catalogue()}
    asked = [(rule.name, rule.metric) for rule in found.rules]
    asked += [(each.name, each.metric) for each in found.nodata]
    for name, metric in asked:
        if metric.startswith(("container.", "falcon_agent.")) and metric not in known:
            warn(f"rule {name}: this agent has no metric {metric}; falcon-agent metrics lists them")
    return found


# list


def _list(args: argparse.Namespace) -> int:
    rules = _read(args)
    if args.json:
        print_json(_as_json(rules))
    elif args.markdown:
        print("\n".join(markdown(rules)))
    else:
        rows: list[tuple[str, ...]] = [
            (rule.name, rule.kind, f"{_series(rule)} {rule.condition}", str(rule.priority), rule.why)
            for rule in rules.rules
        ]
        rows += [
            (each.name, "nodata", f"{_series(each)} silent: {each.mock:g} is pushed", "", each.why)
            for each in rules.nodata
        ]
        print_table(("RULE", "KIND", "FIRES WHEN", "PRIORITY", "WHY"), rows, right=(3,))
    return 0


def _series(rule: Any) -> str:
    tags = ",".join(f"{key}={value}" for key, value in rule.tags)
    return f"{rule.metric}/{tags}" if tags else str(rule.metric)


def _as_json(rules: RuleSet) -> dict[str, Any]:
    from dataclasses import asdict  # noqa: PLC0415

    whole = asdict(rules)
    for entry in (*whole["rules"], *whole["nodata"]):
        entry["tags"] = dict(entry["tags"])
    return whole


def markdown(rules: RuleSet) -> Iterator[str]:
    """The lines of the table in docs/alerting.md."""
    yield "| rule | fires when | priority | why this threshold | what to do |"
    yield "| --- | --- | --- | --- | --- |"
    for rule in rules.rules:
        yield _line(
            f"`{rule.name}`", f"`{_series(rule)}` {rule.condition}", str(rule.priority), rule.why, rule.action
        )
    for each in rules.nodata:
        silent = f"`{_series(each)}` is silent for {3 * each.step} s: {each.mock:g} is pushed"
        yield _line(f"`{each.name}` (nodata)", silent, "", each.why, "see the rule on this metric")


def _line(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


# render


def _render(args: argparse.Namespace) -> int:
    from falcon_agent.portal.plan import EmptyPortal, make_plan  # noqa: PLC0415

    plan = make_plan(_read(args), EmptyPortal())
    requests = [change.request for change in plan.changes if change.request is not None]
    print_json(
        [{"method": each.method, "path": f"/api/v1{each.path}", "body": each.body} for each in requests]
    )
    return 0


# apply


def _apply(args: argparse.Namespace) -> int:
    from falcon_agent.portal.plan import make_plan  # noqa: PLC0415

    rules = _read(args)
    return apply(args, lambda portal: make_plan(rules, portal, prune=args.prune))
