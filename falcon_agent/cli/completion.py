"""`falcon-agent completion SHELL`: what a shell needs to complete the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon_agent.cli.options import command

if TYPE_CHECKING:
    import argparse

_TEXT = """\
Print a script that lets a shell complete commands, options, files and the names of metrics. The packages bring it; for
another installation, write it where the shell looks."""
_EXAMPLES = """\
  falcon-agent completion bash > /etc/bash_completion.d/falcon-agent
  falcon-agent completion zsh > "${fpath[1]}/_falcon-agent"
  falcon-agent completion fish > ~/.config/fish/completions/falcon-agent.fish
"""

SHELLS = ("bash", "zsh", "fish")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = command(commands, "completion", "print a script for a shell's completion", _TEXT, _EXAMPLES)
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    from falcon_agent.cli import build_parser  # noqa: PLC0415
    from falcon_agent.cli.grammar import read  # noqa: PLC0415
    from falcon_agent.cli.shells import bash, fish, zsh  # noqa: PLC0415
    from falcon_agent.collectors import catalogue  # noqa: PLC0415

    render = {"bash": bash, "zsh": zsh, "fish": fish}[args.shell]
    metrics = [metric.name for _, metric in catalogue()]
    print("\n".join(render(read(build_parser()), metrics)))
    return 0
