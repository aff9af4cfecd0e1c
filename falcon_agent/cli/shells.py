"""Completion scripts: one function per shell, each from the same grammar.

What a value may be is told by what it is called in `--help`: FILE, DIR or METRIC; a value that is called otherwise
and has no fixed choices is left to the user. The scripts start no process: the names of metrics are in them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from falcon_agent.cli.grammar import Argument, Command

_FILE, _DIRECTORY, _METRIC = "FILE", "DIR", "METRIC"

# bash

_BASH = r"""# bash completion for falcon-agent, printed by `falcon-agent completion bash`.
_falcon_agent() {
    local cur="${COMP_WORDS[COMP_CWORD]}" at="" value="" place=0 i word commands options kinds
    # bash takes "--config=f" for three words.
    [[ $cur == "=" ]] && cur=""
    _falcon_agent_grammar ""
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${COMP_WORDS[i]}"
        if [[ $word == "=" ]]; then
            continue
        elif [[ -n $value ]]; then
            value=""
        elif [[ $word == -* ]]; then
            _falcon_agent_value "$at $word"
        elif [[ " $commands " == *" $word "* ]]; then
            at="$at $word"
            _falcon_agent_grammar "$at"
        else
            place=$((place + 1))
        fi
    done
    if [[ -z $value && $cur == -* ]]; then
        value="$options"
    elif [[ -z $value ]]; then
        value="$commands${kinds[place]-}"
    fi
    COMPREPLY=()
    case $value in
        FILE) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        DIR) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        METRIC) mapfile -t COMPREPLY < <(compgen -W "$_falcon_agent_metrics" -- "$cur") ;;
        -) ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$value" -- "$cur") ;;
    esac
}
complete -F _falcon_agent falcon-agent
"""


def bash(program: Command, metrics: Sequence[str]) -> Iterator[str]:
    """For bash 4.0 and up; needs no package bash-completion."""
    yield _BASH.rstrip()
    yield f'_falcon_agent_metrics="{" ".join(metrics)}"'
    yield "_falcon_agent_grammar() {"
    yield '    commands="" options="" kinds=()'
    yield "    case $1 in"
    for command in program.everything():
        at = "".join(f" {name}" for name in command.path)
        names = " ".join(each.path[-1] for each in command.commands)
        flags = " ".join(flag for option in command.options for flag in option.flags)
        kinds = " ".join(f'"{_words(argument)}"' for argument in command.positionals)
        yield f'        "{at}") commands="{names}"; options="{flags}"; kinds=({kinds}) ;;'
    yield "    esac"
    yield "}"
    yield "_falcon_agent_value() {"
    yield "    case $1 in"
    for command in program.everything():
        at = "".join(f" {name}" for name in command.path)
        for option in command.options:
            if option.metavar:
                patterns = "|".join(f'"{at} {flag}"' for flag in option.flags)
                yield f'        {patterns}) value="{_words(option)}" ;;'
    yield "    esac"
    yield "}"


def _words(argument: Argument) -> str:
    """The choices, a word that stands for a kind of value, or `-`."""
    if argument.choices:
        return " ".join(argument.choices)
    return argument.metavar if argument.metavar in {_FILE, _DIRECTORY, _METRIC} else "-"


# zsh


def zsh(program: Command, metrics: Sequence[str]) -> Iterator[str]:
    """For zsh's completion system: a file `_falcon-agent` in one of the directories of `fpath`."""
    yield "#compdef falcon-agent"
    yield "# zsh completion for falcon-agent, printed by `falcon-agent completion zsh`."
    for command in program.everything():
        yield f"{_zsh_function(command)}() {{"
        yield from (f"    {line}" for line in _zsh_body(command))
        yield "}"
    yield "_falcon-agent_metric() {"
    yield f"    compadd -- {' '.join(metrics)}"
    yield "}"
    # Autoloaded, the file is the body of the function; sourced, it is a script.
    yield "if [[ $funcstack[1] == _falcon-agent ]]"
    yield 'then _falcon-agent_ "$@"'
    yield "else compdef _falcon-agent_ falcon-agent"
    yield "fi"


def _zsh_function(command: Command) -> str:
    return f"_falcon-agent_{'_'.join(command.path)}"


def _zsh_body(command: Command) -> Iterator[str]:
    specifications = []
    for option in command.options:
        value = f":{option.metavar}:{_zsh_action(option)}" if option.metavar else ""
        equals = "=" if option.metavar else ""
        specifications += [
            _zsh_quoted(f"{flag}{equals}[{_zsh_text(option.help)}]{value}") for flag in option.flags
        ]
    for place, argument in enumerate(command.positionals, 1):
        specifications.append(_zsh_quoted(f"{place}:{argument.metavar}:{_zsh_action(argument)}"))
    if not command.commands:
        yield f"_arguments {' '.join(specifications)}"
        return
    yield "local context state line"
    yield "typeset -A opt_args"
    yield f"_arguments -C {' '.join(specifications)} '1: :->command' '*:: :->rest'"
    yield "case $state in"
    described = " ".join(_zsh_quoted(f"{each.path[-1]}:{each.summary}") for each in command.commands)
    yield f"    command) local -a commands=({described}); _describe command commands ;;"
    yield "    rest) case $line[1] in"
    for each in command.commands:
        yield f"        {each.path[-1]}) {_zsh_function(each)} ;;"
    yield "    esac ;;"
    yield "esac"


def _zsh_action(argument: Argument) -> str:
    if argument.choices:
        return f"({' '.join(argument.choices)})"
    return {_FILE: "_files", _DIRECTORY: "_files -/", _METRIC: "_falcon-agent_metric"}.get(
        argument.metavar, " "
    )


def _zsh_text(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"


# fish


def fish(program: Command, metrics: Sequence[str]) -> Iterator[str]:
    """For fish 3.0 and up."""
    yield "# fish completion for falcon-agent, printed by `falcon-agent completion fish`."
    yield "complete -c falcon-agent -f"
    for command in program.everything():
        here = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in command.path)
        names = " ".join(each.path[-1] for each in command.commands)
        none_yet = f"not __fish_seen_subcommand_from {names}" if names else ""
        when = "; and ".join(filter(None, (here, none_yet)))
        for each in command.commands:
            yield f"complete -c falcon-agent -n {_fish_quoted(when)} -a {each.path[-1]} -d {_fish_quoted(each.summary)}"
        for option in command.options:
            flags = " ".join(_fish_flag(flag) for flag in option.flags)
            value = f" {_fish_value(option, metrics)}" if option.metavar else ""
            yield f"complete -c falcon-agent -n {_fish_quoted(when)} {flags}{value} -d {_fish_quoted(option.help)}"
        for argument in command.positionals:
            if argument.choices or argument.metavar in {_FILE, _DIRECTORY, _METRIC}:
                yield f"complete -c falcon-agent -n {_fish_quoted(when)} {_fish_value(argument, metrics)}"


def _fish_flag(flag: str) -> str:
    return f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"


def _fish_value(argument: Argument, metrics: Sequence[str]) -> str:
    if argument.choices:
        return f"-x -a {_fish_quoted(' '.join(argument.choices))}"
    if argument.metavar == _FILE:
        return "-r -F"
    if argument.metavar == _DIRECTORY:
        return "-x -a '(__fish_complete_directories)'"
    return f"-x -a {_fish_quoted(' '.join(metrics))}" if argument.metavar == _METRIC else "-x"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", r"\\").replace("'", r"\'") + "'"
