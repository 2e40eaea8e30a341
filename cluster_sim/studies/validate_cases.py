"""Measured cases: one value a row of a CSV file, checked as a whole before anything is replayed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster_sim.errors import SpecError, nearest
from cluster_sim.specs.find import names, packaged_root
from cluster_sim.studies.result_cases import is_result, result_rows
from cluster_sim.text_file import csv_rows, read_text

PACKAGED = "cases"  # the folder of the project's own cases
MOST_PROBLEMS = 20  # of a file that are told at once
# Rows that are left out unless asked for: numbers that contradict each other, the same measurement
# again, idealised by their source, quoted from another source, of unclear meaning.
LEFT_OUT = ("suspect", "duplicate_run", "simulated", "restated", "metric_ambiguous")
_COMMON = (
    *("case_id", "run_id", "source", "source_detail", "licence", "date", "split", "confidence"),
    *("chip", "framework", "framework_version", "metric", "value", "flags", "note"),
)
_STAGES = ("workers", "tp", "ep", "attn_dp")
_SERVING = (
    *("mode", "n_chips", "scale_up", "scale_out", "model", "weights_dtype", "kv_dtype"),
    *("act_dtype", "tp", "pp", "ep", "attn_dp", "moe_tp", "replicas"),
    *(f"{stage}_{what}" for stage in ("prefill", "decode") for what in _STAGES),
    *("isl", "osl", "isl_dist", "concurrency", "batch", "request_rate_per_s"),
    *("mtp_draft_tokens", "prefix_hit_fraction", "ttft_limit_ms", "tpot_limit_ms"),
    *("max_num_seqs", "max_num_batched_tokens"),
)
_OPERATOR = (
    *("op", "dtype", "kv_dtype", "kernel", "m", "n", "k", "batch", "seq_len", "heads"),
    *("kv_heads", "head_dim", "experts", "top_k", "ep", "tp", "tokens", "message_bytes"),
)
_COLLECTIVE = (
    *("n_chips", "chips_per_host", "scale_up", "scale_out", "library", "library_family"),
    *("tokens_per_rank", "hidden", "top_k", "experts", "payload_dtype", "sms", "collective"),
    *("message_bytes", "in_switch_reduction"),
)
_TRAINING = (
    *("n_chips", "scale_up", "scale_out", "model", "params_b", "active_params_b", "precision"),
    *("seq_len", "global_batch", "micro_batch", "tp", "pp", "vpp", "cp", "ep", "dp"),
    *("zero_stage", "fsdp", "sequence_parallel", "recompute", "task", "layers_override"),
    "peak_memory_gib",
)
_LATENCIES = tuple(
    f"{name}_ms_{stat}" for name in ("ttft", "tpot", "e2e") for stat in ("mean", "p50", "p99")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A form of file: what its header must have, which columns it may have, which metrics there
    are, which cells must be among some words or numbers.
    """

    name: str
    needs: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]
    texts: tuple[str, ...]


