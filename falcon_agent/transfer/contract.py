"""What Open-Falcon demands of a record before it may be queued.

transfer counts a bad item without naming it, answers 400 for a whole POST over one badly typed field, and
says "success" to much that graph then drops or mangles. So an own record is held against the whole contract
here, where the reason can still be told.
(modules/transfer/receiver/rpc/rpc_transfer.go, modules/graph/g/utils.go)
"""

from __future__ import annotations

import logging
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

from falcon_agent.naming import MAX_NAME_BYTES, is_storable

if TYPE_CHECKING:
    from falcon_agent.metric import Record
    from falcon_agent.selfstat import SelfStat

MAX_SERIES_BYTES = 255
"""`metric/tags` in MySQL's VARCHAR(255) index; transfer itself takes 510."""

RESERVED_METRIC = "kernel.hostname"
"""transfer counts this metric invalid, whatever its value."""

MIN_STEP = 30
"""Seconds; graph raises a smaller step to this and floors timestamps accordingly."""

COUNTER_LIMIT = 2**63
"""graph reads a COUNTER of this size as 0 (int64)."""

_TIMESTAMP_LIMIT = 2**32
"""Seconds; anything above is milliseconds by mistake, which transfer would replace by its own now."""

_COUNTER_TYPES = frozenset({"GAUGE", "COUNTER"})

_log = logging.getLogger(__name__)


def refusal(record: Record) -> str | None:
    """Why `record` must not be queued, as one word for the self statistics, or None if it is fine.

    The words: `endpoint`, `metric`, `tags`, `characters`, `too_long` (names); `value` (no number, or not
    finite), `negative`, `not_whole`, `too_large` (values); `counter_type`, `step`, `timestamp`.
    """
    return (
        _names_refusal(record.endpoint, record.metric, record.tags)
        or _value_refusal(record.value, record.counterType)
        or _time_refusal(record.step, record.timestamp)
    )


def takes(record: Record, stat: SelfStat) -> bool:
    """Whether a record may be queued; one that may not is counted as `records.invalid` by reason.

    The first one of each reason is logged as a warning, the others for debugging only.
    """
    reason = refusal(record)
    if reason is None:
        return True
    first = not stat.reasons("records.invalid").get(reason)
    stat.count("records.invalid", reason)
    _log.log(logging.WARNING if first else logging.DEBUG, "left out (%s): %r", reason, record)
    return False


def room_for_metric(endpoint: str, tags: str) -> int | None:
    """The length in bytes that the name of a metric may have beside these, or None if one of them is refused."""
    reason, tags_bytes = _tags_refusal(tags)
    return None if reason or _endpoint_refusal(endpoint) else MAX_SERIES_BYTES - len("/") - tags_bytes


# The checked values are typed, and still checked: a collector's mistake must not cost a whole POST.


def _names_refusal(endpoint: object, metric: object, tags: object) -> str | None:
    if not isinstance(endpoint, str):
        return "endpoint"
    if not isinstance(metric, str):
        return "metric"
    if not isinstance(tags, str):
        return "tags"
    reason = _endpoint_refusal(endpoint)
    if reason:
        return reason
    reason, metric_bytes = _metric_refusal(metric)
    if reason:
        return reason
    reason, tags_bytes = _tags_refusal(tags)
    if reason:
        return reason
    return "too_long" if metric_bytes + len("/") + tags_bytes > MAX_SERIES_BYTES else None


# The same few hundred strings come back every cycle, so their verdicts are kept; the caches are bounded.


@lru_cache(maxsize=2048)
def _endpoint_refusal(endpoint: str) -> str | None:
    if not endpoint:
        return "endpoint"
    if "/" in endpoint or not is_storable(endpoint):
        return "characters"
    return "too_long" if len(endpoint.encode()) > MAX_NAME_BYTES else None


@lru_cache(maxsize=2048)
def _metric_refusal(metric: str) -> tuple[str | None, int]:
    if not metric or metric == RESERVED_METRIC:
        return "metric", 0
    if "/" in metric or not is_storable(metric):
        return "characters", 0
    return None, len(metric.encode())


@lru_cache(maxsize=8192)
def _tags_refusal(tags: str) -> tuple[str | None, int]:
    if not tags:
        return None, 0
    if not is_storable(tags):
        return "characters", 0
    pairs = [part.partition("=") for part in tags.split(",")]
    keys = {key for key, _, _ in pairs}
    if len(keys) < len(pairs) or not all(key and value for key, _, value in pairs):
        return "tags", 0
    return None, len(tags.encode())


def _value_refusal(value: object, counter_type: object) -> str | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "value"
    if not isinstance(counter_type, str) or counter_type not in _COUNTER_TYPES:
        return "counter_type"
    if isinstance(value, float) and not isfinite(value):
        return "value"
    if counter_type == "COUNTER":
        return _counter_refusal(value)
    if isinstance(value, float):
        return None
    # Graph keeps a float of any size, but JSON has no place for an integer beyond 64 bits.
    return "too_large" if not -COUNTER_LIMIT <= value < COUNTER_LIMIT else None


def _counter_refusal(value: float) -> str | None:
    if value < 0:
        return "negative"
    if value >= COUNTER_LIMIT:
        return "too_large"
    return None if float(value).is_integer() else "not_whole"


def _time_refusal(step: object, timestamp: object) -> str | None:
    if type(step) is not int or step < 1:
        return "step"
    if type(timestamp) is not int or not 0 < timestamp < _TIMESTAMP_LIMIT or timestamp % step:
        return "timestamp"
    return None
