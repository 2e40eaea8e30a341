"""What can be measured: cases of operators and of whole steps, their CSV columns, and the names
that devices go by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from cluster_sim.errors import SpecError, nearest
from cluster_sim.specs.find import find, names
from cluster_sim.text_file import csv_table

FRAMEWORK = "torch"
OP_COLUMNS = (
    *("case_id", "source", "date", "split", "confidence", "chip", "framework", "op", "dtype"),
    *("kv_dtype", "m", "n", "k", "batch", "seq_len", "heads", "kv_heads", "head_dim", "experts"),
    *("top_k", "ep", "tp", "tokens", "metric", "value", "flags", "note", "message_bytes"),
)
STEP_COLUMNS = (
    *("case_id", "source", "date", "split", "confidence", "chip", "framework", "model", "layers"),
    *("dtype", "kv_dtype", "phase", "batch", "seq_len", "glue_kernels_per_layer", "metric"),
    *("value", "flags", "note"),
)
PHASES = ("decode", "prefill")
DTYPES = ("bf16", "fp8", "int8")
MOST_PROBLEMS = 10  # of a file that are shown
CPU = "cpu"  # as a chip: a file of measurements may name it, there are no curves of it
_ATTENTION = ("batch", "seq_len", "heads", "kv_heads", "head_dim")
# Operator -> the columns that make up its shape.
SHAPES: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "grouped_gemm": ("m", "n", "k", "experts"),
    "moe_ffn": ("tokens", "n", "k", "experts", "top_k", "ep", "tp"),
    "attention_prefill": _ATTENTION,
    "attention_decode": _ATTENTION,
    "mla_prefill": _ATTENTION,
    "mla_decode": _ATTENTION,
    "glue_add": ("message_bytes",),
    "glue_norm": ("m", "n"),
    "glue_activation": ("m", "n"),
}
GLUE = "glue"  # what the column op says of the last three: one kernel that memory bounds
# What drivers report -> the chip. Source: output of nvidia-smi and rocm-smi, recalled. Memory tells
# GH200 apart: 480GB and 120GB are the LPDDR of the host beside 96 GB of HBM.
CHIPS = {
    "NVIDIA A100-SXM4-80GB": "a100_80g_sxm",
    "NVIDIA H100 80GB HBM3": "h100_sxm",
    "NVIDIA H100 PCIe": "h100_pcie",
    "NVIDIA H100 NVL": "h100_nvl",
    "NVIDIA H200": "h200_sxm",
    "NVIDIA H200 NVL": "h200_nvl",
    "NVIDIA H800": "h800_sxm",
    "NVIDIA H20": "h20_96g",
    "NVIDIA H20-3e": "h20_141g",
    "NVIDIA GH200 480GB": "gh200_96g",
    "NVIDIA GH200 120GB": "gh200_96g",
    "NVIDIA GH200 144G HBM3e": "gh200_144g",
    "NVIDIA B200": "b200",
    "NVIDIA B300 SXM6 AC": "b300",
    "NVIDIA GB200": "gb200",
    "NVIDIA GB300": "gb300",
    "NVIDIA L40S": "l40s",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx_pro_6000",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "rtx_pro_6000",
    "AMD Instinct MI300X": "mi300x",
    "AMD Instinct MI325X": "mi325x",
    "AMD Instinct MI350X": "mi350x",
    "AMD Instinct MI355X": "mi355x",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCase:
    """One operator on one shape; sizes that it does not have are 0. For their meaning see
    docs/reference.md.
    """

    op: str
    dtype: str
    kv_dtype: str = ""
    m: int = 0
    n: int = 0
    k: int = 0
    batch: int = 0
    seq_len: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    experts: int = 0
    top_k: int = 0
    ep: int = 0
    tp: int = 0
    tokens: int = 0
    message_bytes: int = 0

    def __str__(self) -> str:
        sizes = (f"{name}={getattr(self, name)}" for name in SHAPES[self.op])
        return " ".join([self.op, self.dtype, *sizes])


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCase:
    """One step of a decoder: ``batch`` sequences that decode at a context of ``seq_len``, or whose
    prompts of ``seq_len`` tokens are computed. ``layers`` may be a slice of the model's.
    """

    model: str
    layers: int
    dtype: str
    kv_dtype: str = "bf16"
    phase: str
    batch: int
    seq_len: int

    def __str__(self) -> str:
        size = f"batch={self.batch} seq_len={self.seq_len}"
        return f"{self.phase} {self.model} layers={self.layers} {self.dtype} {size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What a measurement of a case gave."""

    seconds: float
    flags: tuple[str, ...]
    note: str


def case_id(chip: str, case: OpCase | StepCase) -> str:
    """What identifies a case on a chip; it does not depend on versions, dates or results."""
    kind = "op" if isinstance(case, OpCase) else "step"
    text = "|".join(map(str, (chip, FRAMEWORK, *astuple(case))))
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def op_row(chip: str, case: OpCase, figure: Figure, source: str, date: str) -> dict[str, object]:
    """A row of OP_COLUMNS."""
    row = _row(OP_COLUMNS, chip, case, figure, source, date)
    row["metric"] = "time_us"
    if case.op == "moe_ffn":
        row["m"] = case.tokens
    if case.op.startswith(GLUE):
        row |= {"op": GLUE, "message_bytes": moved_bytes(case)}
    return row


def moved_bytes(case: OpCase) -> int:
    """Bytes that a kernel between products reads and writes, in bf16."""
    if case.message_bytes:
        return case.message_bytes
    return {"glue_norm": 2, "glue_activation": 3}[case.op] * case.m * case.n * 2


