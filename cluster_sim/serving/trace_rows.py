"""What all trace readers share: reading text, checking cells, collecting rows with their errors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from cluster_sim import text_file
from cluster_sim.errors import SpecError
from cluster_sim.serving.requests import (
    FloatArray,
    IntArray,
    Prefixes,
    Requests,
    prefixes_of_runs,
)
from cluster_sim.specs.workload import TrafficClass

Cells = TypeVar("Cells")
MAX_PROBLEMS = 10
MOST_TOKENS = 100_000_000  # of one prompt or answer: more is a broken number
COARSE = 0.5  # share of the rows that share their time with another from which on times are ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """What of a trace is wanted: its first ``limit`` rows, its first ``until_s`` seconds; ``seed``
    is for what a trace leaves open; ``block_tokens`` is the unit of prefixes (none without it).
    """

    limit: int | None = None
    until_s: float | None = None
    skip_bad_rows: bool = False
    seed: int = 0
    block_tokens: int | None = None
    classes: tuple[TrafficClass, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request of a trace; ``stamp`` is its time as it was written. ``prefix`` names a shared
    beginning and its tokens, ``units`` are ids of blocks of the prompt.
    """

    at_s: float
    isl: int
    osl: int
    stamp: object = ""
    session: str = ""
    prefix: tuple[str, int] | None = None
    units: tuple[int, ...] = ()
    slo_class: str = ""
    priority: int | None = None


class FailedRequestError(ValueError):
    """A sound row that records a request without an answer."""


@dataclass(slots=True)
class Rows:
    """The usable rows of a trace, and how many were left out."""

    kept: list[Row] = field(default_factory=list)
    bad: int = 0
    failed: int = 0


def read_text(path: Path) -> str:
    """A trace as text; raises SpecError for what is none."""
    if not os.path.lexists(path):
        raise SpecError(f"{path}: no such trace file")
    text = text_file.read_text(path)
    if not text.strip():
        raise SpecError(f"{path}: empty file")
    return text


def collect(
    path: Path,
    lines: Iterator[tuple[int, Cells]],
    parse: Callable[[Cells], Row],
    options: TraceOptions,
    *,
    time_key: str,
    unordered: bool = False,
) -> Rows:
    """Parse line by line until enough is had.

    ``parse`` raises ValueError with ``key: problem (got value)`` for a bad row. Times that run
    backwards are bad too; an ``unordered`` trace is sorted instead. Raises SpecError naming the
    lines, unless such rows are to be skipped, and when no row is left.
    """
    rows = Rows()
    problems: list[str] = []
    for line, cells in lines:
        try:
            row = parse(cells)
            if not unordered and rows.kept and row.at_s < rows.kept[-1].at_s:
                got = f"{time_key}: runs backwards (got {row.stamp!r})"
                raise ValueError(f"{got}; sort the trace by time")
        except FailedRequestError:
            rows.failed += 1
            continue
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        if options.until_s is not None and rows.kept:
            late = row.at_s - rows.kept[0].at_s > options.until_s
            if late and unordered:
                continue
            if late:
                break
        rows.kept.append(row)
        if options.limit is not None and len(rows.kept) >= options.limit:
            break
    rows.bad = refuse_bad(problems, options)
    if not rows.kept:
        raise SpecError(f"{path}: no usable request in this trace")
    if unordered:
        rows.kept.sort(key=lambda row: row.at_s)
    return rows


def refuse_bad(problems: list[str], options: TraceOptions) -> int:
    """How many problems are passed over; raises SpecError with the first of them otherwise."""
    if problems and not options.skip_bad_rows:
        more = len(problems) - MAX_PROBLEMS
        shown = problems[:MAX_PROBLEMS] + ([f"... and {more} more bad rows"] if more > 0 else [])
        raise SpecError([*shown, "leave such rows out with '--skip-bad-rows'"])
    return len(problems)


def whole(key: str, value: object, least: int = 1) -> int:
    """A count from a cell or a JSON value; raises ValueError naming the key."""
    number = value
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,12}\s*", value):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"{key}: must be a whole number of at least {least} (got {value!r})")
    if number > MOST_TOKENS:
        raise ValueError(f"{key}: must be at most {MOST_TOKENS:,} (got {value!r})")
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


