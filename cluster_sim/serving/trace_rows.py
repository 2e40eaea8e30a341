"""What all trace readers share: reading text, checking cells, collecting rows with their errors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from cluster_sim.errors import SpecError
from cluster_sim.serving.json_rows import short
from cluster_sim.specs.find import Files, read_data
from cluster_sim.specs.workload import Lengths, TimeUnit, TrafficClass, Turns
from cluster_sim.text_file import decoded

Cells = TypeVar("Cells")
Order = Literal["rising", "sessions", "none"]  # of the times of a trace
MAX_PROBLEMS = 10
MOST_TOKENS = 100_000_000  # of one prompt or answer: more is a broken number


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """What of a trace is wanted: its first ``limit`` rows, its first ``until_s`` seconds; ``seed``
    is for what a trace leaves open; ``block_tokens`` is the unit of prefixes (none without it).

    ``timed``: requests come at the times of the trace, if it has any. ``osl`` is for rows that do
    not say how long their answer is (0 without it). The others are what the trace does not say of
    itself and the user does: tokens of a block of ``hash_ids``, unit of times, whether turns are
    ``whole`` prompts.
    """

    limit: int | None = None
    until_s: float | None = None
    skip_bad_rows: bool = False
    seed: int = 0
    block_tokens: int | None = None
    classes: tuple[TrafficClass, ...] = ()
    timed: bool = True
    osl: Lengths | None = None
    trace_block_tokens: int | None = None
    time_unit: TimeUnit | None = None
    turns: Turns | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request of a trace; ``stamp`` is its time as it was written. ``at_s`` None: not stated,
    ``osl`` 0 likewise. ``think_s``: at least so long after the end of its session's former turn.
    ``prefix`` names a shared beginning and its tokens, ``units`` are ids of blocks of the prompt.
    """

    at_s: float | None
    isl: int
    osl: int
    stamp: object = ""
    session: str = ""
    think_s: float = 0.0
    prefix: tuple[str, int] | None = None
    units: tuple[int, ...] = ()
    slo_class: str = ""
    priority: int | None = None


class FailedRequestError(ValueError):
    """A sound row that records a request without an answer."""


@dataclass(slots=True)
class Rows:
    """The usable rows of a trace, whether they have times, and how many were left out."""

    kept: list[Row] = field(default_factory=list)
    timed: bool = True
    filled: bool = False  # some turns have the time of their session
    bad: int = 0
    failed: int = 0
    latest_s: dict[str, float | None] = field(default_factory=dict)

    def dated(self, row: Row, key: str, order: Order) -> Row:
        """A row with its time: a turn without one comes when its session does. Raises ValueError
        for times that run backwards, and where some rows have times and others have none.
        """
        if row.at_s is None:
            at_s = self.latest_s.get(row.session) if row.session else None
            if not self.kept:
                self.timed = False
            elif self.timed and at_s is None:
                raise ValueError(f"{key}: missing; rows before have one")
            if at_s is not None:
                row, self.filled = replace(row, at_s=at_s), True
        elif not self.timed:
            raise ValueError(f"{key}: rows before have none (got {row.stamp!r})")
        elif order == "rising" or (order == "sessions" and not row.session):
            before = self.kept[-1].at_s if self.kept else None
            if before is not None and row.at_s < before:
                raise ValueError(
                    f"{key}: runs backwards (got {row.stamp!r}); sort the trace by time"
                )
        if row.session:
            self.latest_s[row.session] = row.at_s
        return row


def read_text(path: Path, files: Files | None = None) -> str:
    """A trace as text, its record in ``files``; raises SpecError for what is none."""
    if not os.path.lexists(path):
        raise SpecError(f"{path}: no such trace file")
    text = decoded(read_data(path, files), str(path))
    if not text.strip():
        raise SpecError(f"{path}: empty file")
    return text


def collect(
    path: Path,
    lines: Iterator[tuple[int | str, Cells]],
    parse: Callable[[Cells], Row],
    options: TraceOptions,
    *,
    time_key: str,
    order: Order = "rising",
) -> Rows:
    """Parse line by line until enough is had.

    ``parse`` raises ValueError with ``key: problem (got value)`` for a bad row. Times that run
    backwards are bad too, unless the trace is in no ``order`` or stands session by session: such
    a one is sorted. Raises SpecError naming the lines, unless such rows are to be skipped, and when
    no row is left.
    """
    rows = Rows()
    problems: list[str] = []
    first_s: float | None = None
    for line, cells in lines:
        try:
            row = rows.dated(parse(cells), time_key, order)
        except FailedRequestError:
            rows.failed += 1
            continue
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        if options.until_s is not None and options.timed and row.at_s is not None:
            first_s = row.at_s if first_s is None else first_s
            late = row.at_s - first_s > options.until_s
            if late and order != "rising":
                continue
            if late:
                break
        rows.kept.append(row)
        if options.limit is not None and len(rows.kept) >= options.limit:
            break
    rows.bad = refuse_bad(problems, options)
    if not rows.kept:
        raise SpecError(f"{path}: no usable request in this trace")
    if rows.timed and (order == "none" or rows.latest_s):
        rows.kept.sort(key=lambda row: row.at_s or 0.0)
    return rows


def refuse_bad(problems: list[str], options: TraceOptions) -> int:
    """How many problems are passed over; raises SpecError with the first of them otherwise."""
    if problems and not options.skip_bad_rows:
        more = len(problems) - MAX_PROBLEMS
        shown = problems[:MAX_PROBLEMS] + ([f"... and {more} more bad rows"] if more > 0 else [])
        raise SpecError([*shown, "leave such rows out with '--skip-bad-rows'"])
    return len(problems)


def whole(key: str, value: object, least: int = 1) -> int:
    """A count from a cell or a JSON value, which may be written as a float: tables with gaps hold
    those. Raises ValueError naming the key.
    """
    if type(value) is int and least <= value <= MOST_TOKENS:
        return value
    number = value
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d{1,12})(?:\.0*)?\s*", value)):
        number = int(found[1])
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"{key}: must be a whole number of at least {least} (got {short(value)})")
    if number > MOST_TOKENS:
        raise ValueError(f"{key}: must be at most {MOST_TOKENS:,} (got {short(value)})")
    return number


def seconds(key: str, value: object) -> float:
    """A time from a cell or a JSON value: a number, finite, not negative."""
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise ValueError(f"{key}: must be a number (got {value!r})") from None
    else:
        raise ValueError(f"{key}: must be a number (got {value!r})")
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{key}: must be finite and not negative (got {value!r})")
    return number
