"""What an alert rule is, and what Open-Falcon takes for one.

The limits are those of falcon-plus: its tables (scripts/mysql/db_schema/2_portal-db-schema.sql; MySQL cuts a
longer text or refuses it, as it is set up), its API (modules/api/app/controller/{strategy,expression,mockcfg})
and its judge (modules/judge/store/func.go, which keeps 11 points of a series).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from falcon_agent.naming import clean_name, clean_tag_value

MAX_STRATEGY_NOTE = 128
"""Characters of a strategy's note, the mark that names the rule included; an expression's may be longer."""

OPERATORS = ("=", "==", "!=", "<", "<=", ">", ">=")

Kind: TypeAlias = Literal["strategy", "expression"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_FUNC = re.compile(r"(all|max|min|sum|avg|diff|pdiff|stddev)\(#([1-9]|10)\)|lookup\(#([1-9]|10),([1-9]|10)\)")
_TIME = re.compile(r"([01]\d|2[0-4]):[0-5]\d")
_MAX_METRIC = 128
_MAX_TAGS = 256
_MAX_NUMBER = 16
_MAX_STEPS = 100
_BMP_END = 0xFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition on a metric, and what to do when it holds.

    Attributes:
        kind: `strategy` holds for the hosts of the template's host group, `expression` for every series with
            all of its tags.
        name: identifies the rule: it begins the note, and so is found again.
        metric: Open-Falcon metric name.
        tags: what the series' tags must hold; empty means every series.
        func: how the newest points become one value, e.g. `all(#3)`.
        op: compares that value with the threshold.
        threshold: in the unit that judge sees: of the metric, and per second for a COUNTER.
        max_step: how many times it is told while it lasts.
        priority: 0 is the most urgent, 6 the least; an expression begins at 1.
        note: what the message says, for the person who is woken.
        why: why this threshold.
        action: what to do when it fires.
        run_begin: `HH:MM` from which a strategy is judged; empty for always.
        run_end: `HH:MM` until which.
    """

    kind: Kind
    name: str
    metric: str
    tags: tuple[tuple[str, str], ...]
    func: str
    op: str
    threshold: float
    max_step: int
    priority: int
    note: str
    why: str
    action: str
    run_begin: str = ""
    run_end: str = ""

    @property
    def condition(self) -> str:
        """As people read it, e.g. `all(#3) >= 90`."""
        return f"{self.func} {self.op} {number(self.threshold)}"


@dataclass(frozen=True, slots=True)
class NoData:
    """A value that Open-Falcon pushes itself for hosts from which a series has stopped coming.

    Attributes:
        name: identifies it in the portal.
        metric: of the series.
        tags: all tags of the series.
        counter_type: GAUGE or COUNTER, as the series is pushed.
        step: seconds, as the series is pushed; the value comes after three of them.
        mock: the value.
        why: what it is for.
    """

    name: str
    metric: str
    tags: tuple[tuple[str, str], ...]
    counter_type: str
    step: int
    mock: float
    why: str


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules, and for whom.

    Attributes:
        template: name of the template that holds the strategies; it also marks what is ours in the portal.
        host_group: name of the host group that the template is bound to and that nodata watches.
        teams: who is told; empty leaves that to the portal.
        rules: strategies and expressions, in the order of the files.
        nodata: values for what has gone silent.
    """

    template: str
    host_group: str
    teams: tuple[str, ...]
    rules: tuple[Rule, ...]
    nodata: tuple[NoData, ...]

    def mark(self, name: str) -> str:
        """What names one of our rules in the portal, e.g. `falcon-agent/cpu-busy`."""
        return f"{self.template}/{name}"


def number(value: float) -> str:
    """A number as the API takes it: digits, with a point if need be, never with an exponent."""
    if isinstance(value, int):
        return str(value)
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def allowed_name(value: Any) -> str:
    """What a rule's name may be, or "" if `value` is fine. The functions below are alike."""
    fine = isinstance(value, str) and _NAME.fullmatch(value)
    return "" if fine else "1 to 40 of a-z, 0-9 and -"


