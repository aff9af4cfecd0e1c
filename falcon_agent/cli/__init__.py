"""The command line: one module per command."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from falcon_agent import __version__
from falcon_agent.cli.options import HelpFormatter
from falcon_agent.errors import ConfigError, FalconAgentError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    "run",
    "collect",
    "receive",
    "containers",
    "check",
    "metrics",
    "explain",
    "spool",
    "rules",
    "dashboards",
    "completion",
)

FAILED = 1
UNUSABLE = 2

_EPILOG = """\
exit codes:
  0  it worked
  1  it did not, and standard error says why
  2  the command line or the configuration cannot be used

examples:
  falcon-agent collect --dry-run                     show every container's numbers, send nothing
  falcon-agent check                                 what will not work on this host, and why
  falcon-agent explain web container.cpu.busy        where a number comes from
  falcon-agent run --config /etc/falcon-agent/agent.toml
"""


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The command line, with all commands or some."""
    parser = argparse.ArgumentParser(
        prog="falcon-agent",
        description="Measures the containers of this host and pushes the numbers to an Open-Falcon transfer.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"falcon-agent {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in commands:
        import_module(f"falcon_agent.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # The daemon lives long with what it has loaded: the one command will do, where it comes first.
    only = [name for name in COMMANDS if argv[:1] == [name]]
    args = build_parser(only or COMMANDS).parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except ConfigError as error:
        print(f"falcon-agent: {error}", file=sys.stderr)
        return UNUSABLE
    except FalconAgentError as error:
        print(f"falcon-agent: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + 2
    except BrokenPipeError:
        # The reader went away (`| head`). Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    return code
