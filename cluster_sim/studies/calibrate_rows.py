"""Measured timings of kernels: rows of a CSV file, checked, with the line of each."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cluster_sim.errors import SpecError, nearest
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, PEAK_OF, Chip
from cluster_sim.text_file import csv_rows

_ATTENTION = ("batch", "seq_len", "heads", "kv_heads", "head_dim")
# What each operator needs to be told; operators without a curve need nothing.
SHAPES: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "moe_ffn": ("tokens", "n", "k", "experts", "top_k", "ep", "tp"),
    "attention_prefill": _ATTENTION,
    "attention_decode": _ATTENTION,
    "mla_prefill": ("batch", "seq_len", "heads"),
    "mla_decode": ("batch", "seq_len", "heads"),
    "glue": ("message_bytes",),
    "grouped_gemm": (),
    "kv_transfer": (),
}
_TEXTS: tuple[str, ...] = ("case_id", "source", "date", "split", "confidence", "chip", "framework")
_TEXTS += ("op", "dtype", "kv_dtype", "metric", "value", "flags", "note")
_NUMBERS = tuple(dict.fromkeys(name for names in SHAPES.values() for name in names))
NEEDED = ("case_id", "chip", "op", "dtype", "metric", "value")
METRIC = "time_us"
MOST_PROBLEMS = 20
LARGEST = 1e15  # of a size; beyond, floats are no whole numbers
_ATTENTION_DTYPES = ("bf16", "fp8", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One measured kernel: what it did, how long it took, and where the row stands."""

    line: int
    case_id: str
    op: str
    dtype: str
    kv_dtype: str
    framework: str
    source: str
    date: str
    flags: frozenset[str]
    note: str
    shape: Mapping[str, int]
    time_s: float


def read_timings(text: str, shown: str, chip: Chip, chips: Collection[str]) -> list[Timing]:
    """The timings of one chip in a CSV file.

    Raises SpecError with every problem of the file, those of other chips' rows included; and when
    there is nothing of the chip.
    """
    (_, header), *rows = list(csv_rows(text, shown)) or [(1, [])]
    if not header:
        raise SpecError(f"{shown}: empty file; it needs the columns {', '.join(NEEDED)} and shapes")
    problems = _columns(header, shown)
    if problems:
        raise SpecError(problems)
    if not rows:
        raise SpecError(f"{shown}: no rows below the header")
    timings: list[Timing] = []
    seen: dict[str, int] = {}
    found: set[str] = set()
    for line, cells in rows:
        if len(cells) != len(header):
            fewer = "more" if len(cells) > len(header) else "fewer"
            problems.append(f"{shown}:{line}: {fewer} cells than the header has columns")
            continue
        row = dict(zip(header, cells, strict=True))
        wrong = _row_problems(row, chip, chips)
        case = row["case_id"] or ""
        if case in seen:
            wrong.append(f"case_id: '{case}' again (first on line {seen[case]})")
        seen.setdefault(case, line)
        problems += [f"{shown}:{line}: {problem}" for problem in wrong]
        found.add(row["chip"])
        if not wrong and row["chip"] == chip.name:
            timings.append(_timing(line, row))
    if problems:
        more = len(problems) - MOST_PROBLEMS
        tail = [f"{shown}: and {more} more problems"] if more > 0 else []
        raise SpecError(problems[:MOST_PROBLEMS] + tail)
    if not timings:
        have = ", ".join(sorted(found))
        raise SpecError(f"{shown}: no timings of {chip.name}; the file has those of {have}")
    return timings


def _columns(header: Sequence[str], shown: str) -> list[str]:
    known = (*_TEXTS, *_NUMBERS)
    problems = []
    for name in header:
        if name not in known:
            near = nearest(name, known)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(known)}"
            problems.append(f"{shown}:1: unknown column '{name}'{hint}")
        elif header.count(name) > 1:
            problems.append(f"{shown}:1: column '{name}' twice")
    missing = [name for name in NEEDED if name not in header]
    if missing:
        problems.append(f"{shown}:1: no column {', '.join(missing)}")
    return list(dict.fromkeys(problems))


def _row_problems(row: Mapping[str, str], chip: Chip, chips: Collection[str]) -> list[str]:
    problems = []
    if not row["case_id"]:
        problems.append("case_id: missing")
    for column, known in (("chip", chips), ("op", SHAPES)):
        value = row[column] or ""
        if value not in known:
            near = nearest(value, known)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            problems.append(f"{column}: unknown '{value}'{hint}")
    if row["metric"] != METRIC:
        problems.append(f"metric: must be {METRIC}, a time in microseconds (got '{row['metric']}')")
    problems += _value_problems(row["value"] or "")
    problems += _shape_problems(row)
    if SHAPES.get(row["op"] or "") and row["op"] != "glue":
        problems += _dtype_problems(row, chip)
    return problems


def _shape_problems(row: Mapping[str, str | None]) -> list[str]:
    problems, shape = [], {}
    for column in SHAPES.get(row["op"] or "", ()):
        text = row.get(column) or ""
        number = _number(text)
        if number is None or not 0 < number < LARGEST or number != int(number):
            problems.append(f"{column}: {row['op']} needs a whole number > 0 (got '{text}')")
        else:
            shape[column] = int(number)
    if problems:
        return problems
    for many, few in (("experts", "ep"), ("heads", "kv_heads")):
        if few in shape and shape[many] % shape[few]:
            problems.append(f"{many}: must be a multiple of {few} (got {shape[many]})")
    if shape.get("top_k", 0) > shape.get("experts", 0):
        problems.append(f"top_k: {shape['top_k']} of {shape['experts']} experts")
    return problems


def _value_problems(text: str) -> list[str]:
    value = _number(text)
    if value is None or not math.isfinite(value):
        return [f"value: must be a number (got '{text}')"]
    if value <= 0:
        return [f"value: a measured time must be > 0 (got {text})"]
    return []


def _dtype_problems(row: Mapping[str, str | None], chip: Chip) -> list[str]:
    attention = (row["op"] or "").startswith(("attention", "mla"))
    known = _ATTENTION_DTYPES if attention else tuple(BYTES_PER_ELEMENT)
    problems = []
    for column in ("dtype", "kv_dtype") if attention else ("dtype",):
        value = row.get(column) or ""
        if value not in known and value != "fp16":
            near = nearest(value, known)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(known)}"
            problems.append(f"{column}: unknown '{value}'{hint}")
    if not problems and row["chip"] == chip.name:
        peak = "bf16" if attention else PEAK_OF[_plain(row["dtype"] or "")]
        if peak not in chip.peak:
            have = ", ".join(chip.peak)
            problems.append(f"dtype: {chip.name} has no {peak} peak (it has {have or 'none'})")
    return problems


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _plain(dtype: str) -> str:
    return "bf16" if dtype == "fp16" else dtype


def _timing(line: int, row: Mapping[str, str]) -> Timing:
    """A checked row; fp16 counts as bf16, which runs at the same peak."""
    return Timing(
        line=line,
        case_id=row["case_id"],
        op=row["op"],
        dtype=_plain(row["dtype"]),
        kv_dtype=_plain(row.get("kv_dtype", "")),
        framework=row.get("framework", ""),
        source=row.get("source", ""),
        date=row.get("date", ""),
        flags=frozenset(filter(None, row.get("flags", "").split(";"))),
        note=row.get("note", ""),
        shape={column: int(float(row[column])) for column in SHAPES[row["op"]]},
        time_s=float(row["value"]) * 1e-6,
    )
