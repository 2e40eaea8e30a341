"""The form of each operator family: parameters with bounds, and seconds by the simulator's own
formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster_sim.kernels.experts import expert_units
from cluster_sim.kernels.gemm import WEIGHT_ONLY, gemm_kernel_s
from cluster_sim.kernels.model_ops import ACTIVATION_BYTES
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, PEAK_OF, Chip, ExpertCurve, GemmCurve
from cluster_sim.studies.calibrate_fit import FloatArray, IntArray, Parameter, Points, Values
from cluster_sim.studies.calibrate_loads import expert_load
from cluster_sim.studies.calibrate_rows import Timing

# Median and 90th percentile of the error that a curve is meant to keep; optional parameters are
# tried only where it does not.
TARGETS = {
    "gemm": (0.06, 0.18),
    "moe": (0.18, 0.50),
    "attention_prefill": (0.08, 0.20),
    "attention_decode": (0.12, 0.30),
    "mla_prefill": (0.08, 0.28),
    "mla_decode": (0.08, 0.28),
    "glue": (0.12, 0.30),
}
QUANTISED = ("fp8", "fp8_block", "fp4", "mxfp4")  # GEMMs that quantise their activations first
KNEE = 3.0  # exponent that is offered where the maximum of the roofline's sides misses the target
LATENT, ROPE, NOPE, VALUE = 512, 64, 128, 128  # dimensions of latent attention in the tables
BEST_SHARE = 0.8  # of a peak, where no dense GEMM of the dtype was timed
FLOOR = Parameter("floor", 10e-6, 0.3e-6, 200e-6)
FULL_RATE = ExpertCurve(
    floor=0.0, compute=1.0, memory=1.0, activations=1.0, provenance="datasheet", source="peaks"
)
MEMORY = Parameter("memory", 0.8, 0.05, 1.0)


@dataclass(frozen=True, slots=True)
class Problem:
    """One curve to fit: where it stands in the file, its parameters and its points, and the least
    seconds that peaks and bandwidth allow each.
    """

    section: str
    key: str
    base: tuple[Parameter, ...]
    optional: tuple[Parameter, ...]
    points: Points
    bound_s: FloatArray
    rows: Sequence[Timing]


def problem_of(
    chip: Chip, section: str, key: str, rows: Sequence[Timing], best: float | None = None
) -> Problem:
    """The problem of a section and dtype; ``best`` is the best share of the peak of dense GEMMs."""
    if section == "gemm":
        return _gemm(chip, key, rows)
    if section == "moe":
        return _experts(chip, key, rows, best or BEST_SHARE)
    if section == "glue":
        return _glue(chip, rows)
    if section == "attention_decode":
        return _decode(chip, key, rows)
    if section == "mla_decode":
        return _latent(chip, key, rows)
    return _prefill(chip, section, key, rows)


def best_share(chip: Chip, dtype: str, rows: Sequence[Timing]) -> float | None:
    """The best share of its peak that any dense GEMM of a dtype reached; None without any."""
    peak = chip.device_peak(PEAK_OF[dtype])
    shares = [
        2 * row.shape["m"] * row.shape["n"] * row.shape["k"] / (peak * row.time_s) for row in rows
    ]
    return max((share for share in shares if share <= 1), default=None)


def _column(rows: Sequence[Timing], name: str) -> FloatArray:
    return np.array([row.shape[name] for row in rows], dtype=float)


def _problem(
    section: str,
    key: str,
    parameters: tuple[tuple[Parameter, ...], tuple[Parameter, ...]],
    rows: Sequence[Timing],
    groups: tuple[str, ...],
    seconds: Callable[[Values, IntArray], FloatArray],
    bound_s: FloatArray,
) -> Problem:
    shapes = [tuple(row.shape[name] for name in groups) for row in rows]
    points = Points(np.array([row.time_s for row in rows]), shapes, seconds)
    return Problem(section, key, *parameters, points, bound_s, rows)


def _gemm(chip: Chip, dtype: str, rows: Sequence[Timing]) -> Problem:
    """See ``gemm_kernel_s``; a matrix (n, k) at all m is one shape."""
    m, n, k = (_column(rows, name) for name in "mnk")
    base = (
        Parameter("floor", 5e-6, 0.3e-6, 50e-6),
        Parameter("per_k", 0.3e-6, 1e-10, 10e-6),
        Parameter("compute", 0.6, 0.05, 1.0),
        Parameter("memory", 0.85, 0.1, 0.95),
    )
    quantise = (Parameter("quantise", 0.5, 0.02, 1.5),) if dtype in QUANTISED else ()
    optional = [Parameter("knee", KNEE, KNEE, KNEE)]
    if chip.sm_count is not None:
        optional.append(Parameter("tiles", 0.3, 0.01, 1.0))

    def seconds(values: Values, at: IntArray) -> FloatArray:
        curve = GemmCurve(**values, provenance="measured", source="-")  # type: ignore[arg-type]
        return gemm_kernel_s(chip, dtype, curve, m[at], n[at], k[at])[0]

    width = BYTES_PER_ELEMENT[dtype]
    read = ACTIVATION_BYTES if dtype in WEIGHT_ONLY else width
    moved = width * n * k + read * m * k + ACTIVATION_BYTES * m * n
    math = 2 * m * n * k / chip.device_peak(PEAK_OF[dtype])
    bound = np.maximum(math, moved / chip.device_bandwidth)
    return _problem(
        "gemm", dtype, ((*base, *quantise), tuple(optional)), rows, ("n", "k"), seconds, bound
    )


def _experts(chip: Chip, dtype: str, rows: Sequence[Timing], best: float) -> Problem:
    """As ``kernels.experts.expert_time`` on the timed rank, under the loads of the table."""
    loads = np.array([expert_load(row) for row in rows])
    touched, picks = loads[:, 0], loads[:, 1]
    hidden, inner = _column(rows, "k"), _column(rows, "n") // _column(rows, "tp")
    units = expert_units(chip, dtype, FULL_RATE, hidden, 3 * hidden * inner)
    math, moved = picks * units.math_s, picks * units.moved_s
    weights = touched * units.weights_s
    base = (
        Parameter("floor", 28e-6, 1e-6, 200e-6),
        Parameter("compute", 0.9 * best, 0.05, best),
        MEMORY,
        Parameter("activations", 0.3, 0.02, 1.0),
    )

    def seconds(values: Values, at: IntArray) -> FloatArray:
        rest = weights[at] / values["memory"] + moved[at] / values["activations"]
        return np.asarray(values["floor"] + math[at] / values["compute"] + rest)

    groups = ("tokens", "experts", "top_k", "ep", "tp", "n", "k")
    return _problem("moe", dtype, (base, ()), rows, groups, seconds, math)


def _prefill(chip: Chip, section: str, kv_dtype: str, rows: Sequence[Timing]) -> Problem:
    """Causal FLOP / (bf16 peak u_c) x (1 + half_length / length), one-byte caches too: their
    products may run faster than the bf16 peak.
    """
    length, sequences = _column(rows, "seq_len"), _column(rows, "batch")
    dims: FloatArray | int = NOPE + ROPE + VALUE
    if section == "attention_prefill":
        dims = 2 * _column(rows, "head_dim")
    flop = sequences * _column(rows, "heads") * dims * length**2
    math = flop / chip.device_peak("bf16")
    base = (
        Parameter("floor", 15e-6, 1e-6, 100e-6),
        Parameter("compute", 0.55, 0.05, 1.5),
        Parameter("half_length", 1500, 1, 20_000),
    )

    def seconds(values: Values, at: IntArray) -> FloatArray:
        ramp = 1 + values["half_length"] / length[at]
        return values["floor"] + math[at] / values["compute"] * ramp

    fast = kv_dtype in chip.peak and kv_dtype != "bf16"
    bound = flop / chip.device_peak(kv_dtype if fast else "bf16")  # type: ignore[arg-type]
    return _problem(section, kv_dtype, (base, ()), rows, ("seq_len", "heads"), seconds, bound)


def _decode(chip: Chip, kv_dtype: str, rows: Sequence[Timing]) -> Problem:
    sequences, length = _column(rows, "batch"), _column(rows, "seq_len")
    kv_heads, dim = _column(rows, "kv_heads"), _column(rows, "head_dim")
    cache = sequences * 2 * kv_heads * length * dim * BYTES_PER_ELEMENT[kv_dtype]
    queries = sequences * 2 * _column(rows, "heads") * dim * ACTIVATION_BYTES
    memory = (cache + queries) / chip.device_bandwidth
    kernels = sequences * kv_heads

    def seconds(values: Values, at: IntArray) -> FloatArray:
        rows_s = values.get("row", 0.0) * kernels[at]
        return values["floor"] + rows_s + memory[at] / values["memory"]

    parameters = ((FLOOR, MEMORY), (Parameter("row", 5e-9, 1e-11, 1e-6),))
    groups = ("seq_len", "heads", "kv_heads")
    return _problem("attention_decode", kv_dtype, parameters, rows, groups, seconds, memory)


def _latent(chip: Chip, kv_dtype: str, rows: Sequence[Timing]) -> Problem:
    sequences, length, heads = (_column(rows, name) for name in ("batch", "seq_len", "heads"))
    reach = 2 * LATENT + ROPE
    math = 2 * sequences * heads * reach * length / chip.device_peak("bf16")
    cache = sequences * length * (LATENT + ROPE) * BYTES_PER_ELEMENT[kv_dtype]
    memory = cache / chip.device_bandwidth
    queries = sequences * heads * reach * ACTIVATION_BYTES / chip.device_bandwidth

    def seconds(values: Values, at: IntArray) -> FloatArray:
        longer = np.maximum(math[at] / values["compute"], memory[at] / values["memory"])
        share = values.get("queries", values["memory"])
        return values["floor"] + queries[at] / share + longer

    base = (FLOOR, Parameter("compute", 0.6, 0.05, 1.5), MEMORY)
    parameters = (base, (Parameter("queries", 0.5, 0.05, 1.0),))
    groups = ("seq_len", "heads")
    return _problem("mla_decode", kv_dtype, parameters, rows, groups, seconds, memory + queries)


def _glue(chip: Chip, rows: Sequence[Timing]) -> Problem:
    memory = _column(rows, "message_bytes") / chip.device_bandwidth

    def seconds(values: Values, at: IntArray) -> FloatArray:
        return values["floor"] + memory[at] / values["memory"]

    parameters = ((Parameter("floor", 2e-6, 0.3e-6, 50e-6), MEMORY), ())
    return _problem("glue", "", parameters, rows, ("message_bytes",), seconds, memory)
