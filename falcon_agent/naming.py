r"""Making names that Open-Falcon can carry: replaced characters, bounded length, tags as one string.

Container names and labels are under control of whoever made the container, so anything may come in. The rules
are those of falcon-plus: `' " > \r \n \t` and unprintable characters make a point vanish in graph
(graph/g/utils.go), characters outside the Basic Multilingual Plane fail in MySQL's utf8, transfer removes
spaces from tags and splits them at `,` and the first `=` (common/utils/tags.go), `/` in endpoint or metric
makes series collide, and a judge expression has no way to write a space, `=` or `)` inside a value.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_VALUE_BYTES = 100
"""Longest tag key or value that the cleaning functions return."""

MAX_NAME_BYTES = 255
"""Longest endpoint or metric: MySQL indexes them in VARCHAR(255)."""

MAX_TAGS_BYTES = 190
"""What `join_tags` fits the tags into: a metric of up to 64 bytes and `/` then stay within 255 together."""

_SHORTEST_VALUE_BYTES = 24
"""`join_tags` cuts no value below this: a few readable characters and the digest."""

_DIGEST_HEX = 8
_BMP_END = 0xFFFF

_PLAIN = re.compile(r"[A-Za-z0-9_.:-]*", re.ASCII)
"""What nearly all names consist of; spares looking at every character."""

_FORBIDDEN = frozenset("'\"> ")


def is_storable(text: str) -> bool:
    """Whether Open-Falcon keeps every character of `text`, wherever it stands (spaces count as not kept).

    Python's `str.isprintable` and Go's `unicode.IsPrint`, which graph asks, agree: letters, marks, numbers,
    punctuation, symbols and the ASCII space.
    """
    return _PLAIN.fullmatch(text) is not None or all(map(_is_storable_character, text))


def _is_storable_character(character: str) -> bool:
    return character not in _FORBIDDEN and character.isprintable() and ord(character) <= _BMP_END


def _clean(text: str, also_forbidden: str, limit: int) -> str:
    stripped = text.strip()
    if _PLAIN.fullmatch(stripped):
        cleaned = stripped
    else:
        cleaned = "".join(
            c if _is_storable_character(c) and c not in also_forbidden else "_" for c in stripped
        )
    return _shorten(cleaned, text, limit)


def _shorten(cleaned: str, original: str, limit: int) -> str:
    """Cut `cleaned` to `limit` bytes of UTF-8, never inside a character; a digest of `original` ends it."""
    encoded = cleaned.encode()
    if len(encoded) <= limit:
        return cleaned
    # Loaded where a name is that long: OpenSSL comes with it, 4 MB.
    from hashlib import blake2b  # noqa: PLC0415

    digest = blake2b(original.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_HEX // 2).hexdigest()
    kept = encoded[: limit - _DIGEST_HEX - 1].decode("utf-8", "ignore")
    return f"{kept}~{digest}"


@lru_cache(maxsize=4096)
def clean_tag_value(text: str) -> str:
    """A tag value that transfer, graph, MySQL and judge expressions all carry, at most 100 bytes.

    Forbidden characters become `_`; a longer value is cut and ends with `~` and 8 hex digits of a digest of
    the original, so that two stay different. Letters of other scripts stay. Returns "" for blank text: the
    caller leaves the tag out.
    """
    return _clean(text, ",=)", MAX_VALUE_BYTES)


def clean_tag_key(text: str) -> str:
    """Like `clean_tag_value`, for a tag key: the same characters would split it."""
    return clean_tag_value(text)


@lru_cache(maxsize=4096)
def clean_name(text: str) -> str:
    """An endpoint or metric: like `clean_tag_value`, but without `/` and at most 255 bytes long."""
    return _clean(text, "/,=)", MAX_NAME_BYTES)


def join_tags(pairs: Iterable[tuple[str, str]], max_bytes: int = MAX_TAGS_BYTES) -> str:
    """The `tags` field of a record: cleaned `key=value` pairs, sorted by key, joined by commas.

    Of two pairs with one key the later wins; a pair without key or value is left out. Where all of it exceeds
    `max_bytes`, the longest values are cut further (to 24 bytes each at least) so that metric and tags
    fit into MySQL's index; what still does not fit is refused when the record is queued.
    """
    tags: dict[str, str] = {}
    for key, value in pairs:
        cleaned_key = clean_tag_key(key)
        cleaned_value = clean_tag_value(value)
        if cleaned_key and cleaned_value:
            tags[cleaned_key] = cleaned_value
    joined = _joined(tags)
    if len(joined.encode()) > max_bytes:
        cap = _value_cap(tags, max_bytes)
        joined = _joined({key: _shorten(value, value, cap) for key, value in tags.items()})
    return joined


def _joined(tags: dict[str, str]) -> str:
    return ",".join(f"{key}={tags[key]}" for key in sorted(tags))


def _value_cap(tags: dict[str, str], max_bytes: int) -> int:
    """The most bytes that each value may keep so that all fit, so that only the longest lose anything."""
    fixed = sum(len(key.encode()) + len("=,") for key in tags) - 1
    sizes = [len(value.encode()) for value in tags.values()]
    for cap in range(MAX_VALUE_BYTES, _SHORTEST_VALUE_BYTES, -1):
        if fixed + sum(min(size, cap) for size in sizes) <= max_bytes:
            return cap
    return _SHORTEST_VALUE_BYTES
