"""The command line: one module per command."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from falcon_agent import __version__
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


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="falcon-agent",
        description="Measures the containers of this host and pushes the numbers to an Open-Falcon transfer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"falcon-agent {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"falcon_agent.cli.{name}").add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = build_parser().parse_args(argv)
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
