"""Time alone of one operator on one device, from the datasheet's peaks and the fitted curve of its
family.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cluster_sim.kernels.curves import gemm_curve
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, PEAK_OF, Chip, GemmCurve
from cluster_sim.specs.inputs import TopologyInput

FloatArray = NDArray[np.float64]
Size = int | FloatArray
TILE = 128  # rows and columns of the tiles that GEMM kernels give an SM
OUTPUT_BYTES = 2  # GEMM results are written in bf16
WEIGHT_ONLY = ("w8a16", "w4a16")  # activations stay in bf16


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
