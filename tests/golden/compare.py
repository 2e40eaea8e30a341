"""Compares what a run gives now with what is kept of it: numbers as numbers, texts as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .play import play
from .runs import RUNS
from .tables import Kept, Table, number, read, rounded, to_keep, written

KEPT = Path(__file__).resolve().parent / "kept"
TOLERANCE = 1e-8  # other versions of Python and numpy differ in the last bits; nine digits are kept
NOTHING = 1e-9  # less is what rounding leaves of differences that are none
EDGES = 2  # numbers on a page that rounding may have turned over
SHOWN = 12  # differences in a message
_NUMBER = re.compile(r"((?<![\w.,-])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]\d+)?(?!\w|[.,]\d))")


@dataclass(frozen=True)
class Difference:
    """A place, and what stands there; ``relative``: by how much a number changed."""

    run: str
    place: str
    row: str
    column: str
    old: str
    new: str
    relative: float | None = None

    def __str__(self) -> str:
        by = "" if self.relative is None else f" ({self.relative:+.3g} of it)"
        where = " ".join(filter(None, (self.run, self.place, self.row, self.column)))
        return f"{where}: {self.old} -> {self.new}{by}"


def kept_file(name: str) -> Path:
    """Where the results of a run are kept."""
    return KEPT / f"{name}.txt"


def compare_run(name: str) -> tuple[Kept, list[Difference]]:
    """Play a run; what it gives, and where that differs from what is kept."""
    new = to_keep(RUNS[name], play(name))
    file = kept_file(name)
    if not file.exists():
        return new, [Difference(name, "all", "", "", "nothing kept", "a new run")]
    # Through the text, so that whatever it cannot hold is the same on both sides.
    return new, list(differences(name, read(file.read_text(encoding="utf-8")), new))


def message(found: Sequence[Difference]) -> str:
    """The first differences of every place, and how many there are."""
    lines = [str(one) for one in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"and {len(found) - SHOWN} more")
    return "\n".join(lines)


def differences(run: str, old: Kept, new: Kept) -> Iterator[Difference]:
    """Where two results of a run differ."""
    if old.line != new.line:
        yield Difference(run, "command", "", "", old.line, new.line)
    # CSV files first: what differs in them is told before what follows from it.
    for name in sorted({**old.tables, **new.tables}, key=lambda name: (".csv" not in name, name)):
        if name not in new.tables or name not in old.tables:
            yield _one_sided(run, "table", name, name in old.tables)
            continue
        keyed = name.startswith("manifest.json")
        pair = [_by_key(kept.tables[name]) if keyed else kept.tables[name] for kept in (old, new)]
        yield from _of_tables(run, name, *pair)
    for name, lines in old.texts.items():
        yield from _of_lines(run, name, lines, new.texts[name])


def _one_sided(run: str, what: str, name: str, in_old: bool) -> Difference:
    return Difference(run, what, "", name, *(("there", "gone") if in_old else ("not there", "new")))


def _by_key(table: Table) -> Table:
    """A row whose columns are the keys, so that a new key leaves the others in their places."""
    return Table([row[0] for row in table.rows], [[row[1] for row in table.rows]])


def _of_tables(run: str, name: str, old: Table, new: Table) -> Iterator[Difference]:
    if len(old.rows) != len(new.rows):
        yield Difference(run, name, "", "rows", str(len(old.rows)), str(len(new.rows)))
    places = {column: place for place, column in enumerate(new.columns)}
    for column in [*old.columns, *(one for one in new.columns if one not in old.columns)]:
        if column not in places or column not in old.columns:
            yield _one_sided(run, name, column, column in old.columns)
    shared = [(i, places[column]) for i, column in enumerate(old.columns) if column in places]
    for place, (before, after) in enumerate(zip(old.rows, new.rows, strict=False), 1):
        for i, j in shared:
            if not same_cell(before[i], after[j]):
                row = f"row {place}" if len(old.rows) > 1 else ""
                change = relative(before[i], after[j])
                cells = (before[i] or "empty", rounded(after[j]) or "empty")
                yield Difference(run, name, row, old.columns[i], *cells, change)


def same_cell(old: str, new: str) -> bool:
    """Whether cells are equal but for the last bits of numbers that are not whole."""
    if old == new:
        return True
    if old.lstrip("-").isdigit() and new.lstrip("-").isdigit():
        return False
    a, b = number(old), number(new)
    if a is None or b is None:
        return 0 <= _turned_over(old, new) <= EDGES
    size = max(abs(a), abs(b))
    return size < NOTHING or abs(a - b) <= TOLERANCE * size


def relative(old: str, new: str) -> float | None:
    """By what share of itself a number changed."""
    a, b = number(old), number(new)
    return None if a is None or b is None or a == 0 else (b - a) / abs(a)


def _of_lines(run: str, name: str, old: list[str], new: list[str]) -> Iterator[Difference]:
    edges = 0
    if len(old) != len(new):
        yield Difference(run, name, "", "lines", str(len(old)), str(len(new)))
    for place, (before, after) in enumerate(zip(old, new, strict=False), 1):
        turned = _turned_over(before, after)
        edges += max(turned, 0)
        if turned < 0 or (turned and edges > EDGES):
            yield Difference(run, name, f"line {place}", "", repr(before), repr(after))


def _turned_over(old: str, new: str) -> int:
    """How many numbers of a text differ by one in the last digit that is printed; -1 if more does.

    Rounding turns a number over where its last bits decide. Spaces beside it may shift then.
    """
    if old == new:
        return 0
    before, after = _NUMBER.split(old), _NUMBER.split(new)
    if len(before) != len(after):
        return -1
    turned = 0
    for place, (a, b) in enumerate(zip(before, after, strict=True)):
        if place % 2 and a != b:
            x, y = (float(text.replace(",", "")) for text in (a, b))
            if abs(x - y) > 1.001 * max(_last_digit(a), _last_digit(b)):
                return -1
            turned += 1
        elif not place % 2 and a.split() != b.split():
            return -1
    return turned or -1


def _last_digit(text: str) -> float:
    """What one in the last digit is worth; pages print three digits of large numbers."""
    mantissa, _, power = text.replace(",", "").lstrip("-").partition("e")
    whole, _, decimals = mantissa.partition(".")
    place = -len(decimals) if decimals else max(len(whole) - 3, 0)
    return float(10.0 ** (place + int(power or 0)))


def keep(name: str, kept: Kept) -> None:
    """Write what is kept of a run."""
    kept_file(name).write_text(written(kept), encoding="utf-8")
