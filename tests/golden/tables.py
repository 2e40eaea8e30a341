"""What is kept of a run: its page, and its tables with nine digits, as one text file.

Beside the CSV files a run's tables are the numbers of its manifest, and sums over its timeline.
Tables with many rows are cut: behind the first ones stand sums over blocks of rows. Hashes and
versions are left out, since they may change for good reasons.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .play import Output

LEFT_OUT = {"run_id", "config_hash", "version", "schema"}
# Of the manifest: inputs as they were read, and what the page says too.
NOT_OF_MANIFEST = LEFT_OUT | {"files", "inputs", "notes", "traces"}
WHOLE_ROWS, BLOCK_ROWS, LIST_ITEMS = 100, 100, 4
_HASH = re.compile(r"[0-9a-f]{64}")
_RUN_ID = re.compile(r"(@[\w.-]+-)[0-9a-f]{6}(?=[/,\s\"]|$)")
_COMPARED = re.compile(r"(?m)^config_hash .*$")  # a line of a comparison: beginnings of hashes
_SECTION = "== "


@dataclass(frozen=True)
class Table:
    """Columns and rows of text cells."""

    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Kept:
    """Page and notes as lines, and tables by name."""

    line: str
    texts: dict[str, list[str]]
    tables: dict[str, Table]


def without_hashes(text: str) -> str:
    """The text with the same signs for every hash."""
    text = _COMPARED.sub(lambda line: re.sub(r"\b[0-9a-f]{6}\b", "######", line[0]), text)
    return _HASH.sub("#" * 64, _RUN_ID.sub(r"\1######", text))


def to_keep(line: str, output: Output) -> Kept:
    """What is kept of an output, its numbers not yet rounded."""
    texts = {"page": output.page, "notes": output.notes}
    return Kept(
        line,
        {name: without_hashes(text).splitlines() for name, text in texts.items()},
        dict(sorted(_tables(output))),
    )


def _tables(output: Output) -> Iterator[tuple[str, Table]]:
    """Tables by name, those of a second folder (another seed) with a number behind."""
    seen: dict[str, int] = {}
    folders: dict[str, dict[str, bytes]] = {}
    for path, data in output.files.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = data
    # In an order that hashes in the names of folders have no part in: summaries name the seed.
    for _, files in sorted(folders.items(), key=lambda item: _order(*item)):
        for name, data in sorted(files.items()):
            seen[name] = seen.get(name, 0) + 1
            number = f" {seen[name]}" if seen[name] > 1 else ""
            yield name + number, _table(name, data)


def _order(folder: str, files: dict[str, bytes]) -> tuple[str, str]:
    summary = files.get("summary.csv", b"").decode()
    return without_hashes(folder), without_hashes(summary)


def _table(name: str, data: bytes) -> Table:
    if name.endswith(".csv"):
        columns, *rows = csv.reader(io.StringIO(data.decode()))
        return _shortened(_chosen(columns, rows))
    if name == "manifest.json":
        rows = [[key, value] for key, value in _leaves("", json.loads(data))]
        return Table(["key", "value"], rows)
    if name.endswith(".json.gz"):
        return _sums_of_timeline(json.loads(gzip.decompress(data))["traceEvents"])
    raise ValueError(f"{name}: no table is known of such a file")


def _chosen(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    places = [place for place, column in enumerate(columns) if column not in LEFT_OUT]
    return Table([columns[i] for i in places], [[row[i] for i in places] for row in rows])


def number(cell: str) -> float | None:
    """The number that a cell holds, if it is one."""
    try:
        return float(cell)
    except ValueError:
        return None


def _shortened(table: Table) -> Table:
    """The first rows whole; of each block of the others sums, and which texts are in it."""
    rows = table.rows[:WHOLE_ROWS]
    for start in range(WHOLE_ROWS, len(table.rows), BLOCK_ROWS):
        block = table.rows[start : start + BLOCK_ROWS]
        rows.append([_sum(cells) for cells in zip(*block, strict=True)])
    return Table(table.columns, rows)


def _sum(cells: Sequence[str]) -> str:
    numbers = [number(cell) for cell in cells if cell]
    if any(value is None for value in numbers):
        return "|".join(sorted(set(cells)))
    return repr(sum(value or 0.0 for value in numbers))


def _leaves(path: str, tree: Any) -> Iterator[tuple[str, str]]:
    """Every number and text of a manifest with its path, of lists the first items."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in NOT_OF_MANIFEST:
                yield from _leaves(f"{path}.{key}" if path else key, value)
    elif isinstance(tree, list):
        for place, value in enumerate(tree[:LIST_ITEMS]):
            yield from _leaves(f"{path}.{place}", value)
        yield f"{path}.length", str(len(tree))
    else:
        yield path, without_hashes(tree) if isinstance(tree, str) else json.dumps(tree)


def _sums_of_timeline(events: Sequence[dict[str, Any]]) -> Table:
    """For each kind and name of event how many there are, and sums of their times and values."""
    sums: dict[tuple[str, str], list[float]] = {}
    for event in events:
        key = (event["ph"], re.sub(r"\d+", "0", event["name"]))
        values = [
            value for value in event.get("args", {}).values() if isinstance(value, int | float)
        ]
        more = (1, event.get("ts", 0), event.get("dur", 0), sum(values))
        sums[key] = [old + new for old, new in zip(sums.get(key, [0] * 4), more, strict=True)]
    rows = [[*key, *map(repr, values)] for key, values in sorted(sums.items())]
    return Table(["event", "name", "count", "ts", "dur", "args"], rows)


def rounded(cell: str) -> str:
    """A cell with at most nine digits, text and whole numbers as they are."""
    value = number(cell)
    return cell if value is None or cell.lstrip("-").isdigit() else f"{value:.9g}"


def written(kept: Kept) -> str:
    """The text of a kept file; a table of one row is turned, a column a line."""
    out = io.StringIO(newline="")
    out.write(f"{kept.line}\n")
    for name, lines in kept.texts.items():
        out.write(f"{_SECTION}{name}\n" + "".join(f"{line}\n" for line in lines))
    for name, table in kept.tables.items():
        turned = len(table.rows) == 1
        out.write(f"{_SECTION}{name}{', turned' if turned else ''}\n")
        rows = [[rounded(cell) for cell in row] for row in table.rows]
        if turned:
            rows = [list(pair) for pair in zip(table.columns, rows[0], strict=True)]
        else:
            rows = [table.columns, *rows]
        csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def read(text: str) -> Kept:
    """What ``written`` wrote."""
    line, *sections = text.split(f"\n{_SECTION}")
    texts: dict[str, list[str]] = {}
    tables: dict[str, Table] = {}
    for section in sections:
        head, _, body = section.partition("\n")
        name, _, turned = head.partition(", ")
        if name in ("page", "notes"):
            texts[name] = body.splitlines()
            continue
        rows = list(csv.reader(io.StringIO(body)))
        if turned:
            tables[name] = Table([row[0] for row in rows], [[row[1] for row in rows]])
        else:
            tables[name] = Table(rows[0], rows[1:])
    return Kept(line, texts, tables)
