from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cluster_sim.collectives.in_step import all_reduce
from cluster_sim.collectives.ranks import shape_of
from cluster_sim.errors import DoesNotFitError
from cluster_sim.kernels.gemm import gemm_s
from cluster_sim.kernels.layout import Layout, recipe
from cluster_sim.output.tables import FAMILY_WORDS
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.serving.plan import resolve
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload


def price_of(machine: TopologyInput, job: WorkloadInput, tp: int = 2) -> StepPrice:
    dtypes = recipe(machine.chip, job.model, "fp8", "fp8")
    return compile_step_price(machine, job.model, job.software, Layout(tp), dtypes)


def faster(machine: TopologyInput, what: str) -> TopologyInput:
    chip, topology = machine.chip, machine.topology
    if what == "bandwidth":
        memory = dataclasses.replace(chip.memory, bandwidth=chip.memory.bandwidth * 1.3)
        chip = dataclasses.replace(chip, memory=memory)
    elif what == "flops":
        chip = dataclasses.replace(chip, peak={d: v * 1.3 for d, v in chip.peak.items()})
    else:
        scale_up = topology.scale_up
        links = dataclasses.replace(scale_up, link_bandwidth=scale_up.link_bandwidth * 1.3)
        topology = dataclasses.replace(topology, scale_up=links)
    return dataclasses.replace(machine, chip=chip, topology=topology)


@pytest.mark.parametrize("what", ["bandwidth", "flops", "links"])
@pytest.mark.parametrize("tp", [1, 2, 8])
def test_a_better_machine_is_never_slower(
    h200: TopologyInput, chat: WorkloadInput, what: str, tp: int
) -> None:
    before, after = price_of(h200, chat, tp), price_of(faster(h200, what), chat, tp)
    assert all(a <= b for a, b in zip(after.tokens_s, before.tokens_s, strict=True))
    assert all(a <= b for a, b in zip(after.decode_base_s, before.decode_base_s, strict=True))
    assert after.context_s <= before.context_s
    assert after.prompt.all_s <= before.prompt.all_s


def test_families_add_up_to_the_step(h200: TopologyInput, chat: WorkloadInput) -> None:
    price = price_of(h200, chat)
    assert {family.name for family in price.families} <= set(FAMILY_WORDS)
    decodes, context, tokens, prompts = 7, 9000, 1500, 2
    attention_s = price.prefill_attention_s(0, 1500)
    total = 0.0
    for family in price.families:
        for table, index in (
            (family.tokens_s, decodes + tokens),
            (family.sequences_s, decodes + prompts),
            (family.decodes_s, decodes),
        ):
            total += 0.0 if table is None else table[index]
        total += family.context_s * context + family.prefill_floor_s
        total += attention_s * family.prompts
    step_s = price.step_s(decodes, context, 0, tokens, prompts, attention_s)
    assert total == pytest.approx(step_s, rel=1e-12)


def test_a_stretch_has_the_bytes_of_its_steps(h200: TopologyInput, chat: WorkloadInput) -> None:
    price = price_of(h200, chat)
    stretch = price.decode_stretch_s(37, 51_234, 0, 0, 500).tolist()
    assert stretch == [price.step_s(37, 51_234 + 37 * i, 0, 0, 0, 0.0) for i in range(500)]


def test_a_large_gemm_nears_the_fitted_share_of_the_peak(h200: TopologyInput) -> None:
    rows = np.array([65_536.0])
    seconds, math_bound = gemm_s(h200, "bf16", rows, 16_384, 16_384)
    curve = h200.fits.gemm["bf16"]
    ideal = 2 * 65_536 * 16_384**2 / (h200.chip.peak["bf16"] * curve.compute)
    assert math_bound.all()
    assert seconds[0] == pytest.approx(ideal, rel=1e-3)


def test_batch_one_decode_is_near_the_roofline_with_latencies(
    h200: TopologyInput, chat: WorkloadInput
) -> None:
    """35.3 GB of weights at 75 % of HBM, 160 one-shot all-reduces of 16 KiB, host time: 11 ms."""
    step = price_of(h200, chat).step_s(1, 1000, 0, 0, 0, 0.0)
    pair = shape_of(h200, np.arange(2))
    reduces = 160 * float(
        all_reduce(h200, ("trtllm_custom",), pair, np.array([16384.0])).seconds[0]
    )
    host = chat.software.host.per_step + chat.software.host.per_sequence
    reference = 35.3e9 / (0.75 * 4.8e12) + reduces + host
    assert reference == pytest.approx(11e-3, rel=0.06)
    assert step == pytest.approx(reference, rel=0.25)
    assert step > 35.3e9 / 4.8e12


def test_kv_blocks_by_hand(h200: TopologyInput, chat: WorkloadInput) -> None:
    """TensorRT-LLM's rule on an H200 at TP2: 0.9 of what weights and reserve leave free."""
    dtypes = recipe(h200.chip, chat.model, "fp8", "fp8")
    cache = kv_cache(h200.chip, chat.model, chat.software, Layout(2), dtypes)
    layer = 8192 * 128 * (2 * 32 + 2 * 4) + 3 * 8192 * 14336
    weights = 80 * layer + 2 * 64128 * 8192 * 2
    taken = chat.software.memory.overhead
    forward = taken.forward * 8192 * (2 * 8192 + 3 * 14336)
    work = max(forward, taken.sampling * 2048 * 128256) + taken.graphs
    room = 0.9 * (h200.chip.visible_memory - weights - taken.context - taken.peers - work)
    assert cache.weights_bytes == weights
    assert cache.blocks == int(room // (2 * 80 * 4 * 128 * 32))


def test_what_does_not_fit_says_what_does() -> None:
    machine = load_topology("h100_nvl8")
    job = load_workload("llama405b", ["plan.tp=4"])
    with pytest.raises(DoesNotFitError, match=r"tp=4 in fp8.*GiB.*Smallest plan that fits: tp=8"):
        resolve(machine, job)


def test_precision_is_the_first_that_the_chip_has() -> None:
    job = load_workload("llama70b")
    assert resolve(load_topology("a100_nvl8"), job).recipe.name == "int8"
    assert resolve(load_topology("h20_nvl8"), job).recipe.name == "fp8"
