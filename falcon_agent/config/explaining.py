"""What is wrong with a configuration, for a person: file, line, key, what was found and what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Any

from falcon_agent.config.model import SettingsModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KEY_PART = r"\"[^\"]*\"|'[^']*'|[\w-]+"
_KEY = re.compile(rf"\s*((?:{_KEY_PART})(?:\s*\.\s*(?:{_KEY_PART}))*)\s*=")
_CREDENTIALS = re.compile(r"//[^/@\s]*@")


def explain(problem: Any, path: str | None, text: str, variables: Mapping[tuple[str, ...], str]) -> str:
    """One line for a person: where, which key, what was found and what is allowed."""
    location = tuple(part for part in problem["loc"] if part != "[key]")
    key = ".".join(str(part) for part in location)
    variable = next((name for keys, name in variables.items() if _overlap(keys, location)), None)
    line = _line_of(text, location)
    where = variable or (f"{path}:{line}" if line else path or "the environment")
    if problem["type"] == "extra_forbidden":
        allowed = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), allowed, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where}: {key}: unknown key; {hint}allowed here: {', '.join(allowed)}"
    wanted = re.sub(r"^(Input should (be|have|match)|Value error,) ?", "", problem["msg"])
    if "headers" in location:
        return f"{where}: {key}: found something else (not shown: it may be secret), allowed: {wanted}"
    found = json.dumps(problem["input"], ensure_ascii=False, default=str)
    found = _CREDENTIALS.sub("//***@", found)
    return f"{where}: {key}: found {found[:200]}, allowed: {wanted}"


def _overlap(keys: tuple[str, ...], location: tuple[str | int, ...]) -> bool:
    """Whether a variable set the value at `location`, a part of it, or something around it."""
    shorter = min(len(keys), len(location))
    return keys[:shorter] == location[:shorter]


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    model: Any = SettingsModel
    for key in location:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def _line_of(text: str, location: tuple[str | int, ...]) -> int | None:
    """The line of the file that sets a key, or None where it is written in a way this does not follow."""
    keys = [str(part) for part in location if isinstance(part, str)]
    best = None
    for number, section, key in _assignments(text):
        full = [*section, *key]
        if full == keys:
            return number
        if full and full == keys[: len(full)]:
            best = number
    return best


def _assignments(text: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """`(line, section, key)` of every section header and `key = ...` line."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?([^\]]+)\]", line)
        if header:
            section = [part.strip().strip("\"'") for part in header[1].split(".")]
            yield number, section, []
            continue
        key = _KEY.match(line)
        if key:
            yield number, section, [part.strip("\"'") for part in re.findall(_KEY_PART, key[1])]
