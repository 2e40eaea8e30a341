"""Which experts tokens choose, and what the routed experts of a layer cost the busiest device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import ACTIVATION_BYTES, expert_elements
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, PEAK_OF, Chip, ExpertCurve
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model, Moe

FloatArray = NDArray[np.float64]
Units = Any  # a number, or an array of them
# Loads of experts: 0.9 bounded power law of exponent 1.2 and 0.1 uniform (fitted on measured
# closed-loop runs). The bound makes 256 picks of 256 experts touch 112 of them and 1,024 picks 195,
# as the times of grouped GEMM tables imply (110, 196).
EXPONENT, LARGEST, SKEWED = 1.2, 150.0, 0.9
PLACEMENT_SEED = 0  # which experts share a device
DRAWS = 32  # samples of when each expert is first chosen
KNOTS = 160  # token counts at which expert time is computed; linear in between


def choice_probabilities(moe: Moe) -> FloatArray:
    """Probability that a token chooses each expert; shape (experts,), they add up to ``top_k``.

    Model: loads are the quantiles of the bounded power law at equal shares, mixed with a uniform
    one; no probability exceeds 1.
    """
    middles = (np.arange(moe.experts) + 0.5) / moe.experts
    slope = 1 - EXPONENT
    loads = ((LARGEST**slope - 1) * middles + 1) ** (1 / slope)
    shares = SKEWED * loads / loads.sum() + (1 - SKEWED) / moe.experts
    chosen = np.zeros(moe.experts)
    open_ = np.ones(moe.experts, dtype=bool)
    while True:
        left = moe.top_k - float((~open_).sum())
        wanted = shares * left / shares[open_].sum()
        over = open_ & (wanted >= 1)
        if not over.any():
            chosen[open_] = wanted[open_]
            return chosen
        chosen[over] = 1.0
        open_ &= ~over
        if not open_.any():
            return chosen


def group_imbalance(moe: Moe, groups: int) -> float:
    """Picks of the fullest of so many equal groups of experts over the mean, in the long run;
    experts are placed by a seeded shuffle.
    """
    order = np.random.default_rng(PLACEMENT_SEED).permutation(moe.experts)
    loads = choice_probabilities(moe)[order].reshape(groups, -1).sum(axis=1)
    return float(loads.max() / loads.mean())


@dataclass(frozen=True, slots=True)
class ExpertTime:
    """Seconds of one layer's routed experts by tokens in the step, split by what they wait for."""

    math_s: FloatArray
    weights_s: FloatArray
    provenance: str


@dataclass(frozen=True, slots=True)
class ExpertUnits:
    """Seconds of what the routed experts of a layer add up: once a layer, the products of a pick,
    the activations that it moves, the weights of an expert.
    """

    floor_s: float
    math_s: Units
    moved_s: Units
    weights_s: Units


def expert_units(
    chip: Chip,
    dtype: str,
    curve: ExpertCurve,
    inputs: Units,
    elements: Units,
    weight_bytes: float | None = None,
) -> ExpertUnits:
    """What experts of so many ``inputs`` and weights (``elements``) cost on a curve.

    Model: floor + FLOP / (peak u_c) + weights of touched experts / (bandwidth u_m) + activations /
    (bandwidth u_a) with 2 FLOP a weight and pick, ``weight_bytes`` a weight (those of the dtype
    unless given); a pick reads and writes a token, and between its products as many elements as an
    expert has weights for one input: what the activation reads and writes.
    """
    inner = elements // inputs
    moved = (2 * inputs + inner) * ACTIVATION_BYTES
    weights_s = elements * (BYTES_PER_ELEMENT[dtype] if weight_bytes is None else weight_bytes)
    weights_s /= chip.device_bandwidth * curve.memory
    return ExpertUnits(
        floor_s=curve.floor,
        math_s=2 * elements / (chip.device_peak(PEAK_OF[dtype]) * curve.compute),
        moved_s=moved / (chip.device_bandwidth * curve.activations),
        weights_s=weights_s,
    )


