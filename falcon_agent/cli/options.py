"""Options that several commands share."""

from __future__ import annotations

import argparse
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


def add_json(parser: argparse._ActionsContainer, what: str = "print JSON") -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help=what)


def settings(args: argparse.Namespace) -> Settings:
    """The settings that `--config` names.

    Raises:
        ConfigError: they cannot be used.
    """
    # pydantic costs a quarter of a second that `--help` need not pay.
    from falcon_agent.config import load  # noqa: PLC0415

    return load(args.config)
