"""Rules as people write them: every `*.toml` of a directory, read together."""

from __future__ import annotations

import difflib
import glob
import json
import os
import tomllib
from functools import partial
from typing import TYPE_CHECKING, Any

from falcon_agent.errors import ConfigError
from falcon_agent.portal import rules
from falcon_agent.portal.rules import NoData, Rule, RuleSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from falcon_agent.portal.rules import Kind

    Checks = Mapping[str, Callable[[Any], str]]

MAX_FILE_BYTES = 1024 * 1024
"""Ours have a few thousand; more is no file of rules."""

_TEMPLATE: Checks = {
    "name": rules.allowed_owner,
    "host_group": rules.allowed_owner,
    "teams": rules.allowed_teams,
}
_TEMPLATE_DEFAULTS: Mapping[str, Any] = {"name": "falcon-agent", "host_group": "docker-hosts", "teams": []}

_NODATA: Checks = {
    "name": rules.allowed_name,
    "metric": rules.allowed_metric,
    "tags": rules.allowed_tags,
    "counter_type": rules.allowed_counter_type,
    "step": rules.allowed_step,
    "mock": rules.allowed_mock,
    "why": rules.allowed_text,
}
_NODATA_DEFAULTS: Mapping[str, Any] = {"tags": {}, "counter_type": "GAUGE", "step": 60}

_RULE: Checks = {
    "name": rules.allowed_name,
    "metric": rules.allowed_metric,
    "tags": rules.allowed_tags,
    "func": rules.allowed_func,
    "op": rules.allowed_op,
    "threshold": rules.allowed_threshold,
    "max_step": rules.allowed_max_step,
    "note": rules.allowed_note,
    "why": rules.allowed_text,
    "action": rules.allowed_text,
}
_RULE_DEFAULTS: Mapping[str, Any] = {"tags": {}, "max_step": 3}
_STRATEGY: Checks = {
    **_RULE,
    "priority": partial(rules.allowed_priority, kind="strategy"),
    "run_begin": rules.allowed_time,
    "run_end": rules.allowed_time,
}
_STRATEGY_DEFAULTS: Mapping[str, Any] = {**_RULE_DEFAULTS, "run_begin": "", "run_end": ""}
_EXPRESSION: Checks = {**_RULE, "priority": partial(rules.allowed_priority, kind="expression")}

_SECTIONS = ("template", "strategy", "expression", "nodata")


def read_rules(
    directory: str,
    template: str | None = None,
    host_group: str | None = None,
    teams: Sequence[str] = (),
) -> RuleSet:
    """Every rule in the `*.toml` files of a directory.

    Args:
        directory: where the files are.
        template: instead of what a file's `[template] name` says.
        host_group: instead of its `host_group`.
        teams: instead of its `teams`, if any are given.

    Raises:
        ConfigError: there are none, or they cannot be used; the message lists all that is wrong, with file, rule,
            key, what was found and what is allowed.
    """
    paths = sorted(glob.glob(os.path.join(glob.escape(directory), "*.toml")))
    if not paths:
        what = "holds no *.toml file" if os.path.isdir(directory) else "is no directory"
        raise ConfigError(f"cannot find rules: {directory} {what}; name another with --rules DIR")
    reading = _Reading()
    for path in paths:
        reading.take(path, _load(path))
    given = {"name": template, "host_group": host_group, "teams": list(teams) or None}
    found = reading.finish({key: value for key, value in given.items() if value is not None})
    if reading.wrong:
        raise ConfigError(
            f"cannot use the rules in {directory}:\n" + "\n".join(f"  {line}" for line in reading.wrong)
        )
    return found


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"cannot use {path}: longer than {MAX_FILE_BYTES} bytes")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot use {path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"cannot use {path}: nested too deeply") from None