_DTYPES = ("bf16", "fp16", "fp8", "fp8_block", "int8", "fp4", "mxfp4", "w8a16", "w4a16", "int4", "")
_MODES = ("static_batch", "offline", "closed_loop", "open_loop", "disagg_closed_loop")
KINDS = (
    Kind(
        name="serving",
        needs=("case_id", "mode", "chip", "n_chips", "model", "isl", "osl", "metric", "value"),
        columns=(*_COMMON, *_SERVING),
        metrics=(
            *("output_tokens_per_s", "output_tokens_per_s_per_chip", "total_tokens_per_s"),
            *("total_tokens_per_s_per_chip", "input_tokens_per_s_per_chip", "requests_per_s"),
            *(*_LATENCIES, "latency_ms"),
        ),
        words={
            "mode": (*_MODES, "prefill_only", "decode_only"),
            "weights_dtype": _DTYPES,
            "kv_dtype": ("bf16", "fp16", "fp8", "int8", ""),
        },
        texts=("scale_up", "scale_out", "model", "act_dtype", "isl_dist"),
    ),
    Kind(
        name="collective",
        needs=("case_id", "chip", "n_chips", "collective", "message_bytes", "metric", "value"),
        columns=(*_COMMON, *_COLLECTIVE),
        metrics=("time_us", "busbw_gb_per_s", "algbw_gb_per_s"),
        words={},
        texts=("scale_up", "scale_out", "library", "library_family", "payload_dtype", "collective"),
    ),
    Kind(
        name="operator",
        needs=("case_id", "chip", "op", "metric", "value"),
        columns=(*_COMMON, *_OPERATOR),
        metrics=("time_us",),
        words={"dtype": _DTYPES, "kv_dtype": _DTYPES},
        texts=("op", "kernel"),
    ),
    Kind(
        name="training",
        needs=("case_id", "chip", "n_chips", "model", "seq_len", "global_batch", "metric", "value"),
        columns=(*_COMMON, *_TRAINING),
        metrics=(
            *("tokens_per_s_per_chip", "step_time_s", "model_tflops_per_chip", "mfu", "hfu"),
            *("time_to_train_min", "chip_hours"),
        ),
        words={},
        texts=("scale_up", "scale_out", "model", "precision", "recompute", "task"),
    ),
)
_TRAINING_NAMES = ("gaudi2", "tpu_v5e")  # measured, but not among the chips here


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measured value and where it stands; ``row`` holds all cells as text."""

    kind: str
    file: str
    line: int
    value: float
    flags: tuple[str, ...]
    row: Mapping[str, str]

    def text(self, column: str) -> str:
        """A cell, empty where the file lacks the column."""
        return self.row.get(column) or ""

    def number(self, column: str) -> float | None:
        """A numeric cell; None where it is empty."""
        text = self.text(column)
        return float(text) if text else None

    def count(self, column: str, default: int = 1) -> int:
        """A whole number, ``default`` where the cell is empty."""
        value = self.number(column)
        return default if value is None else round(value)

    @property
    def case_id(self) -> str:
        """What names the value."""
        return self.text("case_id")

    @property
    def run_id(self) -> str:
        """What names the run that it comes from."""
        return self.text("run_id") or self.case_id


def read_cases(files: Sequence[Path], filled: Mapping[str, str] | None = None) -> list[Case]:
    """The cases of some files in order, of the packaged ones if none is named; a file may be the
    result of a benchmark. ``filled`` are cells of columns that files lack or leave empty.

    Raises SpecError with the problems of the first file that has any.
    """
    filled = filled or {}
    if not files:
        packaged = sorted((packaged_root() / PACKAGED).glob("*.csv.gz"))
        if not packaged:
            raise SpecError("this installation has no packaged cases; name a file with --against")
        return [case for path in packaged for case in _read(path, f"packaged:{path.name}", filled)]
    cases = [case for path in files for case in _read(path, str(path), filled)]
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.case_id, case)
        if other is not case:
            raise SpecError(
                f"{case.file}:{case.line}: case_id: '{case.case_id}' stands in "
                f"{other.file}:{other.line} too; name each file once"
            )
    return cases


def _read(path: Path, shown: str, filled: Mapping[str, str]) -> list[Case]:
    text, problems = _text(path, shown), _Problems(shown)
    if is_result(text):
        kind = KINDS[0]
        _check_filled(kind, filled)
        numbered = result_rows(text, shown, path.name, filled, kind.columns)
    else:
        kind, numbered = _table(text, shown, filled, problems)
    cases, lines = [], dict[str, int]()
    chips, models = names("chip"), names("model")
    for line, row in numbered:
        value = _check(kind, row, line, problems, chips, models)
        first = lines.setdefault(row["case_id"], line)
        if first != line:
            problems.add(line, f"case_id: '{row['case_id']}' stands in line {first} too")
        flags = tuple(flag for flag in row.get("flags", "").split(";") if flag)
        cases.append(Case(kind=kind.name, file=shown, line=line, value=value, flags=flags, row=row))
    problems.tell()
    return cases


def _table(
    text: str, shown: str, filled: Mapping[str, str], problems: _Problems
) -> tuple[Kind, list[tuple[int, dict[str, str]]]]:
    """The rows of a CSV of cases with their lines, and what kind they are of."""
    (_, header), *numbered = csv_rows(text, shown)
    kind = _kind([*header, *(name for name in filled if name not in header)], shown)
    _check_filled(kind, filled)
    if not numbered:
        raise SpecError(f"{shown}: holds no case, only a header")
    rows = []
    for line, cells in numbered:
        if len(cells) != len(header):
            problems.add(line, f"{len(cells)} cells, the header has {len(header)}")
            continue
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        rows.append((line, row | {name: row.get(name) or cell for name, cell in filled.items()}))
    return kind, rows


def _check_filled(kind: Kind, filled: Mapping[str, str]) -> None:
    """Raise SpecError for a column that cases of the kind do not have."""
    for name in filled:
        if name not in kind.columns or name in ("case_id", "run_id", "metric", "value"):
            near = _near(name, kind.columns)
            raise SpecError(f"--fill {name}: no column of {kind.name} cases to fill{near}")


def _text(path: Path, shown: str) -> str:
    text = read_text(path, shown=shown)
    if not text.strip():
        raise SpecError(f"{shown}: is empty")
    return text


def _kind(header: Sequence[str], shown: str) -> Kind:
    """The kind that a header means; raises SpecError for one that fits none."""
    near = max(KINDS, key=lambda kind: sum(name in header for name in kind.needs) / len(kind.needs))
    missing = [name for name in near.needs if name not in header]
    if len(missing) * 2 > len(near.needs):
        forms = "; ".join(f"{kind.name}: {', '.join(kind.needs)}" for kind in KINDS)
        raise SpecError(
            f"{shown}:1: not a file of measured cases (its header begins with "
            f"'{','.join(header)[:60]}'). Columns that are needed: {forms}"
        )
    problems = [f"{shown}:1: {name}: column missing for {near.name} cases" for name in missing]
    for name in dict.fromkeys(header):
        if header.count(name) > 1:
            problems.append(f"{shown}:1: {name}: column stands twice")
        if name not in near.columns:
            problems.append(
                f"{shown}:1: {name}: unknown column of {near.name} cases{_near(name, near.columns)}"
            )
    if problems:
        raise SpecError(problems)
    return near


class _Problems:
    """Problems of one file, so many that they can be read."""

    def __init__(self, shown: str) -> None:
        self.shown, self.found = shown, list[str]()

    def add(self, line: int, text: str) -> None:
        self.found.append(f"{self.shown}:{line}: {text}")

    def tell(self) -> None:
        more = len(self.found) - MOST_PROBLEMS
        if self.found:
            tail = [f"{self.shown}: {more} more problems"] if more > 0 else []
            raise SpecError([*self.found[:MOST_PROBLEMS], *tail])


def _check(
    kind: Kind,
    row: Mapping[str, str],
    line: int,
    problems: _Problems,
    chips: Sequence[str],
    models: Sequence[str],
) -> float:
    """The measured value of a row; problems of its cells are noted."""
    known = (*chips, *_TRAINING_NAMES) if kind.name == "training" else chips
    named = [("metric", kind.metrics), ("chip", known), *kind.words.items()]
    if kind.name == "serving":
        named.append(("model", models))
    for column, words in named:
        text = row.get(column, "")
        if text not in words and not (column not in row and "" in words):
            hint = _near(text, words)
            listed = hint or f"; there are {', '.join(word for word in words if word)}"
            problems.add(line, f"{column}: unknown (got '{text}'){listed}")
    if not row["case_id"]:
        problems.add(line, "case_id: missing")
    for column, text in row.items():
        if text and column not in (*_COMMON, *kind.texts, *kind.words):
            _positive(column, text, line, problems, zero=True)
    return _positive("value", row["value"], line, problems)


def _positive(
    column: str, text: str, line: int, problems: _Problems, *, zero: bool = False
) -> float:
    try:
        value = float(text)
    except ValueError:
        problems.add(line, f"{column}: must be a number without a unit (got '{text}')")
        return math.nan
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        problems.add(line, f"{column}: must be {'at least 0' if zero else '> 0'} (got {text})")
    return value


def _near(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean '{near[0]}'?" if near else ""