def step_row(
    chip: str, case: StepCase, kernels: int, figure: Figure, source: str, date: str
) -> dict[str, object]:
    """A row of STEP_COLUMNS; ``kernels`` are those of a layer beside products and attention."""
    row = _row(STEP_COLUMNS, chip, case, figure, source, date)
    return {**row, "metric": "step_us", "glue_kernels_per_layer": kernels}


def _row(
    columns: Sequence[str],
    chip: str,
    case: OpCase | StepCase,
    figure: Figure,
    source: str,
    date: str,
) -> dict[str, object]:
    known = {
        "case_id": case_id(chip, case),
        "source": source,
        "date": date,
        "split": "own",
        "confidence": "B",
        "chip": chip,
        "framework": FRAMEWORK,
        "value": float(f"{figure.seconds * 1e6:.7g}"),
        "flags": ";".join(figure.flags),
        "note": figure.note,
    }
    return {name: known.get(name) or getattr(case, name, "") or "" for name in columns}


def chip_id(given: str | None, device: str | None) -> str:
    """The chip that measurements are filed under: the one given, or the one that a device's name
    tells; ``device`` None is the CPU.

    Raises SpecError for a device that the table does not know, UnknownNameError for an unknown
    chip.
    """
    if device is None:
        if given not in (None, CPU):
            raise SpecError(
                f"--chip {given}: this is the CPU, whose figures are filed as {CPU}; leave it out"
            )
        return CPU
    if given is not None:
        return find("chip", given).name
    known = {name.lower(): chip for name, chip in CHIPS.items()}
    if device.lower() not in known:
        near = nearest(device.split()[-1], names("chip"))
        hint = f" (such as {near[0]})" if near else ""
        raise SpecError(
            f"which chip is '{device}'? Say so with --chip NAME{hint}; "
            "'cluster-sim list chips' lists them"
        )
    return known[device.lower()]


def parse_names(option: str, text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """A list with commas, each one of ``known``; None means all. Raises SpecError."""
    if text is None:
        return tuple(known)
    found = []
    for part in text.split(","):
        name = part.strip().lower()
        if name not in known:
            near = nearest(name, known)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise SpecError(f"{option}: no '{part.strip()}'{hint} It takes {', '.join(known)}")
        found.append(name)
    return tuple(dict.fromkeys(found))


def parse_shapes(
    text: str, shown: str, ops: Sequence[str] | None, dtypes: Sequence[str] | None
) -> list[OpCase]:
    """The cases of a CSV file with the columns ``op`` and those of the operators' shapes; a file of
    measured operators is one. Rows of operators and dtypes that are not wanted are left out.

    Raises SpecError with every problem.
    """
    header, rows = csv_table(text, shown)
    if "op" not in header:
        raise SpecError(f"{shown}: no column op; it needs op and the columns of shapes")
    problems: list[str] = []
    found: list[OpCase] = []
    for line, row in rows:
        where = f"{shown}:{line}"
        op, dtype = (row["op"] or "").strip(), (row.get("dtype") or "").strip() or "bf16"
        op = "glue_add" if op == GLUE else op
        if (ops is not None and op not in ops) or (dtypes is not None and dtype not in dtypes):
            continue
        try:
            found.append(_case(op, dtype, row))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise SpecError(shortened(problems))
    if not found:
        raise SpecError(f"{shown}: no row of the operators and dtypes that are wanted")
    return list(dict.fromkeys(found))


def shortened(problems: Sequence[str]) -> list[str]:
    """The first problems of a long file, and how many more there are."""
    more = len(problems) - MOST_PROBLEMS
    return [*problems[:MOST_PROBLEMS], *([f"... and {more} more"] if more > 0 else [])]


def _case(op: str, dtype: str, row: Mapping[str, str | None]) -> OpCase:
    if op not in SHAPES:
        raise ValueError(f"op: cannot be measured (got '{op}'); leave it out with --ops")
    if dtype not in DTYPES or (dtype != "bf16" and op != "gemm"):
        raise ValueError(f"dtype: {op} cannot be measured in '{dtype}'; leave it out with --dtypes")
    sizes: dict[str, int] = {}
    for name in SHAPES[op]:
        cell = (row.get(name) or "").strip()
        if not cell.isdecimal() or int(cell) < 1:
            raise ValueError(f"{name}: must be a whole number of at least 1 (got '{cell}')")
        sizes[name] = int(cell)
    _check(op, sizes)
    kv_dtype = "bf16" if "heads" in sizes else ""
    return OpCase(op=op, dtype=dtype, kv_dtype=kv_dtype, **sizes)


def _check(op: str, sizes: Mapping[str, int]) -> None:
    """What a shape must keep so that the operator exists."""
    if "heads" in sizes and sizes["heads"] % sizes["kv_heads"]:
        raise ValueError(f"heads: must be a multiple of kv_heads (got {sizes['heads']})")
    if op.startswith("mla") and (sizes["kv_heads"], sizes["head_dim"]) != (1, 576):
        raise ValueError("head_dim: latents have kv_heads 1 and head_dim 576 = 512 + 64")
    if op == "moe_ffn":
        if sizes["experts"] % sizes["ep"] or sizes["n"] % sizes["tp"]:
            raise ValueError("ep: must divide experts, and tp n")
        if sizes["top_k"] > sizes["experts"]:
            raise ValueError("top_k: exceeds experts")


def in_hash_order(chip: str, cases: Iterable[OpCase]) -> list[OpCase]:
    """Cases in an order that is mixed and always the same, so that any beginning of it is a sample
    of the whole.
    """
    return sorted(dict.fromkeys(cases), key=lambda case: case_id(chip, case))
