"""What a push was answered: parsing the three known replies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

MAX_MESSAGE = 200
"""Characters of foreign text that go into a message."""

_MAX_DATE = 64
"""An HTTP date has 29 characters."""
_USUAL_DATE = re.compile(r"\w{3}, (\d\d) (\w{3}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Reply:
    """A push that was taken.

    Attributes:
        total: items that the transfer saw, or None where its reply does not say (the official agent).
        invalid: of these, how many it threw away.
        message: its own words, e.g. `ok`.
        latency: of the whole exchange, in seconds.
        address: who took it, without credentials.
        server_time: the clock of the HTTP server when it answered, in seconds since the epoch, to the second;
            None where it does not say, as over JSON-RPC.
    """

    total: int | None
    invalid: int
    message: str
    latency: float = 0.0
    address: str = ""
    server_time: float | None = None


def parse_reply(content: bytes) -> Reply | None:
    """The reply in a 200 answer, or None if it is none of the known ones (then the push may be lost).

    - transfer: `{"msg":"success","data":{"Message":"ok","Total":1,"Invalid":0,"Latency":0}}`
    - the official agent's /v1/push: the text `success`
    - Nightingale's /openfalcon/push: `{"succ":1,"fail":0,"msg":""}`
    """
    if content.strip() == b"success":
        return Reply(None, 0, "success")
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    match answer:
        case {"msg": "success", "data": data}:
            return reply_of(data)
        case {"succ": int(succ), "fail": fail} if _is_count(succ) and _is_count(fail):
            return _checked(succ + fail, fail, answer.get("msg"))
        case _:
            return None


def reply_of(result: object) -> Reply | None:
    """The reply in transfer's own structure, `{"Message":"ok","Total":1,"Invalid":0,"Latency":0}`, or None."""
    match result:
        case {"Total": total, "Invalid": invalid, **rest}:
            return _checked(total, invalid, rest.get("Message"))
        case _:
            return None


def http_time(value: str | None) -> float | None:
    """The seconds since the epoch of an HTTP date (RFC 9110 section 5.6.7), or None if it is none."""
    if value is None or len(value) > _MAX_DATE:
        return None
    try:
        if usual := _USUAL_DATE.fullmatch(value):
            day, month, year, hour, minute, second = usual.groups()
            clock = int(hour), int(minute), int(second)
            return datetime(int(year), _MONTHS.index(month) + 1, int(day), *clock, tzinfo=UTC).timestamp()
        # For the two forms that nobody uses any more it is worth loading.
        from email.utils import parsedate_to_datetime  # noqa: PLC0415

        when = parsedate_to_datetime(value)
        # "-0000" means that the zone is unknown; HTTP knows one only.
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checked(total: int, invalid: int, message: object) -> Reply | None:
    if not _is_count(total) or not _is_count(invalid) or invalid > total:
        return None
    return Reply(total, invalid, printable(message) if isinstance(message, str) else "")


def first_line(content: bytes) -> str:
    """The first line of an error page, fit for a log."""
    lines = content[: 4 * MAX_MESSAGE].decode("utf-8", "replace").strip().splitlines()
    return printable(lines[0].strip()) if lines else ""


def printable(text: str, limit: int = MAX_MESSAGE) -> str:
    """Foreign text for a log or terminal: at most `limit` characters, control characters written out."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:limit])
    return shown + "…" if len(text) > limit else shown
