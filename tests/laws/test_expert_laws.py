"""Laws of experts: which are touched, which device is slowest, how far tokens travel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cluster_sim.kernels.experts import choice_probabilities, expert_time, touched_experts
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_workload
from cluster_sim.specs.model import Model, Moe

EXPERTS = Moe(experts=256, top_k=8, expert_hidden=2048, layers=1)
RECIPE = Recipe("fp8", "fp8", "fp8", "fp8", "bf16")
TOKENS = np.array([1.0, 4, 16, 64, 256, 1024, 8192])


@pytest.fixture(scope="module")
def sparse() -> Model:
    dense = load_workload("llama8b").model
    return dataclasses.replace(dense, layers=1, hidden=7168, moe=EXPERTS)


@pytest.mark.parametrize("devices", [1, 8, 64])
def test_touched_experts_average_to_the_closed_form(devices: int) -> None:
    chosen = choice_probabilities(EXPERTS).reshape(devices, -1)
    assert chosen.sum() == pytest.approx(EXPERTS.top_k)
    touched = touched_experts(chosen, TOKENS)
    assert (np.diff(touched, axis=-1) >= 0).all()
    assert (touched <= EXPERTS.experts // devices).all()
    exact = (1 - (1 - chosen[:, :, None]) ** TOKENS).sum(axis=(0, 1))
    assert touched.mean(axis=0).sum(axis=0) == pytest.approx(exact, rel=0.02)


def test_slowest_device_never_beats_an_even_spread(h200: TopologyInput, sparse: Model) -> None:
    """More devices, less time, but never less than an equal share; more tokens never take less."""
    curve = h200.fits.moe["fp8"]
    times = {}
    for ep in (1, 8, 64):
        time = expert_time(h200, sparse, Layout(tp=ep, ep=ep), RECIPE, 8192)
        times[ep] = time.math_s + time.weights_s
        assert (np.diff(times[ep]) >= -1e-15).all()
        even = curve.floor + (times[1][1:] - curve.floor) / ep
        assert (times[ep][1:] >= even * (1 - 1e-9)).all()
    assert (times[8][1:] <= times[1][1:]).all()
    assert (times[64][1:] <= times[8][1:]).all()
