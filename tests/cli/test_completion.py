"""Shell completion, asked of a real bash, and the manual page, formatted by a real groff."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cli import COMMANDS, build_parser
from falcon_agent.cli.grammar import Command, read
from falcon_agent.cli.manual import page
from falcon_agent.cli.shells import bash, fish, zsh
from falcon_agent.collectors import catalogue
from tests.cli.programs import falcon_agent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

METRICS = [metric.name for _, metric in catalogue()]


@pytest.fixture(scope="module")
def program() -> Command:
    return read(build_parser())


@pytest.fixture(scope="module")
def script() -> str:
    answer = falcon_agent("completion", "bash")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def completed(script: str, words: Sequence[str], where: str = ".") -> list[str]:
    """What bash offers for the last word, as readline asks for it (bash(1), Programmable Completion)."""
    ask = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _falcon_agent"
    answer = subprocess.run(
        [shutil.which("bash") or "", "--norc", "-uc", f'{script}\n{ask}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=where,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/nowhere"},  # it starts no program
    )
    assert answer.stderr == ""
    return answer.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("falcon-agent ", list(COMMANDS)),
        ("falcon-agent --v", ["--version"]),
        ("falcon-agent ch", ["check"]),
        ("falcon-agent spool ", ["status", "export", "drain", "drop"]),
        ("falcon-agent spool dr", ["drain", "drop"]),
        ("falcon-agent spool drop --b", ["--before"]),
        ("falcon-agent spool status --b", []),
        ("falcon-agent spool drop --before ", []),
        ("falcon-agent spool drop --before 1 --y", ["--yes"]),
        ("falcon-agent completion ", ["bash", "zsh", "fish"]),
        ("falcon-agent explain ", []),
        ("falcon-agent explain web container.tcp.orp", ["container.tcp.orphan"]),
        ("falcon-agent explain --config c.toml web container.tcp.orp", ["container.tcp.orphan"]),
        # Readline takes = for a word of its own.
        ("falcon-agent explain --config = c.toml web container.tcp.orp", ["container.tcp.orphan"]),
        ("falcon-agent run --config ", ["a.toml", "rules"]),
        ("falcon-agent run --config =", ["a.toml", "rules"]),
        ("falcon-agent run --config = a", ["a.toml"]),
        ("falcon-agent run --proc ", ["rules"]),
        # The value of an option is no command.
        ("falcon-agent collect --container spool ", []),
    ],
)
def test_bash_offers(line: str, offered: list[str], script: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").touch()
    (tmp_path / "rules").mkdir()
    assert completed(script, line.split(" "), str(tmp_path)) == offered


def test_bash_offers_every_option_and_metric(script: str, program: Command) -> None:
    for command in program.everything():
        flags = [flag for option in command.options for flag in option.flags]
        assert completed(script, ["falcon-agent", *command.path, "-"]) == flags
    assert completed(script, ["falcon-agent", "explain", "web", ""]) == METRICS


def test_bash_registers_it(script: str) -> None:
    asked = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\ncomplete -p falcon-agent"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "complete -F _falcon_agent falcon-agent\n"


def test_zsh_and_fish_know_every_command_option_and_metric(program: Command) -> None:
    """Both shells were asked by hand; they are no part of the tests' machine."""
    for_zsh, for_fish = "\n".join(zsh(program, METRICS)), "\n".join(fish(program, METRICS))
    for command in program.everything():
        function = "_falcon-agent_" + "_".join(command.path)
        body = re.search(rf"^{function}\(\) \{{\n(.*?)^\}}", for_zsh, re.MULTILINE | re.DOTALL)
        assert body, function
        seen = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in command.path)
        lines = [line for line in for_fish.splitlines() if f"-n '{seen}" in line]
        for option in command.options:
            for flag in option.flags:
                assert re.search(rf"'{flag}=?\[", body[1]), (function, flag)
                assert any(
                    f" {'-l' if flag[1] == '-' else '-s'} {flag.lstrip('-')} " in line for line in lines
                )
        for inner in command.commands:
            assert f"'{inner.path[-1]}:" in body[1]
            assert any(f" -a {inner.path[-1]} " in line for line in lines)
    for metric in METRICS:
        assert f" {metric}" in for_zsh
        assert metric in for_fish


def test_words_with_quotes_stay_one_word() -> None:
    """A shell that reads the script must not be misled by what help says."""
    parser = argparse.ArgumentParser(prog="x")
    parser.add_argument("--odd", metavar="FILE", help="the host's $HOME, `id` and [brackets]: all")
    odd = read(parser)
    (line,) = [line for line in zsh(odd, ["m"]) if "--odd" in line]
    (described,) = [word for word in shlex.split(line) if word.startswith("--odd")]
    assert described == r"--odd=[the host's $HOME, `id` and \[brackets\]\: all]:FILE:_files"
    (line,) = [line for line in fish(odd, ["m"]) if "-l odd" in line]
    assert line.endswith(r"-d 'the host\'s $HOME, `id` and [brackets]: all'")
    assert completed("\n".join(bash(odd, ["m"])), ["falcon-agent", "--o"]) == ["--odd"]


def test_a_shell_that_is_not_known_is_refused() -> None:
    answer = falcon_agent("completion", "tcsh")
    assert answer.returncode == 2
    assert "tcsh" in answer.stderr


def formatted(text: str) -> str:
    """The page as a terminal shows it; groff must have nothing to say about it (groff(1), -ww: every warning)."""
    answer = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-cbou"], input=text, capture_output=True, text=True, check=True
    )
    assert answer.stderr == ""
    return answer.stdout


def test_the_manual_page_has_everything_that_help_has(program: Command) -> None:
    shown = re.sub(r"\s+", " ", formatted("\n".join(page(program, ""))))
    for command in program.everything():
        if command.path:
            assert f" {' '.join(command.path)} " in shown
        for argument in (*command.options, *command.positionals):
            term = ", ".join(argument.flags) + f" {argument.metavar}" * bool(argument.metavar)
            meaning = re.sub(r"\s+", " ", argument.help.replace("`", ""))
            assert f"{term.strip()} {meaning}" in shown
        for text in (command.text, command.epilog):
            for line in text.splitlines():
                assert re.sub(r"\s+", " ", line.replace("`", "")).strip().lower() in shown.lower()


def test_the_manual_page_does_not_take_text_for_requests(program: Command) -> None:
    parser = argparse.ArgumentParser(prog="x", description='.so /etc/passwd\n\'br \\fIno\\fR -x "q" ^ ~')
    shown = formatted("\n".join(page(read(parser), "")))
    assert '.so /etc/passwd \'br \\fIno\\fR -x "q" ^ ~' in re.sub(r"\s+", " ", shown)


def test_the_manual_page_is_the_same_each_time() -> None:
    def made(**more: str) -> str:
        command = [sys.executable, "-m", "falcon_agent.cli.manual"]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | more
        ).stdout

    assert made(COLUMNS="40") == made(COLUMNS="200", PYTHONHASHSEED="7")
    assert '"1970-01-02"' in made(SOURCE_DATE_EPOCH="86400").splitlines()[0]
