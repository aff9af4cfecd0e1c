"""Links lead somewhere; commands, metrics, keys and configurations that the documents name exist."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from typing import TYPE_CHECKING

import pytest

from falcon_agent.cli import build_parser
from falcon_agent.collectors import NAMES, catalogue
from falcon_agent.config.loading import load
from falcon_agent.config.model import SettingsModel
from tests.docs.documents import DOCUMENTS, TREE, anchors, blocks, commands, inline, links, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHELLS = {"sh", "bash", "shell"}
METRICS = {metric.name for _, metric in catalogue()}
METRIC = re.compile(r"(container|host|engine|falcon_agent|agent)(\.[A-Za-z_]+)+")
"""What looks like a metric. Modules of the program look the same and are told apart by their files."""

METRIC_IN_PICTURE = re.compile(r"container\.[a-z.]+[a-z]")
KEY = re.compile(r"\[([a-z.]+)\] ([a-z_]+)")
SECTION = re.compile(r"\[{1,2}([a-z]+(?:\.[a-z]+)?)\]{1,2}")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for link in links(document):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (TREE / document).parent / path if path else TREE / document
        assert target.exists(), f"{document}: {link}"
        if anchor:
            name = target.resolve().relative_to(TREE).as_posix()
            assert anchor in anchors(name), f"{document}: {link}"


def test_every_document_is_found_from_the_index() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        document = waiting.pop()
        if document in reached:
            continue
        reached.add(document)
        for link in links(document):
            target = (TREE / document).parent / link.partition("#")[0]
            if target.suffix == ".md" and target.exists():
                waiting.append(target.resolve().relative_to(TREE).as_posix())
    assert set(DOCUMENTS) - reached == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_shown_behind_a_prompt(document: str) -> None:
    # Only what is behind a prompt is run by a test; see test_commands.
    assert not [block.about for block in blocks(document) if block.language in SHELLS]
    for block in blocks(document):
        if block.language == "console":
            assert block.text.startswith("$ "), f"{document}: {block.text}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_stand_in_no_other_block(document: str) -> None:
    for block in blocks(document):
        if block.language not in {"console", "python", "diff"}:
            assert not re.search(r"^(\$ |falcon-agent )", block.text, re.MULTILINE), block


# The command line


def test_the_check_of_command_lines_refuses_what_does_not_exist() -> None:
    assert not list(wrong("falcon-agent explain web container.cpu.busy --json"))
    assert list(wrong("falcon-agent fly"))
    assert list(wrong("falcon-agent check --wings"))
    assert list(wrong("falcon-agent spool fly"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_command_lines_exist(document: str) -> None:
    for text in (*inline(document), *commands(document)):
        for line in re.findall(r"(?:^|[|&;(] *|=\S* |sudo )(falcon-agent(?: [^|;&>)]*)?)", text):
            assert not list(wrong(line)), f"{document}: {line}: {list(wrong(line))}"


def wrong(line: str) -> Iterator[str]:
    """What the program does not know of a command line; values, file names and `...` are not looked at."""
    parser = build_parser()
    for word in shlex.split(line.replace("...", ""), comments=True)[1:]:
        if word.startswith("--"):
            if word.partition("=")[0] not in parser._option_string_actions:
                yield f"{parser.prog} has no {word}"
            continue
        actions = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
        if not actions:
            continue
        if word in actions[0].choices:
            parser = actions[0].choices[word]
        elif re.fullmatch(r"[a-z-]+", word):
            yield f"{parser.prog} has no {word}"


# Metrics, collectors, keys


@pytest.mark.parametrize("document", DOCUMENTS)
def test_metrics_exist(document: str) -> None:
    example = {block.text for block in blocks(document) if block.about.startswith("falcon_agent/")}
    known = METRICS | {name for text in example for name in re.findall(r'"(container\.[\w.]+)"', text)}
    shown = [block.text for block in blocks(document) if block.language in {"console", "toml"}]
    words = " ".join((*inline(document), *shown))
    for match in METRIC.finditer(words):
        name = match[0]
        if name in known or any(one.startswith(f"{name}.") for one in known):
            continue
        module = name.replace(".", "/")
        assert any((TREE / f"{module}{end}").exists() for end in (".py", "")) or _is_path(words, match), (
            f"{document}: no metric {name}"
        )


def test_the_picture_shows_metrics_that_exist() -> None:
    shown = set(METRIC_IN_PICTURE.findall(read("docs/collect.svg")))
    assert len(shown) > 10
    assert shown <= METRICS


def _is_path(words: str, match: re.Match[str]) -> bool:
    """Part of something longer: a path, a name of systemd, a template's field."""
    before, behind = words[: match.start()][-1:], words[match.end() :][:1]
    return (
        before in {"/", "-", "{", "."}
        or behind in {"/", "-", "}", "("}
        or match[0].endswith((".toml", ".conf", ".md", ".py", ".service"))
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_keys_exist(document: str) -> None:
    tree = SettingsModel().model_dump() | {"transfer.targets": {"name": "", "addresses": []}}
    tree["transfer.targets"] |= tree["transfer"]
    for text in inline(document):
        for section, key in KEY.findall(text):
            assert key in _section(tree, section), f"{document}: [{section}] {key}"
        if (found := SECTION.fullmatch(text)) and not found[1].startswith("tool."):
            _section(tree, found[1])


def _section(tree: dict[str, object], path: str) -> dict[str, object]:
    if path in tree:
        return tree[path]  # type: ignore[return-value]
    here = tree
    for part in path.split("."):
        here = here[part]  # type: ignore[assignment]
    return here


@pytest.mark.parametrize("document", DOCUMENTS)
def test_configurations_are_accepted(document: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(document)):
        if block.language == "toml" and not block.about:
            path = tmp_path / f"{number}.toml"
            path.write_text(block.text)
            load(str(path), {})
        elif block.language == "toml":
            tomllib.loads(block.text)  # alert rules and the like, named behind the fence


def test_every_collector_is_in_the_configuration_and_the_catalogue() -> None:
    shown = read("docs/metrics.md")
    assert all(f"Collector `{name}`" in shown or f"## {name}" in shown for name in NAMES)


# What proves a claim


@pytest.mark.parametrize("document", DOCUMENTS)
def test_proofs_exist(document: str) -> None:
    for text in inline(document):
        if found := re.fullmatch(r"(tests/[\w/]+\.py)(?:::(\w+))?", text):
            path, name = found.groups()
            assert (TREE / path).exists(), f"{document}: {path}"
            assert not name or f"def {name}(" in read(path), f"{document}: {text}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_drop_ins_exist(document: str) -> None:
    shipped = {path.name for path in (TREE / "systemd/falcon-agent.service.d").iterdir()}
    named = set(re.findall(r"\b([a-z]+\.conf)\b", read(document)))
    assert named <= shipped, f"{document}: {named - shipped}"
