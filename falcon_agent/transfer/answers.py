"""What a receiver makes of a body, and the words of the three kinds of receivers."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from falcon_agent.transfer.contract import MIN_STEP
from falcon_agent.transfer.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_SERIES = 200_000

TEXT = "text/plain; charset=utf-8"
JSON = "application/json; charset=UTF-8"


class Newest:
    """The newest timestamp of each series; beyond `limit` those that were silent longest go."""

    def __init__(self, limit: int = MAX_SERIES) -> None:
        self._limit = limit
        self._timestamps: OrderedDict[bytes, int] = OrderedDict()

    def get(self, series: bytes) -> int | None:
        """The newest timestamp, or None."""
        return self._timestamps.get(series)

    def keep(self, series: bytes, timestamp: int) -> None:
        """A point was stored."""
        self._timestamps[series] = timestamp
        self._timestamps.move_to_end(series)
        if len(self._timestamps) > self._limit:
            self._timestamps.popitem(last=False)


def decode_items(body: bytes) -> list[Any]:
    """The items of a body; `null` is an empty list.

    Raises:
        ValueError: it is no JSON array. NaN and Infinity are no JSON; a byte order mark and gzip neither.
    """
    try:
        # Go, too, replaces bytes that are no UTF-8.
        items = json.loads(body.decode("utf-8", "replace"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if items is None:
        return []
    if not isinstance(items, list):
        raise ValueError("not an array")  # noqa: TRY004  the body is at fault, not the caller
    return items


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def judge_all(
    items: Sequence[Any], now: int, newest: Newest, min_step: int = MIN_STEP
) -> tuple[tuple[Any, Verdict], ...]:
    """The fate of each item of one POST; what is stored is remembered in `newest`."""
    fresh = Newest(0)
    alone = [judge(item, now, fresh.get, min_step) for item in items]
    if any(verdict.outcome == "rejected" for verdict in alone):
        innocent = Verdict("rejected", ("another item of its POST is badly typed",))
        verdicts = [verdict if verdict.outcome == "rejected" else innocent for verdict in alone]
        return tuple(zip(items, verdicts, strict=True))
    judged = []
    for item in items:
        # Again, one after the other: a POST may hold two points of one series.
        verdict = judge(item, now, newest.get, min_step)
        if verdict.series is not None:
            newest.keep(verdict.series, verdict.timestamp)
        judged.append((item, verdict))
    return tuple(judged)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of receiver answers.

    Attributes:
        blank: to a request without body, with status 400.
        malformed: to a body that it cannot decode, with status 400.
        kind: content type of the answer to a push that was taken.
        taken: that answer, from the numbers of items, of invalid items, and milliseconds.
    """

    blank: str
    malformed: str
    kind: str
    taken: Callable[[int, int, int], str]


def _transfer(total: int, invalid: int, milliseconds: int) -> str:
    data = {"Message": "ok", "Total": total, "Invalid": invalid, "Latency": milliseconds}
    return _compact({"msg": "success", "data": data})


def _nightingale(total: int, invalid: int, _milliseconds: int) -> str:
    return _compact({"succ": total - invalid, "fail": invalid, "msg": ""})


def _compact(answer: Mapping[str, object]) -> str:
    return json.dumps(answer, separators=(",", ":"))


DIALECTS = {
    "/api/push": Dialect("blank body\n", "decode error\n", JSON, _transfer),
    "/v1/push": Dialect("body is blank\n", "cannot decode body\n", TEXT, lambda *_: "success"),
    "/openfalcon/push": Dialect("body is blank\n", "cannot decode body\n", JSON, _nightingale),
}
"""By path: transfer, the official agent, Nightingale."""
