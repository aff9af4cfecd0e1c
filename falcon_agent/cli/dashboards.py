"""`falcon-agent dashboards`: screens of Open-Falcon's dashboard."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from falcon_agent.cli.options import command
from falcon_agent.cli.portal import add_portal, apply

if TYPE_CHECKING:
    import argparse

_TEXT = """\
Make a screen for each host in Open-Falcon's dashboard, with a picture for each subject and a line for each container
that is there now. Applying again brings it up to date. For Grafana there is config/dashboards/grafana.json."""
_EXAMPLES = """\
  falcon-agent dashboards apply --api http://portal:8080 --token-file ~/.falcon --host web-01 --dry-run
  falcon-agent dashboards apply --api http://portal:8080 --token-file ~/.falcon --host web-01 --host web-02
"""

INSTALLED = "/etc/falcon-agent/dashboards/screen.toml"
"""Where the package puts it."""

_SHIPPED = os.path.join(os.path.dirname(__file__), "..", "..", "config", "dashboards", "screen.toml")
"""Where it is in the source tree."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and what it can do."""
    parser = command(commands, "dashboards", "make screens in Open-Falcon", _TEXT, _EXAMPLES)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    applying = actions.add_parser("apply", help="create and update the screens of hosts")
    applying.set_defaults(run=_apply)
    applying.add_argument(
        "--host", metavar="NAME", action="append", required=True, help="endpoint; may be given again"
    )
    applying.add_argument(
        "--screen", metavar="FILE", help=f"what is on it (default: {INSTALLED}, or the source's)"
    )
    add_portal(applying)


def _apply(args: argparse.Namespace) -> int:
    from falcon_agent.portal.screens import plan_screens, read_screen  # noqa: PLC0415

    screen = read_screen(
        args.screen or (INSTALLED if os.path.exists(INSTALLED) else os.path.normpath(_SHIPPED))
    )
    hosts = list(dict.fromkeys(args.host))
    return apply(args, lambda portal: plan_screens(screen, hosts, portal))
