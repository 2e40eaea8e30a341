"""Time alone of one operator on one device, from the datasheet's peaks and the fitted curve of its
family.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import (
    BYTES_PER_ELEMENT,
    PEAK_OF,
    Chip,
    DecodeCurve,
    GemmCurve,
    LatentCurve,
    PrefillCurve,
)
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Attention

FloatArray = NDArray[np.float64]
Size = int | FloatArray
TILE = 128  # rows and columns of the tiles that GEMM kernels give an SM
OUTPUT_BYTES = 2  # GEMM results are written in bf16
WEIGHT_ONLY = ("w8a16", "w4a16")  # activations stay in bf16


def gemm_curve(machine: TopologyInput, dtype: str) -> GemmCurve:
    """The GEMM curve of a dtype; raises SpecError when the chip has no such peak or curve."""
    chip, curves = machine.chip, machine.fits.gemm
    for key, known, what in (
        (PEAK_OF[dtype], chip.peak, "hardware"),
        (dtype, curves, "fitted curves"),
    ):
        if key not in known:
            have = ", ".join(known) or "none"
            raise SpecError(f"{chip.name}: no {key} in {what} (it has {have}); choose --precision")
    return curves[dtype]  # type: ignore[index]


def attention_curves(machine: TopologyInput, kv_dtype: str) -> tuple[PrefillCurve, DecodeCurve]:
    """Prompt and decode attention for a KV dtype; one-byte caches share a curve.

    Raises SpecError when the chip has no such curve.
    """
    fits, wanted = machine.fits, "fp8" if kv_dtype == "int8" else kv_dtype
    try:
        return fits.attention_prefill[wanted], fits.attention_decode[wanted]  # type: ignore[index]
    except KeyError:
        have = ", ".join(name for name in fits.attention_prefill if name in fits.attention_decode)
        raise SpecError(
            f"{machine.chip.name}: no fitted attention curves for a {kv_dtype} KV cache "
            f"(it has {have or 'none'}); set engine.kv_dtype"
        ) from None


def mla_curves(machine: TopologyInput, kv_dtype: str) -> tuple[PrefillCurve, LatentCurve]:
    """Prompt and decode attention over latents for a KV dtype; raises SpecError without a curve."""
    fits, wanted = machine.fits, "fp8" if kv_dtype == "int8" else kv_dtype
    try:
        return fits.mla_prefill[wanted], fits.mla_decode[wanted]  # type: ignore[index]
    except KeyError:
        have = ", ".join(name for name in fits.mla_prefill if name in fits.mla_decode)
        raise SpecError(
            f"{machine.chip.name}: no fitted MLA curves for a {kv_dtype} KV cache "
            f"(it has {have or 'none'}); set engine.kv_dtype"
        ) from None


def kind_curves(
    machine: TopologyInput, kind: Attention, kv_dtype: str
) -> tuple[PrefillCurve, DecodeCurve | LatentCurve]:
    """Prompt and decode attention of a kind; raises SpecError without a curve.

    Limits: compressed attention has no timings and takes the curves over latents, which its kernels
    are nearest to (one entry of 512 elements for all heads).
    """
    return (mla_curves if kind.latent else attention_curves)(machine, kv_dtype)


def gemm_s(
    machine: TopologyInput,
    dtype: str,
    rows: FloatArray,
    n: int,
    k: int,
    weight_bytes: float | None = None,
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Seconds of (rows x k) times (k x n), and where the FLOP side of the roofline binds.

    Raises SpecError when the chip has no such peak or curve.
    """
    curve = gemm_curve(machine, dtype)
    return gemm_kernel_s(machine.chip, dtype, curve, rows, n, k, weight_bytes)


def gemm_kernel_s(
    chip: Chip,
    dtype: str,
    curve: GemmCurve,
    m: FloatArray,
    n: Size,
    k: Size,
    weight_bytes: float | None = None,
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Seconds of (m x k) times (k x n) on a curve, and where the FLOP side binds.

    Model: floor + per_k k / 1000 + norm(2 m n k / (peak u_c), bytes / (bandwidth u_m)) + (2 + w) m
    k / (bandwidth u_q); bytes = w n k + w m k + 2 m n with w bytes an element (weight-only dtypes
    read activations of 2, ``weight_bytes`` are those of a weight if its scales are others); the
    last term quantises activations where the curve has it. The norm is the maximum, or ((a^q +
    b^q)^(1/q)) with q = ``knee``. With ``tiles`` and more 128 x 128 tiles than SMs, that share of
    what the last wave leaves idle is added to the FLOP. Source: ai-dynamo/aiconfigurator operator
    tables; form and errors in docs/model.md.
    """
    width, bandwidth = BYTES_PER_ELEMENT[dtype], chip.device_bandwidth
    rate = chip.device_peak(PEAK_OF[dtype]) * curve.compute
    math = 2.0 * m * n * k / rate
    if curve.tiles and chip.sm_count is not None:
        sms = chip.sm_count / chip.devices_per_chip
        waves = np.ceil(m / TILE) * np.ceil(n / TILE) / sms
        full = np.where(waves > 1, np.ceil(waves), 0.0) * (sms * 2.0 * TILE * TILE) * k / rate
        math = math + curve.tiles * np.maximum(full - math, 0.0)
    memory = gemm_memory_s(chip, dtype, curve, m, n, k, weight_bytes)
    longer = np.maximum(math, memory)
    if curve.knee is not None:
        ratio, knee = np.minimum(math, memory) / longer, curve.knee
        longer = longer * (1 + ratio**knee) ** (1 / knee)
    seconds = curve.floor + longer
    if curve.per_k:
        seconds = seconds + curve.per_k * k / 1000
    if curve.quantise is not None:
        seconds = seconds + (OUTPUT_BYTES + width) * m * k / (bandwidth * curve.quantise)
    return seconds, math > memory


def gemm_memory_s(
    chip: Chip,
    dtype: str,
    curve: GemmCurve,
    m: FloatArray,
    n: Size,
    k: Size,
    weight_bytes: float | None = None,
) -> FloatArray:
    """Seconds that the bytes of (m x k) times (k x n) take at the memory rate of a curve."""
    width = BYTES_PER_ELEMENT[dtype]
    read = OUTPUT_BYTES if dtype in WEIGHT_ONLY else width
    moved = (weight_bytes or width) * n * k + read * m * k + OUTPUT_BYTES * m * n
    return np.asarray(moved / (chip.device_bandwidth * curve.memory))
