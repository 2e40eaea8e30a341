"""Kernels of a training step on one device: the prices of kernels alone, as services ask them too,
with what minutes of training and a framework change of them.

Model: the curves of kernels alone, asked with the shapes of the pass; on top named factors. Of the
chip (``training`` of its curves): ``sustained`` on the FLOP rates of products and attention,
``precision`` of dense products in a dtype, ``attention``. Of the software: its ``launch`` as floor
of every product and group of products instead of the curve's, its passes that ``quantise`` instead
of the curve's, ``norms`` and ``elementwise`` on the bytes between products, the rate of
``attention`` and that of groups of products in ``experts``. Launches of attention and of what moves
bytes hide behind products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.kernels.attention import prompt_attention, recurrent_s
from cluster_sim.kernels.counts import LINEAR_FLOP, head_dims
from cluster_sim.kernels.curves import expert_curve, gemm_curve
from cluster_sim.kernels.experts import ExpertUnits, expert_units
from cluster_sim.kernels.gemm import OUTPUT_BYTES, gemm_kernel_s
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import linear_state_elements
from cluster_sim.kernels.stream import stream_bytes_per_s
from cluster_sim.specs.chip import PEAK_OF, Chip, GemmCurve, TrainingRate
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model
from cluster_sim.specs.training_software import TrainingSoftware

Shape3 = tuple[float, float, float]  # m, n, k of a product (m x k) (k x n)
# What a training dtype multiplies like; MXFP8 has scales of 32 elements in hardware.
CURVE_OF = {"fp16": "bf16", "mxfp8": "fp8_block"}
CACHED = Recipe("bf16", "bf16", "bf16", "bf16", "bf16")  # keys and values that attention reads
OLD_ATTENTION_RATE = 0.55  # of the peak, batched products of one head (Megatron-LM 2021, assumed)
QUANTISE_BYTES = 3  # a pass over an activation: read two bytes, write one
LOGIT_BYTES = 16  # fp32 logits, their softmax and gradient, for each logit
# Heads of 64 reach 0.75 of the rate of heads of 128 in training (assumed); the tables of kernels
# alone have no others than 128.
WIDE_HEAD, NARROW_POWER = 128, 0.41


@dataclass(frozen=True, slots=True)
class Kernels:
    """The chip with the curves of its kernels alone, the software of a job, and the curves with
    what training changes of them, by dtype. ``machine_rate``: see the workload.
    """

    machine: TopologyInput
    software: TrainingSoftware
    rate: TrainingRate
    curves: Mapping[str, GemmCurve]
    machine_rate: float = 1.0

    @property
    def chip(self) -> Chip:
        """The chip."""
        return self.machine.chip

    @property
    def sustained(self) -> float:
        """The share of the FLOP rate of products alone that long steps keep on this machine."""
        return self.machine_rate * self.rate.sustained

    def products(
        self, dtype: str, shapes: Sequence[Shape3], *, quantise: bool = True
    ) -> list[float]:
        """Seconds of each product (m x k) (k x n) in a dtype, with (``quantise``) the passes that
        bring the left side into it.
        """
        if not shapes:
            return []
        m, n, k = np.array(shapes, dtype=float).T
        seconds, _ = gemm_kernel_s(self.chip, curve_of(dtype), self.curves[dtype], m, n, k)
        return [
            float(second) + (self.quantised_s(dtype, rows * depth) if quantise else 0.0)
            for second, (rows, _, depth) in zip(seconds, shapes, strict=True)
        ]

    def quantised_s(self, dtype: str, elements: float) -> float:
        """Seconds that bring so many activations into a dtype."""
        return self.stream(self.software.quantise.get(dtype, 0.0) * QUANTISE_BYTES * elements)

    def experts(
        self, dtype: str, inputs: int, elements: float, *, gradient: bool = False
    ) -> ExpertUnits:
        """What experts of so many inputs and weights cost in a dtype; ``gradient``: the pass that
        writes their weights' gradients in the dtype of outputs, where others read the weights.
        """
        curve = expert_curve(self.machine, curve_of(dtype))
        width = OUTPUT_BYTES if gradient else None
        units = expert_units(self.chip, curve_of(dtype), curve, inputs, elements, width)
        return replace(units, floor_s=self.software.launch, math_s=units.math_s / self.sustained)

    @property
    def stream_bytes_per_s(self) -> float:
        """Bytes/s of kernels that only move data."""
        return stream_bytes_per_s(self.machine)

    def stream(self, moved_bytes: float) -> float:
        """Seconds of kernels that move so many bytes; their launches hide behind products."""
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
    rate, alone = machine.alone.training, machine.timed_alone
    if rate is None:
        raise SpecError(
            f"{machine.chip.name}: no sustained rate of training in its curves; "
            f"write 'training' into its file of fits, or 'borrows' a relative"
        )
    kernels = Kernels(alone, software, rate, {}, machine_rate)
    curves = {}
    for dtype in dict.fromkeys(("bf16", *dtypes)):
        curve = gemm_curve(alone, curve_of(dtype))
        share = curve.compute * kernels.sustained * rate.precision.get(dtype, 1.0)
        curves[dtype] = replace(
            curve, floor=software.launch, per_k=0.0, quantise=None, compute=share
        )
    return replace(kernels, curves=curves)


def curve_of(dtype: str) -> str:
    """The dtype whose curves a training dtype takes."""
    return CURVE_OF.get(dtype, dtype)


def peak_dtype(dtype: str) -> str:
    """The peak that a training dtype runs against."""
    return PEAK_OF[curve_of(dtype)]


def attention_s(
    kernels: Kernels, model: Model, seq_len: int, sequences: float, tp: int
) -> tuple[float, float]:
    """Seconds of the core of attention in a mean layer, forward and backward.

    Model, flash: whole prompts as ``prompt_attention`` prices them, linear layers as
    ``recurrent_s`` does, over the factors of chip and software (``attention_rate``). Unfused: two
    full products and ``score_bytes`` of traffic a score.
    """
    kernel = kernels.software.attention
    if kernel.kind == "unfused":
        pairs = sequences * model.heads / tp * seq_len * seq_len
        peak = kernels.chip.device_peak("bf16")
        dims = head_dims(model.kinds[0], absorbed=False)
        flop_s = 2 * pairs * dims / (peak * OLD_ATTENTION_RATE)
        scores_s = kernels.stream(pairs * kernel.score_bytes)
        return flop_s + scores_s, 2 * flop_s + scores_s
    prompt = prompt_attention(kernels.machine, model, Layout(tp), CACHED)
    whole_s = prompt.seconds(0, seq_len)
    if model.linear is not None:
        flop = LINEAR_FLOP * model.linear.layers * linear_state_elements(model.linear, tp)
        whole_s += recurrent_s(kernels.machine, flop * seq_len, CACHED.kv)
    forward = sequences * whole_s / model.layers / attention_rate(kernels, model)
    return forward, forward * kernel.backward_flop / kernel.backward_rate


def attention_rate(kernels: Kernels, model: Model) -> float:
    """The rate of attention in training over that of the chip's prompt kernels alone."""
    rate = kernels.rate.sustained * kernels.rate.attention
    rate *= kernels.software.attention.rate_on(kernels.chip.architecture)
    if model.mla is None and model.head_dim < WIDE_HEAD:
        rate *= (model.head_dim / WIDE_HEAD) ** NARROW_POWER
    return rate
