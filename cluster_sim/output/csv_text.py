"""CSV: how values are written, the same in every table of the program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

ROWS_AT_ONCE = 65_536
_QUOTED = frozenset(',"\r\n')


def cell(value: object) -> str:
    """A value as a CSV cell: floats by repr, None and NaN empty, booleans in lower case."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def quoted(text: str) -> str:
    """A cell in quotes if it needs them: commas, quotes, line ends.

    >>> quoted("chat"), quoted("chat, long")
    ('chat', '"chat, long"')
    """
    if _QUOTED.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def csv_line(cells: Iterable[str]) -> str:
    """A line of a table; a single empty cell is quoted, since readers skip empty lines."""
    return (",".join(map(quoted, cells)) or '""') + "\n"


def format_csv(rows: Sequence[Mapping[str, object]], columns: Iterable[str] = ()) -> str:
    """Rows with equal keys as CSV text with a header, which without rows is ``columns``."""
    lines = [csv_line(rows[0] if rows else columns)]
    lines += [csv_line(map(cell, row.values())) for row in rows]
    return "".join(lines)


def csv_of_columns(columns: Mapping[str, Sequence[object]]) -> Iterator[str]:
    """Columns as CSV text, a block of lines at a time; the values of one are of one type, or
    None.
    """
    yield csv_line(columns)
    texts: list[Iterable[str]] = [_texts(values) for values in columns.values()]
    if len(texts) == 1:
        texts = [(text or '""' for text in texts[0])]
    rows = map(",".join, zip(*texts, strict=True))
    while block := list(islice(rows, ROWS_AT_ONCE)):
        yield "\n".join(block) + "\n"


def _texts(values: Sequence[object]) -> Iterable[str]:
    if hasattr(values, "tolist"):  # an array: convert a block at a time, to keep memory low
        blocks = range(0, len(values), ROWS_AT_ONCE)
        return chain.from_iterable(
            _texts(values[at : at + ROWS_AT_ONCE].tolist())  # type: ignore[attr-defined]
            for at in blocks
        )
    first = values[0] if len(values) else None
    if isinstance(first, float):
        return ("" if value is None or value != value else repr(value) for value in values)
    if isinstance(first, bool):
        return ("true" if value else "false" for value in values)
    if isinstance(first, int):
        return ("" if value is None else str(value) for value in values)
    # Few different texts, such as a status or a class, in many rows.
    known = {value: quoted(cell(value)) for value in set(values)}
    return map(known.__getitem__, values)
