"""What is in the documents: blocks, commands, links, and words that mean something to the program."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).parent.parent.parent
DOCUMENTS = tuple(
    sorted(path.relative_to(TREE).as_posix() for path in (*TREE.glob("*.md"), *(TREE / "docs").rglob("*.md")))
)
"""Every document, by its path in the tree."""

_FENCE = re.compile(r"^ *```(\S*)[ \t]*(.*?)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img [^>]*src=\"([^\"]+)\"")
_PROMPT = "$ "
_INDENTED = re.compile(r"^ {4,}((?:falcon-agent|make|systemctl|docker|kubectl) .*)$", re.MULTILINE)
_CONTINUED = re.compile(r"\\\n\s*")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        document: where it is.
        language: first word behind the fence.
        about: the rest of that line, e.g. a file's path.
        text: the lines between the fences.
    """

    document: str
    language: str
    about: str
    text: str


def read(document: str) -> str:
    """The text of a document."""
    return (TREE / document).read_text(encoding="utf-8")


def blocks(document: str) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    for match in _FENCE.finditer(read(document)):
        yield Block(document, match[1], match[2].strip(), dedent(match[3]))


def prose(document: str) -> str:
    """The text of a document without its fenced blocks."""
    return _FENCE.sub("", read(document))


def commands(document: str) -> list[str]:
    """The shell commands that a document shows, joined where `\\` goes on.

    They stand behind a `$ ` in a console block, or in an indented block and begin with a program that we know.
    """
    shown = [block.text for block in blocks(document) if block.language == "console"]
    lines = (line for text in shown for line in _CONTINUED.sub("", text).splitlines())
    prompted = [line.removeprefix(_PROMPT).strip() for line in lines if line.startswith(_PROMPT)]
    return prompted + _INDENTED.findall(_CONTINUED.sub("", prose(document)))


def inline(document: str) -> Iterator[str]:
    """What stands between single backquotes outside of blocks."""
    for match in _INLINE.finditer(prose(document)):
        yield match[1]


def links(document: str) -> Iterator[str]:
    """The targets of links and pictures outside of blocks."""
    for match in _LINK.finditer(prose(document)):
        yield match[1] or match[2]


def anchors(document: str) -> set[str]:
    """The names of its headings, as a link's `#...` gives them."""
    found = set()
    for line in prose(document).splitlines():
        if line.startswith("#"):
            words = re.sub(r"[^\w\s-]", "", line.lstrip("#").strip().lower())
            found.add(re.sub(r"\s", "-", words))
    return found
