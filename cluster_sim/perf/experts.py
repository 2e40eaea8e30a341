"""Which experts tokens choose, and what the routed experts of a layer cost the busiest device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.perf.layout import Layout, Recipe
from cluster_sim.perf.transformer import ACTIVATION_BYTES, expert_elements
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, PEAK_OF
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model, Moe

FloatArray = NDArray[np.float64]
# Loads of experts: 0.9 bounded power law of exponent 1.2 and 0.1 uniform (fitted on measured
# closed-loop runs). The bound makes 256 picks of 256 experts touch 112 of them and 1,024 picks 195,
# as the times of grouped GEMM tables imply (110, 196).
EXPONENT, LARGEST, SKEWED = 1.2, 150.0, 0.9
PLACEMENT_SEED = 0  # which experts share a device
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


@dataclass(frozen=True, slots=True)
class ExpertTime:
    """Seconds of one layer's routed experts by tokens in the step, split by what they wait for."""

    math_s: FloatArray
    weights_s: FloatArray
    provenance: str


def expert_time(
    machine: TopologyInput, model: Model, layout: Layout, recipe: Recipe, most: int
) -> ExpertTime:
    """Routed experts of one layer on the device that takes longest, for 0..most tokens.

    Model: floor + FLOP / (peak u_c) + bytes / (bandwidth u_m) with FLOP = 2 x expert weights x
    picks of its experts, bytes = touched experts + activations; experts are placed on the ``ep``
    devices by a seeded shuffle and touched with probability 1 - (1 - q)^T. Source: grouped GEMM
    tables of ai-dynamo/aiconfigurator @095f58a. Limits: loads do not change during a run, no
    redundant experts.
    """
    moe = model.moe
    assert moe is not None
    curve, chip = machine.fits.moe[recipe.experts], machine.chip  # type: ignore[index]
    peak = chip.device_peak(PEAK_OF[recipe.experts]) * curve.compute
    bandwidth = chip.device_bandwidth * curve.memory
    elements = expert_elements(model, layout)
    order = np.random.default_rng(PLACEMENT_SEED).permutation(moe.experts)
    chosen = choice_probabilities(moe)[order].reshape(layout.ep, -1)
    tokens = np.unique(np.rint(np.geomspace(1, max(2, most), KNOTS)))
    touched = 1 - (1 - chosen[:, :, None]) ** tokens  # (ep, experts a device, knots)
    picks = chosen.sum(axis=1)[:, None] * tokens
    inner = elements // model.hidden
    moved = touched.sum(axis=1) * elements * BYTES_PER_ELEMENT[recipe.experts]
    moved += picks * (2 * model.hidden + inner) * ACTIVATION_BYTES
    math = 2 * elements * picks / peak
    rest = curve.floor + moved / bandwidth
    busiest = (math + rest).argmax(axis=0)
    columns = np.arange(len(tokens))
    every = np.arange(most + 1, dtype=float)
    math_s = np.interp(every, tokens, math[busiest, columns])
    rest_s = np.interp(every, tokens, rest[busiest, columns])
    math_s[0] = rest_s[0] = 0.0
    return ExpertTime(math_s, rest_s, curve.provenance)