def allowed_owner(value: Any) -> str:
    """Template, host group and team; the API looks a template up by a regular expression."""
    fine = isinstance(value, str) and _OWNER.fullmatch(value)
    return "" if fine else "1 to 40 letters, digits, dots, - and _"


def allowed_metric(value: Any) -> str:
    """A metric name that graph stores and whose table column holds it."""
    fine = isinstance(value, str) and value and clean_name(value) == value and len(value) <= _MAX_METRIC
    return "" if fine else "a metric name, e.g. container.cpu.busy"


def allowed_tags(value: Any) -> str:
    """A table of tags whose keys and values survive transfer and judge."""
    fine = isinstance(value, dict) and all(
        isinstance(each, str) and each and clean_tag_value(each) == each
        for pair in value.items()
        for each in pair
    )
    if fine and len(",".join(f"{key}={each}" for key, each in value.items())) <= _MAX_TAGS:
        return ""
    return 'a table such as { name = "web" }, without spaces, commas, = and )'


def allowed_func(value: Any) -> str:
    """A function that judge knows, of no more points than it keeps."""
    fine = isinstance(value, str) and _FUNC.fullmatch(value)
    return "" if fine else "all max min sum avg diff pdiff stddev with (#1) to (#10), or lookup(#n,m)"


def allowed_op(value: Any) -> str:
    """An operator that judge knows."""
    return "" if value in OPERATORS else " ".join(OPERATORS)


def allowed_threshold(value: Any) -> str:
    """A number; the API refuses an exponent."""
    fine = (
        _is_number(value) and len(number(value)) <= _MAX_NUMBER and math.isclose(float(number(value)), value)
    )
    return "" if fine else f"a number of at most {_MAX_NUMBER} characters and 6 decimals"


def allowed_max_step(value: Any) -> str:
    """How often it is told; 0 would silence the rule, and the API refuses it."""
    return "" if _is_whole(value) and 1 <= value <= _MAX_STEPS else f"a whole number from 1 to {_MAX_STEPS}"


def allowed_priority(value: Any, kind: Kind) -> str:
    """The API takes the 0 of an expression for a missing priority."""
    lowest = 1 if kind == "expression" else 0
    return "" if _is_whole(value) and lowest <= value <= 6 else f"a whole number from {lowest} to 6"  # noqa: PLR2004


def allowed_text(value: Any) -> str:
    """A text for people."""
    return "" if isinstance(value, str) and value.strip() else "a text that is not empty"


def allowed_note(value: Any) -> str:
    """One line that MySQL's utf8 and a short message carry."""
    fine = (
        isinstance(value, str)
        and value == value.strip()
        and value
        and value.isprintable()
        and all(ord(char) <= _BMP_END for char in value)
    )
    return "" if fine else "one line of text"


def allowed_time(value: Any) -> str:
    """A time of the day."""
    fine = isinstance(value, str) and (not value or _TIME.fullmatch(value))
    return "" if fine else '"HH:MM", or "" for always'


def allowed_counter_type(value: Any) -> str:
    """How the series is pushed."""
    return "" if value in {"GAUGE", "COUNTER"} else "GAUGE or COUNTER"


def allowed_step(value: Any) -> str:
    """Seconds; the API takes 0 for missing."""
    return "" if _is_whole(value) and value >= 1 else "seconds, 1 and up, as [agent] step"


def allowed_mock(value: Any) -> str:
    """Any number that JSON can write."""
    return "" if _is_number(value) else "a number"


def allowed_teams(value: Any) -> str:
    """A list of team names."""
    fine = isinstance(value, list) and not any(map(allowed_owner, value))
    return "" if fine else 'a list of team names, e.g. ["ops"]'


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
