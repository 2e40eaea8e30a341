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
_MEMORY = (
    *("version", "n_chips", "model", "config", "weights_dtype", "kv_dtype", "settings"),
    *("tp", "pp", "ep", "attn_dp", "max_model_len"),
)
STARTS = "starts"  # 1 or 0: whether an engine starts; scored by how often it is right
STARTS_NOT = "starts_not"  # what it is scored as where it does not
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


_DTYPES = (
    *("bf16", "fp16", "fp8", "fp8_block", "int8", "fp4", "nvfp4", "mxfp4", "w8a16", "w4a16"),
    *("int4", ""),
)
_KV_DTYPES = ("bf16", "fp16", "fp8", "int8", "")
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
            "kv_dtype": _KV_DTYPES,
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
        name="memory",
        needs=("source", "chip", "framework", "model", "metric", "value"),
        columns=(*_COMMON, *_MEMORY),
        metrics=(
            *("weights_gib_per_gpu", "kv_gib_per_gpu", "kv_tokens", "total_gib"),
            *("activation_gib", "non_torch_gib", "graphs_gib", STARTS),
        ),
        words={"weights_dtype": _DTYPES, "kv_dtype": _KV_DTYPES},
        texts=("version", "model", "config", "settings"),
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
_OF_MODELS = ("serving", "memory")  # kinds whose models must be known
_ANY_SIGN = ("kv_gib_per_gpu",)  # an engine that does not start may print less than nothing
_TRAINING_NAMES = ("gaudi2", "tpu_v5e")  # measured, but not among the chips here


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measured value and where it stands; ``row`` holds all cells as text, ``unknown`` names
    the column whose name (of a chip or model) the program does not know, and the name.
    """

    kind: str
    file: str
    line: int
    value: float
    flags: tuple[str, ...]
    row: Mapping[str, str]
    unknown: tuple[str, str] | None = None

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
    def verdict(self) -> bool:
        """Whether the value is none but that an engine starts, or does not: a cache of nothing or
        less is a start that failed.
        """
        name = self.text("metric")
        return name == STARTS or (name in _ANY_SIGN and self.value <= 0)

    @property
    def metric(self) -> str:
        """What it is scored as: engines that start and those that do not stand apart."""
        if self.verdict:
            return STARTS if self.value > 0 else STARTS_NOT
        return self.text("metric")

    @property
    def case_id(self) -> str:
        """What names the value: its own name, or where it stands."""
        return self.text("case_id") or f"{self.file}:{self.line}"

    @property
    def run_id(self) -> str:
        """What names the run that it comes from."""
        return self.text("run_id") or self.case_id


def read_cases(
    files: Sequence[Path], filled: Mapping[str, str] | None = None, *, strict: bool = False
) -> list[Case]:
    """The cases of some files in order, of the packaged ones if none is named; a file may be the
    result of a benchmark. ``filled`` are cells of columns that files lack or leave empty.

    Chips and models that the program does not know are noted in the case, or with ``strict``
    problems like others. Raises SpecError with the problems of the first file that has any.
    """
    filled = filled or {}
    if not files:
        packaged = sorted((packaged_root() / PACKAGED).glob("*.csv*"))
        if not packaged:
            raise SpecError("this installation has no packaged cases; name a file with --against")
        shown = [(path, f"packaged:{path.name}") for path in packaged]
        return [case for path, name in shown for case in _read(path, name, filled, strict)]
    cases = [case for path in files for case in _read(path, str(path), filled, strict)]
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.case_id, case)
        if other is not case:
            raise SpecError(
                f"{case.file}:{case.line}: case_id: '{case.case_id}' stands in "
                f"{other.file}:{other.line} too; name each file once"
            )
    return cases


def _read(path: Path, shown: str, filled: Mapping[str, str], strict: bool) -> list[Case]:
    text, problems = _text(path, shown), _Problems(shown)
    if is_result(text):
        kind = KINDS[0]
        _check_filled(kind, filled)
        numbered = result_rows(text, shown, path.name, filled, kind.columns)
    else:
        kind, numbered = _table(text, shown, filled, problems)
    cases, lines = [], dict[str, int]()
    known = {"chip": _chips(kind), "model": names("model") if kind.name in _OF_MODELS else ()}
    for line, row in numbered:
        value = _check(kind, row, line, problems)
        unknown = _unknown(row, known)
        if strict and unknown is not None:
            column, name = unknown
            problems.add(line, f"{column}: unknown (got '{name}'){_or_listed(name, known[column])}")
        first = lines.setdefault(row.get("case_id") or f"line {line}", line)
        if first != line:
            problems.add(line, f"case_id: '{row['case_id']}' stands in line {first} too")
        flags = tuple(flag for flag in row.get("flags", "").split(";") if flag)
        cases.append(
            Case(
                kind=kind.name,
                file=shown,
                line=line,
                value=value,
                flags=flags,
                row=row,
                unknown=unknown,
            )
        )
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
    known = {"chip": _chips(kind), "model": names("model")}
    for name in known.keys() & filled.keys():
        if filled[name] not in known[name]:
            listed = _or_listed(filled[name], known[name])
            raise SpecError(f"--fill {name}: unknown (got '{filled[name]}'){listed}")


def _text(path: Path, shown: str) -> str:
    text = read_text(path, shown=shown)
    if not text.strip():
        raise SpecError(f"{shown}: is empty")
    return text


def _kind(header: Sequence[str], shown: str) -> Kind:
    """The kind that a header means; raises SpecError for one that fits none."""

    def likeness(kind: Kind) -> tuple[float, int]:
        needed = sum(name in header for name in kind.needs) / len(kind.needs)
        return needed, sum(name in kind.columns for name in header)

    near = max(KINDS, key=likeness)
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


def _chips(kind: Kind) -> Sequence[str]:
    chips = names("chip")
    return (*chips, *_TRAINING_NAMES) if kind.name == "training" else chips


def _unknown(row: Mapping[str, str], known: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """The first column whose name is none that the program has, and the name. A model may be
    another's ``config``, or none at all.
    """
    for column, words in known.items():
        name = row.get(column, "")
        given = column == "model" and (not name or row.get("config"))
        if words and name not in words and not given:
            return column, name
    return None


def _or_listed(name: str, words: Sequence[str]) -> str:
    return _near(name, words) or f"; there are {', '.join(word for word in words if word)}"


def _check(kind: Kind, row: Mapping[str, str], line: int, problems: _Problems) -> float:
    """The measured value of a row; problems of its cells are noted."""
    for column, words in (("metric", kind.metrics), *kind.words.items()):
        text = row.get(column, "")
        if text not in words and not (column not in row and "" in words):
            problems.add(line, f"{column}: unknown (got '{text}'){_or_listed(text, words)}")
    if not row.get("case_id", "none needed"):
        problems.add(line, "case_id: missing")
    for column, text in row.items():
        if text and column not in (*_COMMON, *kind.texts, *kind.words):
            _number(column, text, line, problems, least=0.0)
    least = None if row["metric"] in _ANY_SIGN else 0.0
    return _number("value", row["value"], line, problems, least, zero=kind.name == "memory")


def _number(
    column: str,
    text: str,
    line: int,
    problems: _Problems,
    least: float | None,
    *,
    zero: bool = True,
) -> float:
    try:
        value = float(text)
    except ValueError:
        problems.add(line, f"{column}: must be a number without a unit (got '{text}')")
        return math.nan
    low = least is not None and (value < least or (value == least and not zero))
    if not math.isfinite(value) or low:
        problems.add(line, f"{column}: must be {'at least 0' if zero else '> 0'} (got {text})")
    return value


def _near(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean '{near[0]}'?" if near else ""
