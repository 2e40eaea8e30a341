"""Kernels of a training step on one device: time alone from the chip's curves and its sustained
rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.kernels.curves import gemm_curve, kind_curves
from cluster_sim.kernels.gemm import gemm_kernel_s
from cluster_sim.perf.train_flops import attention_pairs, head_dims
from cluster_sim.specs.chip import PEAK_OF, Chip, GemmCurve, TrainingRate
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model
from cluster_sim.specs.training_software import TrainingSoftware

Shape3 = tuple[float, float, float]  # m, n, k of a product (m x k) (k x n)
# What a training dtype multiplies like; MXFP8 has scales of 32 elements in hardware.
CURVE_OF = {"fp16": "bf16", "mxfp8": "fp8_block"}
# Share of the memory bandwidth that streaming kernels reach. Source: assumed; copies reach 0.8 to
# 0.9 of the datasheet on the chips measured.
STREAM = 0.85
OLD_ATTENTION_RATE = 0.55  # of the peak, batched products of one head (Megatron-LM 2021, assumed)
QUANTISE_BYTES = 3  # a pass over an activation: read two bytes, write one
LOGIT_BYTES = 16  # fp32 logits, their softmax and gradient, for each logit
WIDE_HEAD = 128
NARROW_POWER = 0.41  # heads of 64 reach 0.75 of the rate of heads of 128 (assumed)
STATE_FLOP = 6  # of linear attention for each element of the state and token


@dataclass(frozen=True, slots=True)
class Kernels:
    """The chip, its curves and the software of a job, with the curves that its dtypes need."""

    machine: TopologyInput
    software: TrainingSoftware
    rate: TrainingRate
    curves: Mapping[str, GemmCurve]

    @property
    def chip(self) -> Chip:
        """The chip."""
        return self.machine.chip

    def products(
        self, dtype: str, shapes: Sequence[Shape3], *, quantise: bool = True
    ) -> list[float]:
        """Seconds of each product (m x k) (k x n) in a dtype.

        Model: the chip's GEMM curve with its compute share times the sustained rate, the launch of
        the software as floor, and (``quantise``) the passes that bring the left side into the
        dtype.
        """
        if not shapes:
            return []
        m, n, k = np.array(shapes, dtype=float).T
        seconds, _ = gemm_kernel_s(self.chip, curve_of(dtype), self.curves[dtype], m, n, k)
        passes = self.software.quantise.get(dtype, 0.0) if quantise else 0.0
        if passes:
            seconds = seconds + passes * QUANTISE_BYTES * m * k / self.stream_bytes_per_s
        return [float(second) for second in seconds]

    @property
    def stream_bytes_per_s(self) -> float:
        """Bytes/s of kernels that only move data."""
        return self.chip.device_bandwidth * STREAM

    def stream(self, moved_bytes: float) -> float:
        """Seconds of kernels that move so many bytes."""
        return moved_bytes / self.stream_bytes_per_s


def kernels_of(
    machine: TopologyInput,
    software: TrainingSoftware,
    dtypes: Sequence[str],
    machine_rate: float = 1.0,
) -> Kernels:
    """The kernels of a job on a machine whose products reach ``machine_rate`` of the chip's.

    Raises SpecError when the chip lacks a curve or a sustained rate.
    """
    rate = machine.fits.training
    if rate is None:
        raise SpecError(
            f"{machine.chip.name}: no sustained rate of training in its curves; "
            f"write 'training' into its file of fits, or 'borrows' a relative"
        )
    curves = {}
    for dtype in dict.fromkeys(("bf16", *dtypes)):
        curve = gemm_curve(machine, curve_of(dtype))
        share = curve.compute * machine_rate * rate.sustained * rate.precision.get(dtype, 1.0)
        curves[dtype] = replace(
            curve, floor=software.launch, per_k=0.0, quantise=None, compute=share
        )
    return Kernels(machine, software, rate, curves)


def curve_of(dtype: str) -> str:
    """The dtype whose GEMM curve a training dtype takes."""
    return CURVE_OF.get(dtype, dtype)


def peak_dtype(dtype: str) -> str:
    """The peak that a training dtype runs against."""
    return PEAK_OF[curve_of(dtype)]


def attention_s(
    kernels: Kernels, model: Model, seq_len: int, sequences: float, tp: int
) -> tuple[float, float]:
    """Seconds of the core of attention in a mean layer, forward and backward.

    Model, flash: causal FLOP / (bf16 peak u_c x sustained) x (1 + half_length / length) of the
    chip's prompt curve, over the software's rate. Unfused: two full products and ``score_bytes``
    of traffic a score. Linear layers: 6 FLOP a state element and token at that rate.
    """
    software, chip = kernels.software, kernels.chip
    kernel, heads = software.attention, model.heads / tp
    peak = chip.device_peak("bf16")
    if kernel.kind == "unfused":
        pairs = sequences * heads * seq_len * seq_len
        flop_s = 2 * pairs * head_dims(model) / (peak * OLD_ATTENTION_RATE)
        scores_s = kernels.stream(pairs * kernel.score_bytes)
        return flop_s + scores_s, 2 * flop_s + scores_s
    curve, _ = kind_curves(kernels.machine, model.kinds[0], "bf16")
    rate = peak * curve.compute * kernels.rate.sustained * kernels.rate.attention
    rate *= kernel.rate_on(chip.architecture)
    if model.mla is None and model.head_dim < WIDE_HEAD:
        rate *= (model.head_dim / WIDE_HEAD) ** NARROW_POWER
    full, local = attention_pairs(model, seq_len)
    flop = 2 * sequences * heads * head_dims(model)
    seen = min(seq_len, model.local.tokens) if model.local else seq_len
    every = (model.cached_layers - model.local_layers) * full * (1 + curve.half_length / seq_len)
    some = model.local_layers * local * (1 + curve.half_length / seen)
    forward = flop * (every + some) / rate
    if model.linear is not None:
        linear = model.linear
        state = linear.value_heads * linear.key_dim * linear.value_dim / tp
        forward += STATE_FLOP * linear.layers * state * seq_len * sequences / rate
    forward /= model.layers
    return forward, forward * kernel.backward_flop / kernel.backward_rate
