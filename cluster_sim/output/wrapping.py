"""Lines and columns of pages: their width, and what stays together on a line."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Sequence

WIDTH = 80  # of a page, unless COLUMNS says otherwise
NARROWEST = 40
_TIGHT = "\u00a0"  # textwrap breaks at spaces of ASCII alone
_UNIT = (
    r"(?:%|[kKMGT]?i?[Bb](?:/s)?|[kMG]?Wh?|[kM]?J|[mnu]?s|min|h|hours?|days?|years?|USD|chips?|"
    r"devices?|clients?|[TP]?FLOP/s\S*|(?:requests?|req|tokens?)(?:/s\S*)?)"
)
_AMOUNT = re.compile(rf"(?<=\d) (?={_UNIT}(?:[^\w/]|$))|(?<=[<>=]) (?=[$\d])")
_OPTION = re.compile(r"(--[a-z][a-z-]*) (?=[\w./'])")


def page_width() -> int:
    """Columns of a page: those of the variable COLUMNS, at least 40; without it 80."""
    text = os.environ.get("COLUMNS", "")
    return max(NARROWEST, int(text)) if text.isdecimal() else WIDTH


def fill(text: str, first: str = "", rest: str = "", *, width: int | None = None) -> str:
    """A paragraph wrapped to the page, with its first line and the others indented by ``first`` and
    ``rest``; no line ends between a number and its unit, or an option and its value.
    """
    lines = textwrap.fill(
        _OPTION.sub(rf"\1{_TIGHT}", _AMOUNT.sub(_TIGHT, text)),
        width or page_width(),
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
    )
    return lines.replace(_TIGHT, " ")


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned columns, the first to the left, the others to the right.

    Where COLUMNS gives a page that is too narrow, the columns that do not fit follow below, each
    time behind the first.
    """
    return "\n\n".join(_aligned(part) for part in _that_fit(rows))


def _that_fit(rows: Sequence[Sequence[str]]) -> Iterator[Sequence[Sequence[str]]]:
    """The rows with as many of their columns as the page has room for, until all have been."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    start, room = 1, page_width() if "COLUMNS" in os.environ else sum(widths) + 2 * len(widths)
    while True:
        stop, used = start, widths[0]
        while stop < len(widths) and (stop == start or used + 2 + widths[stop] <= room):
            used, stop = used + 2 + widths[stop], stop + 1
        yield [[row[0], *row[start:stop]] for row in rows]
        if stop >= len(widths):
            return
        start = stop


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
