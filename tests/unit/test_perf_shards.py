from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.kernels.counts import matmul_parameters
from cluster_sim.kernels.curves import attention_curves, gemm_curve
from cluster_sim.kernels.layout import Layout, Recipe, recipe
from cluster_sim.kernels.model_ops import (
    kv_bytes_per_token,
    kv_heads_per_device,
    layer_gemms,
    weight_bytes_per_device,
)
from cluster_sim.kernels.power import chip_power_w
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.step_price import compile_step_price
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology


def with_fits(machine: TopologyInput, **changes: Any) -> TopologyInput:
    return dataclasses.replace(machine, fits=dataclasses.replace(machine.fits, **changes))


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_shards_hold_the_whole_model(chat: WorkloadInput, tp: int) -> None:
    model = chat.model
    layers = sum(gemm.layers * gemm.n * gemm.k for gemm in layer_gemms(model, Layout(tp)))
    table = model.vocab * model.hidden
    assert tp * layers == matmul_parameters(model) - table
    whole = tp * layers + 2 * 2 * table
    dtypes = Recipe("fp8", "fp8", "fp8", "fp8", "fp8")
    assert tp * weight_bytes_per_device(model, Layout(tp), dtypes) == whole


def test_kv_heads_are_split_replicated_and_never_lost(chat: WorkloadInput) -> None:
    model = dataclasses.replace(chat.model, heads=48, kv_heads=8)
    heads = {tp: kv_heads_per_device(model, tp) for tp in (1, 2, 3, 4, 6, 8, 16, 48)}
    assert heads == {1: 8, 2: 4, 3: 3, 4: 2, 6: 2, 8: 1, 16: 1, 48: 1}
    assert all(tp * each >= model.kv_heads for tp, each in heads.items())
    assert kv_bytes_per_token(model, 3, "fp8") == 2 * model.layers * 3 * model.head_dim


def test_a_cache_byte_costs_what_the_cache_holds(h200: TopologyInput, chat: WorkloadInput) -> None:
    model = dataclasses.replace(chat.model, heads=48, kv_heads=8)
    price = compile_step_price(
        h200, model, chat.software, Layout(3), recipe(h200.chip, model, "fp8", "fp8")
    )
    read = h200.chip.memory.bandwidth * h200.fits.attention_decode["fp8"].memory
    assert price.context_s == pytest.approx(kv_bytes_per_token(model, 3, "fp8") / read, rel=1e-12)


def test_of_total_says_what_the_engine_may_use(h200: TopologyInput, chat: WorkloadInput) -> None:
    memory = dataclasses.replace(chat.software.memory, rule="of_total", fraction=0.5)
    software = dataclasses.replace(chat.software, memory=memory)
    dtypes = recipe(h200.chip, chat.model, "bf16", "bf16")
    with pytest.raises(DoesNotFitError, match=r"may use 69\.\d of 139\.\d GiB"):
        kv_cache(h200.chip, chat.model, software, Layout(1), dtypes)


def test_missing_curves_are_named(h200: TopologyInput, chat: WorkloadInput) -> None:
    bare = with_fits(h200, attention_decode={"bf16": h200.fits.attention_decode["bf16"]})
    dtypes = recipe(h200.chip, chat.model, "fp8", "fp8")
    with pytest.raises(SpecError, match=r"no fitted attention curves for a fp8 .*it has bf16"):
        compile_step_price(bare, chat.model, chat.software, Layout(2), dtypes)
    assert attention_curves(h200, "int8") == attention_curves(h200, "fp8")
    with pytest.raises(SpecError, match=r"a100.*no fp8 in hardware"):
        gemm_curve(load_topology("a100_nvl8"), "fp8")


def test_power_is_a_mean_of_the_families(h200: TopologyInput) -> None:
    assert chip_power_w(h200, {"idle": 1.0}) == h200.chip.idle_power
    mixed = chip_power_w(h200, {"gemm_math": 0.5, "attention_decode": 0.5})
    curve = h200.fits.power
    assert mixed == pytest.approx((curve.gemm_compute_bound + curve.attention_decode) / 2)
    assert curve.gemm_compute_bound <= h200.chip.tdp
