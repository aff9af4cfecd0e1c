"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falcon_agent.config import Settings


def command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    """A command with its one-line summary, its description and its examples."""
    return commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config FILE`."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="configuration (default: /etc/falcon-agent/agent.toml if it exists, else built-in defaults)",
    )


def add_roots(parser: argparse.ArgumentParser) -> None:
    """`--proc DIR` and `--sys DIR`."""
    group = parser.add_argument_group("in a container", "where the host's kernel file systems are mounted")
    group.add_argument("--proc", metavar="DIR", type=_directory, help="the host's /proc, as [paths] proc")
    group.add_argument("--sys", metavar="DIR", type=_directory, help="the host's /sys; sets [paths] cgroup")


def _directory(text: str) -> str:
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with a /")
    return text.rstrip("/") or "/"


def add_json(parser: argparse._ActionsContainer, what: str = "print JSON") -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help=what)


def settings(args: argparse.Namespace) -> Settings:
    """The settings that `--config` names, with what `--proc` and `--sys` say instead of them.

    Raises:
        ConfigError: they cannot be used.
    """
    # pydantic costs a quarter of a second that `--help` need not pay.
    from falcon_agent.config import ENVIRONMENT_PREFIX, load  # noqa: PLC0415

    given = dict(os.environ)
    if getattr(args, "proc", None):
        given[f"{ENVIRONMENT_PREFIX}PATHS__PROC"] = args.proc
    if getattr(args, "sys", None):
        given[f"{ENVIRONMENT_PREFIX}PATHS__CGROUP"] = os.path.join(args.sys, "fs/cgroup")
    return load(args.config, given)
