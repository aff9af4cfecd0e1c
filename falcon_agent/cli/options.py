"""Options that several commands share."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

from falcon_agent.config import ENVIRONMENT_PREFIX
from falcon_agent.config.validation import Validation

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon_agent.config import Settings

log = logging.getLogger(__name__)

_COLUMNS = 80


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help with paragraphs and examples as they are written.

    It finds the width by itself: argparse would load shutil for that, with bz2 and lzma, for every option it adds.
    """

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS", "")) or _COLUMNS
        except ValueError:
            try:
                columns = (
                    os.get_terminal_size(sys.__stdout__.fileno()).columns if sys.__stdout__ else _COLUMNS
                )
            except OSError:
                columns = _COLUMNS
        super().__init__(prog, width=columns - 2)


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
        formatter_class=HelpFormatter,
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
    from falcon_agent.config.loading import load  # noqa: PLC0415

    return load(args.config, _environment(args))


def validating(args: argparse.Namespace) -> Callable[[], Settings]:
    """The same `settings`, validated by another process from now on; call what this returns when they are needed.

    Where no process can be started this one does it, and is larger from then on.
    """
    try:
        return Validation(args.config, _environment(args)).settings
    except OSError as error:
        log.warning("cannot start a process that validates the configuration: %s; done here", error.strerror)
        return lambda: settings(args)


def _environment(args: argparse.Namespace) -> dict[str, str]:
    given = dict(os.environ)
    if getattr(args, "proc", None):
        given[f"{ENVIRONMENT_PREFIX}PATHS__PROC"] = args.proc
    if getattr(args, "sys", None):
        given[f"{ENVIRONMENT_PREFIX}PATHS__CGROUP"] = os.path.join(args.sys, "fs/cgroup")
    return given
