"""The two forms most control files have (Linux, admin-guide/cgroup-v2.rst, "Format")."""

from __future__ import annotations

from falcon_agent.errors import ParseError

_MAX_DIGITS = 20
_ENDS = frozenset((b"", b"\n"))


def parse_keyed(content: bytes, source: str, *keys: bytes) -> list[int | None]:
    r"""Some lines of a file of `KEY VALUE` lines, such as `cpu.stat` or `memory.stat`.

    Which keys there are depends on the kernel's age and configuration: an absent one means "not known". Of the 40
    lines of `memory.stat` five are used: finding them costs a quarter of taking all apart.

    Args:
        content: of the file.
        source: its name, for the error.
        keys: of the lines, each as `b"\nKEY "`, the end of the line before it and the space after it included.

    Raises:
        ParseError: the value of one is no number, or the last line was cut short.
    """
    if content[-1:] not in _ENDS:
        raise ParseError(source, "its last line is cut short")
    values: list[int | None] = []
    end = 0
    for key in keys:
        # Those that are given in the order of the file are found by looking on from the last one.
        at = content.find(key, end)
        if at < 0 and (at := content.find(key)) < 0 and not content.startswith(key[1:]):
            values.append(None)
            continue
        at += len(key)
        end = content.index(b"\n", at)
        value = content[at:end]
        # int() alone would let through signs, spaces and underscores.
        if not value.isdigit() or end - at > _MAX_DIGITS:
            raise ParseError(source, f"{value[:80]!r} is not a number")
        values.append(int(value))
    return values


def parse_single_value(content: bytes, source: str) -> int:
    """A file that holds one number, such as `memory.current`.

    Raises:
        ParseError: it holds anything else.
    """
    value = content[:-1]
    if not value.isdigit() or content[-1:] != b"\n" or len(value) > _MAX_DIGITS:
        raise ParseError(source, f"{content[:80]!r} is not one number")
    return int(value)
