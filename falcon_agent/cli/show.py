"""How commands print: tables, units, and text from outside made harmless."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PREFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi")
_KIBI = 1024


def printable(text: str) -> str:
    """The text with every control character written as an escape: names from containers reach a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def amount(value: float, unit: str) -> str:
    """A value with its unit as people write it, e.g. `12.5 MiB`, `3.20 %`, `4 sockets`."""
    if unit == "bytes":
        index = 0
        while abs(value) >= _KIBI and index < len(_PREFIXES) - 1:
            value /= _KIBI
            index += 1
        return f"{value:.1f} {_PREFIXES[index]}B" if index else f"{value:g} B"
    number = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}".rstrip("0").rstrip(".")
    if unit == "percent":
        return f"{number} %"
    return number if unit == "1" else f"{number} {unit}"


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", right: Iterable[int] = ()
) -> None:
    """Print rows under headers: aligned, coloured on a terminal only, never cut when piped.

    Args:
        headers: column names.
        rows: cells; control characters in them are escaped.
        title: a line above.
        right: numbers of the columns that are aligned to the right.
    """
    # rich is for people: the daemon and --json never load it.
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold", header_style="bold"
    )
    if title:
        table.title = Text(printable(title))
    aligned = set(right)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number in aligned else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _console().print(table)


def print_marked(mark: str, style: str, text: str) -> None:
    """Print a word in a colour and a text behind it, e.g. the lines of `check`."""
    from rich.text import Text  # noqa: PLC0415

    _console().print(Text.assemble((f"{mark:<5}", style), printable(text)), soft_wrap=True)


def _console() -> Any:
    from rich.console import Console  # noqa: PLC0415

    # Into a pipe the width is nobody's: wide enough that nothing is folded.
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 400)


def print_json(value: object) -> None:
    """Print one JSON document."""
    import orjson  # noqa: PLC0415

    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
