"""`python -m falcon_agent.cli.manual`: the manual page falcon-agent(1), for packages to build."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from falcon_agent import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from falcon_agent.cli.grammar import Argument, Command

_SIGNALS = (
    (
        "SIGTERM, SIGINT",
        "End `run` within two seconds, after delivering what can be delivered; the rest waits on disk.",
    ),
    ("SIGHUP", "Read the configuration again; one that cannot be used is refused and the old one stays."),
)
_FILES = (
    (
        "/etc/falcon-agent/agent.toml",
        "The configuration, if there is no `--config`. It names every key and its default.",
    ),
    (
        "/etc/falcon-agent/rules, /etc/falcon-agent/dashboards",
        "What `rules` and `dashboards` put into Open-Falcon.",
    ),
    ("/var/lib/falcon-agent", "The spool, where records wait until every target has accepted them."),
)
_VARIABLES = (
    (
        "FALCON_AGENT__SECTION__KEY",
        "Overrides a key of the configuration, e.g. FALCON_AGENT__AGENT__STEP=30.",
    ),
)


def page(program: Command, day: str) -> Iterator[str]:
    """The lines of the manual page, in the macros of man(7).

    Args:
        program: the grammar.
        day: of the page, e.g. `2026-11-21`; empty for none.
    """
    yield f'.TH FALCON-AGENT 1 "{day}" "falcon-agent {__version__}" "User Commands"'
    # Neither hyphenated nor stretched: most of it is commands.
    yield ".nh"
    yield ".ad l"
    yield ".SH NAME"
    yield r"falcon-agent \- push agent that measures containers for Open-Falcon"
    yield ".SH SYNOPSIS"
    for number, command in enumerate(program.commands):
        if number:
            yield ".br"
        yield rf"\fBfalcon-agent {_plain(command.path[-1])}\fR {_usage(command)}"
    yield ".SH DESCRIPTION"
    yield from _prose(program.text)
    yield ".SH OPTIONS"
    yield from _arguments(program.options)
    yield ".SH COMMANDS"
    for command in program.commands:
        for each in command.everything():
            yield from _command(each)
    yield ".SH ENVIRONMENT"
    yield from _table(_VARIABLES)
    yield ".SH FILES"
    yield from _table(_FILES)
    yield ".SH SIGNALS"
    yield from _table(_SIGNALS)
    for title, body in _blocks(program.epilog):
        yield f'.SH "{title.upper()}"'
        yield from body


def _usage(command: Command) -> str:
    """What can follow the command's name."""
    words = [rf"\fI{_plain(argument.metavar)}\fR" for argument in command.positionals]
    if command.commands:
        words.append(rf"\fI{_plain('|'.join(each.path[-1] for each in command.commands))}\fR")
    for option in command.options:
        flag = rf"\fB{_plain(option.flags[-1])}\fR" + (
            rf" \fI{_plain(option.metavar)}\fR" if option.metavar else ""
        )
        if option.flags[-1] != "--help":
            words.append(flag if option.required else f"[{flag}]")
    return " ".join(words)


def _command(command: Command) -> Iterator[str]:
    yield f'.SS "{_plain(" ".join(command.path))}"'
    if command.text:
        yield from _prose(command.text)
    else:
        yield _line(f"{command.summary[:1].upper()}{command.summary[1:]}.")
    yield from _arguments((*command.positionals, *command.options))
    for title, body in _blocks(command.epilog):
        yield ".PP"
        yield _line(f"{title[:1].upper()}{title[1:]}:")
        yield ".PP"
        yield from body


def _arguments(arguments: Iterable[Argument]) -> Iterator[str]:
    for argument in arguments:
        yield ".TP"
        yield _term(argument)
        yield _line(argument.help)


def _term(argument: Argument) -> str:
    if not argument.flags:
        return rf"\fI{_plain(argument.metavar)}\fR"
    value = rf" \fI{_plain(argument.metavar)}\fR" if argument.metavar else ""
    return ", ".join(rf"\fB{_plain(flag)}\fR" for flag in argument.flags) + value


def _table(rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for name, meaning in rows:
        yield ".TP"
        yield rf"\fB{_plain(name)}\fR"
        yield _line(meaning)


def _prose(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield from (_line(line) for line in paragraph.splitlines())


def _blocks(epilog: str) -> Iterator[tuple[str, list[str]]]:
    """The parts of an epilog: a title and lines that stay as they are."""
    for block in re.split(r"\n\s*\n", epilog.strip()):
        if block:
            title, *lines = block.splitlines()
            yield title.rstrip(":"), [".nf", *(_line(line) for line in lines), ".fi"]


def _line(text: str) -> str:
    """Text as a line of its own: what begins with a dot or an apostrophe would be a request."""
    plain = _plain(text.replace("`", ""))
    return rf"\&{plain}" if plain.startswith((".", "'")) else plain


def _plain(text: str) -> str:
    r"""Text that means itself: a backslash is `\e`, and `\-` the character that can be copied into a shell."""
    for found, meant in (("\\", r"\e"), ("-", r"\-"), ('"', r"\(dq"), ("^", r"\(ha"), ("~", r"\(ti")):
        text = text.replace(found, meant)
    return text.replace("'", r"\(aq")


def _day(environment: Mapping[str, str]) -> str:
    """The day that reproducible builds name (SOURCE_DATE_EPOCH), or none: the same code gives the same page."""
    epoch = environment.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%d", time.gmtime(int(epoch))) if epoch else ""


def main() -> None:
    """Print the page."""
    from falcon_agent.cli import build_parser  # noqa: PLC0415
    from falcon_agent.cli.grammar import read  # noqa: PLC0415

    print("\n".join(page(read(build_parser()), _day(os.environ))))


if __name__ == "__main__":
    main()
