"""`python -m docs.generate.configuration`: the reference in docs/configuration.md.

What a key means is said once, in the comments of config/agent.toml, which users have on their disk. Types, limits
and defaults come from the model that checks the configuration.
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from falcon_agent.config.model import SettingsModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TREE = Path(__file__).parent.parent.parent
DOCUMENT = TREE / "docs" / "configuration.md"
MARK = "<!-- Below this line: made by `make docs` from config/agent.toml and the model that checks it. -->\n"

_WIDTH = 110
_HEADER = re.compile(r"#?(\[{1,2})([a-z.]+)\]{1,2}")
_KEY = re.compile(r"#([a-z_]+) = (.+)")


@dataclass(slots=True)
class Group:
    """Keys that one comment speaks of; without keys it speaks of the whole section."""

    text: str
    keys: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Section:
    """One table of the file: its header as TOML writes it, and its comments with their keys."""

    header: str
    path: str
    groups: list[Group] = field(default_factory=list)


def sections(toml: str) -> Iterator[Section]:
    """The sections of a configuration whose keys are commented out, each key as `#key = default`.

    Comments are lines that begin with `# `. Those above a header belong to its section.

    Raises:
        ValueError: a line is none of these.
    """
    section: Section | None = None
    comment: list[str] = []
    for line in toml.splitlines():
        if line.startswith("# "):
            comment.append(line.removeprefix("# "))
        elif header := _HEADER.fullmatch(line):
            if section is not None:
                yield section
            section = Section(
                line.removeprefix("#"), header[2], [Group(" ".join(comment))] if comment else []
            )
            comment = []
        elif (key := _KEY.fullmatch(line)) and section is not None:
            if comment or not section.groups:
                section.groups.append(Group(" ".join(comment)))
                comment = []
            section.groups[-1].keys.append((key[1], key[2]))
        elif not line:
            comment = []
        else:
            raise ValueError(f"cannot read line {line!r} of the configuration")
    if section is not None:
        yield section


def reference(toml: str) -> Iterator[str]:
    """The lines of the reference."""
    schema = SettingsModel.model_json_schema()
    for section in sections(toml):
        fields = _fields(schema, section.path)
        yield ""
        yield f"## `{section.header}`"
        for group in section.groups:
            yield ""
            for key, shown in group.keys:
                node = fields.get(key, {"type": "string"})  # a key of [tags] is any name
                default = tomllib.loads(f"value = {shown}")["value"] == node.get("default")
                yield f"- **`{key}`**: {_allowed(schema, node)}; {'default' if default else 'for example'} `{shown}`"
            if group.keys and group.text:
                yield ""
            if group.text:
                indent = "  " if group.keys else ""
                yield from wrap(group.text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _fields(schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The properties of a section, by its dotted path."""
    here = schema
    for name in path.split("."):
        here = _resolved(schema, here["properties"][name])
        if here.get("type") == "array":
            here = _resolved(schema, here["items"])
    found: Mapping[str, Any] = here.get("properties", {})
    return found


def _resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def _allowed(schema: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    node = _resolved(schema, node)
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    match node.get("type"):
        case "array":
            least = ", at least one" if node.get("minItems") else ""
            of = _allowed(schema, node["items"])
            return f"list of {of.removeprefix('one of ') if 'one of' in of else f'{of}s'}{least}"
        case "boolean":
            return "`true` or `false`"
        case "object":
            return "table of texts"
        case "string":
            return "absolute path" if node.get("pattern") == "^/" else "text"
        case "integer" | "number" as kind:
            return ("whole number" if kind == "integer" else "number") + _range(node)
        case other:
            raise ValueError(f"cannot say in words what {other!r} allows")


def _range(node: Mapping[str, Any]) -> str:
    above, least, most = (node.get(name) for name in ("exclusiveMinimum", "minimum", "maximum"))
    low = f"above {above:g}" if above is not None else f"{least:,}" if least is not None else ""
    if most is None:
        return f", {low} and up" if low else ""
    return f", {low} to {most:,}" if above is None else f", {low}, at most {most:,}"


def document(present: str, toml: str) -> str:
    """The document with its reference made anew; what is above the mark is written by hand.

    Raises:
        ValueError: there is no mark.
    """
    if MARK not in present:
        raise ValueError(f"cannot make the reference: {DOCUMENT} has no line {MARK.strip()!r}")
    return present.partition(MARK)[0] + MARK + "\n".join(reference(toml)) + "\n"


def main() -> int:
    """Write the document."""
    toml = (TREE / "config" / "agent.toml").read_text(encoding="utf-8")
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8"), toml), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
