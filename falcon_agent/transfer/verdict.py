"""What Open-Falcon would do with any item of a push, in plain words; for people who write push scripts.

The receiving side decodes into a Go struct with typed fields, so one badly typed field fails the whole POST.
Then transfer drops what it calls invalid (modules/transfer/receiver/rpc/rpc_transfer.go). Then graph drops or
changes more, and tells nobody (modules/graph/api/graph.go, modules/graph/g/utils.go).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from falcon_agent.naming import MAX_NAME_BYTES, is_storable
from falcon_agent.transfer.contract import COUNTER_LIMIT, MAX_SERIES_BYTES, MIN_STEP, RESERVED_METRIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Outcome: TypeAlias = Literal["ok", "changed", "dropped", "invalid", "rejected"]

MAX_TRANSFER_BYTES = 510
"""transfer counts an item invalid when metric and tags exceed this together."""

_INT64 = 2**63
_COUNTER_TYPES = ("GAUGE", "COUNTER", "DERIVE")
_STRINGS = ("endpoint", "metric", "counterType", "tags")
_INTEGERS = ("step", "timestamp")

_GO_FLOAT = re.compile(
    r"[+-]?(inf|infinity)|nan|[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?0x([0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)p[+-]?\d+",
    re.ASCII | re.IGNORECASE,
)
"""What Go's strconv.ParseFloat takes (https://pkg.go.dev/strconv#ParseFloat), but for underscores in hex."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of one item.

    Attributes:
        outcome: one of
            `ok`: stored as sent;
            `changed`: stored, but not as sent, or it does harm;
            `dropped`: transfer says fine and graph throws it away;
            `invalid`: counted and dropped by transfer;
            `rejected`: fails its whole POST.
        reasons: why, in words; empty for `ok`.
        series: identifies the series it is stored in, or None if it is not.
        timestamp: as stored, in seconds since the epoch; belongs to `series`.
    """

    outcome: Outcome
    reasons: tuple[str, ...] = ()
    series: bytes | None = None
    timestamp: int = 0


Newest: TypeAlias = "Callable[[bytes], int | None]"
"""The newest stored timestamp of a series, or None if it is new or unknown."""


def judge(item: object, now: int, newest: Newest, min_step: int = MIN_STEP) -> Verdict:
    """The fate of an item as decoded from JSON, if it arrived alone at `now` (seconds since the epoch).

    Never raises, whatever the item is. `min_step` is the shortest step that graph is taken to keep.
    """
    if item is None:
        return Verdict("invalid", ("the item is null",))
    if not isinstance(item, Mapping):
        return Verdict("rejected", ("the item is no object",))
    fields = _fields(item)
    if rejected := tuple(_type_errors(fields)):
        return Verdict("rejected", rejected)
    if invalid := tuple(_invalid(fields)):
        return Verdict("invalid", invalid)
    return _stored(fields, now, newest, min_step)


def _fields(item: Mapping[Any, Any]) -> dict[str, Any]:
    """The struct that Go would fill: field names in any case, null and absent alike are the zero value."""
    zero: dict[str, Any] = {
        "endpoint": "", "metric": "", "value": None, "step": 0, "counterType": "", "tags": "", "timestamp": 0,
    }  # fmt: skip
    names = {name.lower(): name for name in zero}
    for key, value in item.items():
        name = names.get(str(key).lower())
        if name is not None and value is not None:
            zero[name] = value
    return zero


def _type_errors(fields: Mapping[str, Any]) -> Iterator[str]:
    for name in _STRINGS:
        if not isinstance(fields[name], str):
            yield f"{name} must be a string and is {_kind(fields[name])}"
    for name in _INTEGERS:
        value = fields[name]
        if not isinstance(value, int) or isinstance(value, bool):
            yield f"{name} must be a whole number and is {_kind(value)}"
        elif not -_INT64 <= value < _INT64:
            yield f"{name} does not fit into 64 bits"
    value = fields["value"]
    if isinstance(value, int | float) and not isinstance(value, bool) and not _fits_double(value):
        yield "value is no finite number"


def _kind(value: object) -> str:
    """What JSON calls the type of a value."""
    match value:
        case bool():
            return "true or false"
        case str():
            return "a string"
        case float():
            return "a number with a fraction or exponent"
        case int():
            return "a number"
        case list():
            return "a list"
        case _:
            return "an object"


def _fits_double(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _invalid(fields: Mapping[str, Any]) -> Iterator[str]:
    for name in ("endpoint", "metric"):
        if not fields[name]:
            yield f"{name} is empty"
    if fields["metric"] == RESERVED_METRIC:
        yield f"metric {RESERVED_METRIC} is reserved"
    if fields["counterType"] not in _COUNTER_TYPES:
        yield "counterType must be exactly GAUGE, COUNTER or DERIVE"
    if fields["step"] <= 0:
        yield "step is missing or not positive"
    if _size(fields["metric"]) + _size(fields["tags"]) > MAX_TRANSFER_BYTES:
        yield f"metric and tags exceed {MAX_TRANSFER_BYTES} bytes together"
    value = fields["value"]
    if _number(value) is None:
        yield "value is " + (
            "no number" if isinstance(value, str) else "missing" if value is None else _kind(value)
        )


def _number(value: object) -> float | None:
    """The value as transfer reads it, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str) or not _GO_FLOAT.fullmatch(value):
        return None
    try:
        number = float.fromhex(value) if "x" in value.lower() else float(value)
    except OverflowError:
        return None
    overflowed = math.isinf(number) and "inf" not in value.lower()
    return None if overflowed else number


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _stored(fields: Mapping[str, Any], now: int, newest: Newest, min_step: int) -> Verdict:
    """What graph makes of an item that transfer calls valid."""
    changed: list[str] = []
    tags = _normal_tags(fields["tags"], changed)
    step = max(fields["step"], min_step)
    if step > fields["step"]:
        changed.append(f"step is raised to {min_step}")
    timestamp = _normal_timestamp(fields["timestamp"], step, now, changed)
    identity = "\0".join((fields["endpoint"], fields["metric"], tags, str(step), fields["counterType"]))
    series = blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    dropped = [*_lost_names(fields, tags), *_lost_time(timestamp, newest(series))]
    if dropped:
        return Verdict("dropped", tuple(dropped))
    changed += _odd_names(fields)
    changed += _odd_value(fields)
    return Verdict("changed" if changed else "ok", tuple(changed), series, timestamp)