def as_requests(rows: Rows, options: TraceOptions, *, coarse: bool = False) -> Requests:
    """Rows as columns; times count from the first.

    ``coarse``: where most rows share their time with others, the times are ticks of a slow clock,
    and requests are spread evenly at random over their tick, in order.
    """
    kept = rows.kept
    at_s = np.array([row.at_s for row in kept])
    if coarse:
        at_s = _spread_ticks(at_s, options.seed)
    slo_class, names = _classes(kept, options)
    after = _turns(kept)
    return Requests(
        at_s - at_s[0],
        np.array([row.isl for row in kept], dtype=np.int64),
        np.array([row.osl for row in kept], dtype=np.int64),
        skipped_rows=rows.bad,
        failed_rows=rows.failed,
        after=after,
        think_s=None if after is None else np.zeros(len(kept)),
        slo_class=slo_class,
        class_names=names,
        priority=_priorities(kept, options, slo_class),
        prefixes=_prefixes(kept, options.block_tokens),
    )


def _spread_ticks(at_s: FloatArray, seed: int) -> FloatArray:
    stamps, counts = np.unique(at_s, return_counts=True)
    if len(stamps) < 2 or counts[counts > 1].sum() < COARSE * len(at_s):
        return at_s
    gaps = np.diff(stamps)
    tick = float(np.median(gaps))
    width = np.minimum(np.append(gaps, tick), tick)
    offset = np.random.default_rng(seed).random(len(at_s)) * np.repeat(width, counts)
    return np.sort(np.repeat(stamps, counts) + offset)


def _turns(kept: list[Row]) -> IntArray | None:
    """Whom each request waits for: the row before with the same session."""
    latest: dict[str, int] = {}
    after = np.full(len(kept), -1, dtype=np.int64)
    for i, row in enumerate(kept):
        if row.session:
            after[i] = latest.get(row.session, -1)
            latest[row.session] = i
    return after if (after >= 0).any() else None


def _classes(kept: list[Row], options: TraceOptions) -> tuple[IntArray | None, tuple[str, ...]]:
    """Numbers of the rows' classes: those of the workload, else the names in order of appearance.

    A row without a class counts as one of its own name ``-`` where the workload has no classes.
    """
    if not any(row.slo_class for row in kept):
        return None, ()
    names = [part.name for part in options.classes]
    number = {name: i for i, name in enumerate(names)}
    found = [number.setdefault(row.slo_class or "-", len(number)) for row in kept]
    return np.array(found, dtype=np.int64), tuple(number)


def _priorities(
    kept: list[Row], options: TraceOptions, slo_class: IntArray | None
) -> IntArray | None:
    """As the rows say, else as their class does, else 0; None if all are alike."""
    of_class = [part.priority for part in options.classes]
    values = []
    for i, row in enumerate(kept):
        number = -1 if slo_class is None else int(slo_class[i])
        own = of_class[number] if 0 <= number < len(of_class) else 0
        values.append(own if row.priority is None else row.priority)
    return np.array(values, dtype=np.int64) if len(set(values)) > 1 else None


def _prefixes(kept: list[Row], unit: int | None) -> Prefixes | None:
    """Named prefixes as units of the engine's blocks."""
    if unit is None or not any(row.prefix for row in kept):
        return None
    number: dict[str, int] = {}
    named = [row.prefix or ("", 0) for row in kept]
    ids = np.array([number.setdefault(name, len(number)) for name, _ in named], dtype=np.int64)
    units = np.array([tokens // unit for _, tokens in named], dtype=np.int64)
    return prefixes_of_runs([(ids, units)], unit)


def block_prefixes(kept: list[Row], unit: int) -> Prefixes | None:
    """Blocks that the trace itself numbers, as far as prompts fill them; those that are always
    followed by the same one form one text.
    """
    chains = [row.units[: row.isl // unit] for row in kept]
    follower: dict[int, int] = {}
    for chain in chains:
        for block, after in zip(chain, chain[1:], strict=False):
            if follower.setdefault(block, after) != after:
                follower[block] = -1
    ids: list[int] = []
    units: list[int] = []
    offsets = [0]
    for chain in chains:
        before = -1
        for block in chain:
            if follower.get(before) == block:
                units[-1] += 1
            else:
                ids.append(block)
                units.append(1)
            before = block
        offsets.append(len(ids))
    if not ids:
        return None
    bounds, texts, counts = (np.array(values, dtype=np.int64) for values in (offsets, ids, units))
    return Prefixes(bounds, texts, counts, unit)