class _Reading:
    """What the files said so far, and what was wrong with it."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._template: dict[str, Any] = {}
        self._template_at = ""
        self._rules: list[tuple[str, Rule]] = []
        self._nodata: list[NoData] = []
        self._named: dict[tuple[str, str], str] = {}

    def take(self, path: str, document: Mapping[str, Any]) -> None:
        self._unknown(path, document, _SECTIONS)
        if "template" in document:
            self._take_template(path, document["template"])
        for entry in self._entries(path, "strategy", document):
            self._take_rule(path, "strategy", entry, _STRATEGY, _STRATEGY_DEFAULTS)
        for entry in self._entries(path, "expression", document):
            self._take_rule(path, "expression", entry, _EXPRESSION, _RULE_DEFAULTS)
        for entry in self._entries(path, "nodata", document):
            where = self._where(path, "nodata", entry)
            if self._check(where, entry, _NODATA, _NODATA_DEFAULTS) and self._is_new(path, "nodata", entry):
                values = {**_NODATA_DEFAULTS, **entry}
                self._nodata.append(NoData(**{**values, "tags": _pairs(values["tags"])}))

    def _take_template(self, path: str, entry: Any) -> None:
        if self._template_at:
            self.wrong.append(f"{path}: template: is in {self._template_at} already")
        elif not isinstance(entry, dict):
            self.wrong.append(f"{path}: template: found {_shown(entry)}, allowed: a section [template]")
        elif self._check(f"{path}: template", entry, _TEMPLATE, _TEMPLATE_DEFAULTS):
            self._template, self._template_at = entry, path

    def _take_rule(
        self,
        path: str,
        kind: Kind,
        entry: Mapping[str, Any],
        checks: Checks,
        defaults: Mapping[str, Any],
    ) -> None:
        where = self._where(path, kind, entry)
        if not self._check(where, entry, checks, defaults) or not self._is_new(path, "rule", entry):
            return
        values = {**defaults, **entry}
        if kind == "expression" and not values["tags"]:
            self.wrong.append(
                f"{where}: tags: found none, allowed: one at least; judge finds expressions by them"
            )
            return
        self._rules.append((where, Rule(kind=kind, **{**values, "tags": _pairs(values["tags"])})))

    def finish(self, given: Mapping[str, Any]) -> RuleSet:
        """The set with what the command line gave; what that makes wrong is noted too."""
        self._check("command line", given, _TEMPLATE, _TEMPLATE_DEFAULTS)
        chosen = {**_TEMPLATE_DEFAULTS, **self._template, **given}
        found = RuleSet(
            template=chosen["name"],
            host_group=chosen["host_group"],
            teams=tuple(chosen["teams"]),
            rules=tuple(rule for _, rule in self._rules),
            nodata=tuple(self._nodata),
        )
        for where, rule in self._rules:
            room = rules.MAX_STRATEGY_NOTE - len(f"{found.mark(rule.name)}: ")
            if rule.kind == "strategy" and len(rule.note) > room:
                self.wrong.append(f"{where}: note: found {len(rule.note)} characters, allowed: {room}")
        return found

    def _entries(self, path: str, section: str, document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        entries = document.get(section, [])
        if not isinstance(entries, list):
            self.wrong.append(f"{path}: {section}: found {_shown(entries)}, allowed: [[{section}]]")
            return
        for entry in entries:
            if isinstance(entry, dict):
                yield entry
            else:
                self.wrong.append(f"{path}: {section}: found {_shown(entry)}, allowed: [[{section}]]")

    @staticmethod
    def _where(path: str, section: str, entry: Mapping[str, Any]) -> str:
        name = entry.get("name")
        return (
            f"{path}: {section} {name if isinstance(name, str) and name.isprintable() else 'without a name'}"
        )

    def _check(
        self, where: str, entry: Mapping[str, Any], checks: Checks, defaults: Mapping[str, Any]
    ) -> bool:
        before = len(self.wrong)
        self._unknown(where, entry, checks)
        for key, allowed in checks.items():
            if key not in entry:
                if key not in defaults:
                    self.wrong.append(f"{where}: {key}: missing, allowed: {allowed(None)}")
            elif complaint := allowed(entry[key]):
                self.wrong.append(f"{where}: {key}: found {_shown(entry[key])}, allowed: {complaint}")
        return len(self.wrong) == before

    def _unknown(
        self, where: str, entry: Mapping[str, Any], known: Mapping[str, Any] | Sequence[str]
    ) -> None:
        for key in entry:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {close[0]}? " if close else ""
                self.wrong.append(
                    f"{where}: {_shown(key)}: unknown key; {hint}allowed here: {', '.join(known)}"
                )

    def _is_new(self, path: str, kind: str, entry: Mapping[str, Any]) -> bool:
        first = self._named.get((kind, entry["name"]))
        if first is not None:
            self.wrong.append(f"{path}: {kind} {entry['name']}: is in {first} already; names are given once")
            return False
        self._named[kind, entry["name"]] = path
        return True


def _pairs(tags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(tags.items()))


def _shown(value: Any) -> str:
    """A value of the file, short and harmless on a terminal."""
    return json.dumps(value, default=str)[:200]