def _normal_tags(tags: str, changed: list[str]) -> str:
    """Tags as transfer rewrites them: no spaces, the last of equal keys, sorted (common/utils/tags.go)."""
    if " " in tags:
        changed.append("the spaces are removed from tags")
    pairs = [part.partition("=") for part in tags.replace(" ", "").split(",")]
    kept = {key: value for key, equals, value in pairs if equals}
    if tags and not all(equals for _, equals, _ in pairs):
        changed.append("a part of tags without = is left out")
    if len(kept) < sum(1 for _, equals, _ in pairs if equals):
        changed.append("of equal keys in tags only the last is kept")
    return ",".join(f"{key}={kept[key]}" for key in sorted(kept))


def _normal_timestamp(timestamp: int, step: int, now: int, changed: list[str]) -> int:
    if timestamp <= 0 or timestamp > 2 * now:
        what = "missing, 0 or negative" if timestamp <= 0 else "in milliseconds"
        changed.append(f"timestamp is {what}: the time of arrival replaces it")
        timestamp = now
    elif timestamp > now:
        changed.append("timestamp lies in the future: points of this series are dropped until it has passed")
    return timestamp - timestamp % step


def _lost_names(fields: Mapping[str, Any], tags: str) -> Iterator[str]:
    for name, text in (("endpoint", fields["endpoint"]), ("metric", fields["metric"]), ("tags", tags)):
        # Spaces are odd, but kept.
        if not is_storable(text.replace(" ", "")):
            yield f"{name} holds a quote, >, a control character or one that MySQL cannot keep"
    if _size(fields["endpoint"]) > MAX_NAME_BYTES:
        yield f"endpoint exceeds {MAX_NAME_BYTES} bytes"
    if _size(fields["metric"]) + _size("/") + _size(tags) > MAX_SERIES_BYTES:
        yield f"metric and tags exceed the {MAX_SERIES_BYTES} bytes of the index"


def _lost_time(timestamp: int, newest: int | None) -> Iterator[str]:
    if newest is not None and timestamp <= newest:
        behind = newest - timestamp
        yield (
            "the series has a point of this time already"
            if not behind
            else f"it comes {behind} s after a newer one"
        )


def _odd_names(fields: Mapping[str, Any]) -> Iterator[str]:
    for name in ("endpoint", "metric"):
        if "/" in fields[name]:
            yield f"/ in {name}: series can collide"
        if " " in fields[name]:
            yield f"space in {name}: no expression can name it"


def _odd_value(fields: Mapping[str, Any]) -> Iterator[str]:
    value = fields["value"]
    number = _number(value)
    if number is None:  # not reached: such an item is invalid
        return
    if isinstance(value, str):
        yield "value is a string"
    if not math.isfinite(number):
        yield "value is NaN or infinite"
    elif fields["counterType"] != "GAUGE":
        if number >= COUNTER_LIMIT:
            yield f"{fields['counterType']} of 2^63 and more reads 0"
        elif number != int(number):
            yield f"the fraction of a {fields['counterType']} is cut off"