def touched_experts(chosen: FloatArray, tokens: FloatArray) -> FloatArray:
    """Experts of each device that the first tokens of a step choose, in samples of steps; shape
    (DRAWS, devices, token counts) for rising counts, from probabilities of shape (devices, experts
    a device).

    Model: an expert of probability q is first chosen by token ceil(ln(1 - u) / ln(1 - q)) with u
    uniform, one from each of DRAWS equal strata; so more tokens never touch fewer experts, and the
    mean over the samples is 1 - (1 - q)^T.
    """
    rng = np.random.default_rng(PLACEMENT_SEED)
    strata = np.broadcast_to(np.arange(DRAWS)[:, None], (DRAWS, chosen.size))
    uniform = (rng.permuted(strata, axis=0) + rng.random(strata.shape)) / DRAWS
    first = np.log1p(-uniform) / np.log1p(-np.minimum(chosen.ravel(), 1 - 1e-12))
    # How many experts are first chosen at each of the (rising) token counts, then up to each.
    devices, counts = DRAWS * len(chosen), len(tokens) + 1
    place = np.searchsorted(tokens, first).reshape(devices, -1)
    place += np.arange(devices)[:, None] * counts
    new = np.bincount(place.ravel(), minlength=devices * counts).reshape(DRAWS, -1, counts)
    return np.cumsum(new[:, :, :-1], axis=2, dtype=float)


@lru_cache(maxsize=8)
def _touched(moe: Moe, ep: int, most: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Probabilities by device, token counts up to ``most``, and the experts that those touch."""
    order = np.random.default_rng(PLACEMENT_SEED).permutation(moe.experts)
    chosen = choice_probabilities(moe)[order].reshape(ep, -1)
    tokens = np.unique(np.rint(np.geomspace(1, max(2, most), KNOTS)))
    return chosen, tokens, touched_experts(chosen, tokens)


def expert_time(
    machine: TopologyInput, model: Model, layout: Layout, recipe: Recipe, most: int
) -> ExpertTime:
    """Routed experts of one layer on the device that takes longest, for 0..most tokens.

    Model: ``expert_units`` of the picks of its experts, and of those that the step touches; experts
    are placed on the ``ep`` devices by a seeded shuffle; the mean over samples of steps of the
    slowest device.
    Source: grouped GEMM tables of ai-dynamo/aiconfigurator @095f58a, which it follows within 5 %
    (bf16, fp8: 8 experts) and 13 % (fp8_block: 256 and 384) in the median. Limits: loads do not
    change during a run, while those of the tables grow more uneven with the tokens (above 2,048
    tokens over several devices a quarter slower than here); no redundant experts.
    """
    moe = model.moe
    assert moe is not None
    curve = machine.fits.moe[recipe.experts]  # type: ignore[index]
    elements, width = expert_elements(model, layout), recipe.width(model, recipe.experts)
    units = expert_units(machine.chip, recipe.experts, curve, model.expert_input, elements, width)
    math_s, pick_s, weights_s = units.math_s, units.moved_s, units.weights_s
    chosen, tokens, touched = _touched(moe, layout.ep, most)
    picks = np.broadcast_to(chosen.sum(axis=1)[:, None] * tokens, touched.shape)
    slowest = (touched * weights_s + picks * (math_s + pick_s)).argmax(axis=1, keepdims=True)
    math = np.take_along_axis(picks, slowest, axis=1).mean(axis=(0, 1))
    read = np.take_along_axis(touched, slowest, axis=1).mean(axis=(0, 1))
    every = np.arange(most + 1, dtype=float)
    by_math = np.interp(every, tokens, math * math_s)
    by_bytes = np.interp(every, tokens, units.floor_s + read * weights_s + math * pick_s)
    by_math[0] = by_bytes[0] = 0.0
    return ExpertTime(by_math, by_bytes, curve.provenance)
