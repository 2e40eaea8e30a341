"""Readers of request traces: the Azure LLM inference CSV
(``TIMESTAMP,ContextTokens,GeneratedTokens``).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.serving.requests import Requests

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MAX_PROBLEMS = 10


def read_azure_csv(path: Path, limit: int | None = None, skip_bad_rows: bool = False) -> Requests:
    """Requests of an Azure CSV; arrival times count from the first row.

    Raises SpecError naming the line for missing columns, broken numbers, lengths below 1 and times
    that run backwards; with ``skip_bad_rows`` such rows are left out and counted. ``limit`` keeps
    the first rows only.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such trace file") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder, not a trace file") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not a text file (not UTF-8)") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    rows: list[tuple[float, int, int]] = []
    problems: list[str] = []
    for line, row in _dict_rows(path, text):
        try:
            parsed = _parse(row, rows[-1][0] if rows else None)
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        rows.append(parsed)
        if limit is not None and len(rows) >= limit:
            break
    if problems and not skip_bad_rows:
        more = len(problems) - MAX_PROBLEMS
        shown = problems[:MAX_PROBLEMS] + ([f"... and {more} more bad rows"] if more > 0 else [])
        raise SpecError([*shown, "leave such rows out with '--skip-bad-rows'"])
    if not rows:
        raise SpecError(f"{path}: no usable request in this trace")
    times, isl, osl = (np.array(column) for column in zip(*rows, strict=True))
    return Requests(times - times[0], isl.astype(np.int64), osl.astype(np.int64), len(problems))


def _dict_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in AZURE_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        found = ", ".join(reader.fieldnames or ()) or "nothing"
        raise SpecError(
            f"{path}:1: missing column {', '.join(missing)} (found {found}); "
            f"an Azure trace has {','.join(AZURE_COLUMNS)}"
        )
    for row in reader:
        yield reader.line_num, row


def _parse(row: dict[str, str | None], previous_s: float | None) -> tuple[float, int, int]:
    stamp, isl_text, osl_text = (row[name] for name in AZURE_COLUMNS)
    try:
        moment = datetime.fromisoformat(stamp or "")
    except ValueError:
        raise ValueError(f"TIMESTAMP: not a time (got {stamp!r})") from None
    at_s = (moment.replace(tzinfo=None) - datetime(2000, 1, 1)).total_seconds()
    if previous_s is not None and at_s < previous_s:
        raise ValueError(f"TIMESTAMP: runs backwards (got {stamp!r}); sort the trace by time")
    lengths = []
    for name, value in (("ContextTokens", isl_text), ("GeneratedTokens", osl_text)):
        if value is None or not value.strip().isdigit() or int(value) < 1:
            raise ValueError(f"{name}: must be a whole number of at least 1 (got {value!r})")
        lengths.append(int(value))
    return at_s, lengths[0], lengths[1]
