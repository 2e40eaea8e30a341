"""Laws of experts: which are touched, which device is slowest, how far tokens travel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cluster_sim.errors import SpecError
from cluster_sim.kernels.experts import choice_probabilities, expert_time, touched_experts
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.perf.collectives import exchange, exchange_copies
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


@pytest.mark.parametrize("ranks", [2, 8, 72])
def test_copies_of_tokens(ranks: int) -> None:
    """One expert is one copy unless it is at home; devices that hold two experts get one."""
    for kernel in ("per_expert", "per_device"):
        assert exchange_copies(kernel, 1, ranks) == pytest.approx((ranks - 1) / ranks)
    for chosen in (2, 8, 1000):
        once = exchange_copies("per_device", chosen, ranks)
        assert once < min(exchange_copies("per_expert", chosen, ranks), ranks)
    assert exchange_copies("per_device", 10_000, ranks) == pytest.approx(ranks - 1)


def test_exchange_takes_the_faster_kernel(h200: TopologyInput) -> None:
    message = np.geomspace(1e3, 1e9, 50)
    both = exchange(h200, message, 8, 8)[0]
    alone = []
    for kernel, curve in h200.fits.all_to_all.items():
        fits = dataclasses.replace(h200.fits, all_to_all={kernel: curve})
        alone.append(exchange(dataclasses.replace(h200, fits=fits), message, 8, 8)[0])
    assert (both == np.minimum(*alone)).all()
    assert both[0] == alone[0][0]  # few tokens: low latency
    assert both[-1] == alone[1][-1]  # many: few copies
    none = dataclasses.replace(h200, fits=dataclasses.replace(h200.fits, all_to_all={}))
    with pytest.raises(SpecError, match=r"no fitted all_to_all curve; run with plan\.attn_dp=1"):
        exchange(none, message, 8, 8)
