"""What the command line consists of, as data: for shell completion and the manual page."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Argument:
    """An option or a positional argument.

    Attributes:
        flags: how the option is written, the long form last; none for a positional argument.
        metavar: what its value is called, e.g. `FILE`; empty for an option that takes none.
        choices: the values that it may have, if only these.
        help: one line.
        required: it has to be given.
    """

    flags: tuple[str, ...]
    metavar: str
    choices: tuple[str, ...]
    help: str
    required: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or the whole program.

    Attributes:
        path: `()` for the program, then e.g. `("spool", "export")`.
        summary: one line, as the list of commands shows it.
        text: what `--help` says first, or empty.
        epilog: what it says last, or empty.
        options: in the order of `--help`.
        positionals: in order.
        commands: those that can follow.
    """

    path: tuple[str, ...]
    summary: str
    text: str
    epilog: str
    options: tuple[Argument, ...]
    positionals: tuple[Argument, ...]
    commands: tuple[Command, ...]

    def everything(self) -> Iterator[Command]:
        """This command and all below it."""
        yield self
        for command in self.commands:
            yield from command.everything()


def read(parser: argparse.ArgumentParser, path: tuple[str, ...] = (), summary: str = "") -> Command:
    """The grammar of a parser.

    argparse tells it to nobody but its own help, so this looks at what it keeps for that.
    """
    options: list[Argument] = []
    positionals: list[Argument] = []
    commands: list[Command] = []
    for action in parser._actions:  # noqa: SLF001  see above
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            summaries = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001
            commands += [
                read(inner, (*path, name), summaries[name]) for name, inner in action.choices.items()
            ]
        else:
            (options if action.option_strings else positionals).append(_argument(action))
    return Command(
        path=path,
        summary=summary,
        text=parser.description or "",
        epilog=parser.epilog or "",
        options=tuple(options),
        positionals=tuple(positionals),
        commands=tuple(commands),
    )


def _argument(action: argparse.Action) -> Argument:
    choices = tuple(str(choice) for choice in action.choices or ())
    takes_value = action.nargs != 0
    named = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return Argument(
        flags=tuple(action.option_strings),
        metavar=named if takes_value else "",
        choices=choices,
        help=action.help or "",
        required=action.required,
    )
