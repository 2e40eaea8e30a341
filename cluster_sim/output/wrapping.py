"""Lines of pages: their width, and what stays together on one."""

from __future__ import annotations

import os
import re
import textwrap

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
