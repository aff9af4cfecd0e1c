"""What the commands that change Open-Falcon's portal share: how to reach it, and how changes are shown."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

from falcon_agent.cli.options import add_json
from falcon_agent.cli.show import print_json, print_marked, printable
from falcon_agent.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from falcon_agent.portal.changes import Change, Plan
    from falcon_agent.portal.client import Portal

_STYLES = {"+": "green", "~": "yellow", "-": "red", "?": "yellow"}
_COUNTS = {"+": "created", "~": "updated", "-": "removed", "=": "unchanged", "?": "left_over"}
_TIMEOUT = 10.0


def add_portal(parser: argparse.ArgumentParser) -> None:
    """`--api`, `--token-file`, `--dry-run` and the like."""
    parser.add_argument(
        "--api", metavar="URL", required=True, help="Open-Falcon's api, e.g. http://portal:8080"
    )
    parser.add_argument("--token-file", metavar="FILE", required=True, help="holds name:sig of a login")
    parser.add_argument("--dry-run", action="store_true", help="show what differs and change nothing")
    parser.add_argument("--ca-file", metavar="FILE", default="", help="certificates to trust instead, PEM")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=_TIMEOUT, help="for one request (default: 10)"
    )
    add_json(parser)


def apply(args: argparse.Namespace, make: Callable[[Portal], Plan]) -> int:
    """Make the plan, carry it out unless it is a dry run, and show each change once it is done.

    Raises:
        ConfigError: the options cannot be used.
        PortalError: the portal refused, or did not answer.
    """
    from falcon_agent.portal.changes import carry_out  # noqa: PLC0415
    from falcon_agent.portal.client import PortalClient  # noqa: PLC0415
    from falcon_agent.portal.token import read_token  # noqa: PLC0415

    if not args.timeout > 0:
        raise ConfigError(f"cannot use --timeout {args.timeout:g}: allowed: more than 0 seconds")
    token = read_token(args.token_file)
    if token.exposed:
        warn(f"everybody on this host may read {args.token_file}: chmod 600 {args.token_file}")
    with closing(PortalClient(args.api, token, args.timeout, args.ca_file)) as portal:
        plan = make(portal)
        done: list[Change] = []
        for change in plan.changes if args.dry_run else carry_out(plan, portal):
            done.append(change)
            if not args.json:
                _tell(change)
    if args.json:
        print_json(_report(plan, done, dry_run=args.dry_run))
    else:
        print(_summary(done, dry_run=args.dry_run))
        for line in plan.advice:
            print(f"note: {printable(line)}")
    return 0


def warn(text: str) -> None:
    """Say on standard error what should not stay as it is."""
    print(f"falcon-agent: warning: {printable(text)}", file=sys.stderr)


def _tell(change: Change) -> None:
    """One line for what changes, and one for each field that differs; nothing for what stays."""
    if change.sign == "=":
        return
    why = " is no longer in the files; --prune removes it" if change.sign == "?" else ""
    print_marked(change.sign, _STYLES[change.sign], f"{change.kind} {change.name}{why}")
    for name, (current, wanted) in change.fields.items():
        print_marked("", "", f"  {name}: {current!s} -> {wanted!s}")


def _counts(done: Sequence[Change]) -> dict[str, int]:
    return {name: sum(change.sign == sign for change in done) for sign, name in _COUNTS.items()}


def _summary(done: Sequence[Change], *, dry_run: bool) -> str:
    counts = _counts(done)
    parts = [f"{counts['created']} created", f"{counts['updated']} updated"]
    if counts["removed"]:
        parts.append(f"{counts['removed']} removed")
    parts.append(f"{counts['unchanged']} unchanged")
    if counts["left_over"]:
        parts.append(f"{counts['left_over']} no longer in the files")
    return ("dry run, nothing was changed: it would be " if dry_run else "") + ", ".join(parts)


def _report(plan: Plan, done: Sequence[Change], *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        **_counts(done),
        "changes": [
            {
                "sign": change.sign,
                "kind": change.kind,
                "name": change.name,
                "fields": {name: {"portal": was, "files": to} for name, (was, to) in change.fields.items()},
            }
            for change in done
            if change.sign != "="
        ],
        "advice": list(plan.advice),
    }
