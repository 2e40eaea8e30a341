"""A kernel has one price: what a training step pays is what a service pays, but for named factors.

With all factors of chip and software at one, both are equal; each factor then does what its name
says and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_jobs import job

from cluster_sim.collectives.network import Network
from cluster_sim.kernels.attention import prompt_attention
from cluster_sim.kernels.experts import expert_time
from cluster_sim.kernels.gemm import gemm_s
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import kv_elements_per_layer
from cluster_sim.kernels.stream import activation_elements, glue_bytes, stream_bytes_per_s
from cluster_sim.perf.families import operator_families
from cluster_sim.perf.train_groups import groups_of
from cluster_sim.perf.train_kernels import Kernels, attention_s, kernels_of
from cluster_sim.perf.train_layer import Case, layers_of
from cluster_sim.specs.chip import TrainingRate
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_spec, load_topology, load_workload
from cluster_sim.specs.model import Model
from cluster_sim.specs.training_software import AttentionKernel, TrainingSoftware

CHIPS = ["h100_sxm", "h200_sxm", "a100_80g_sxm", "b200", "gb200", "mi300x", "ascend_910b"]
SHAPES = [(8192, 4096, 4096), (4096, 28672, 8192), (64, 1024, 8192), (17, 300, 128), (512, 131, 7)]
PEAKS = {"bf16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "fp4": "fp4"}
LENGTHS = [512, 4096, 32768]
TOKENS = 4096


def machine_of(chip: str) -> TopologyInput:
    return load_topology(f"1 x {chip}")


def software() -> TrainingSoftware:
    return load_spec("training", "megatron-26.06", TrainingSoftware)[1]


def neutral(machine: TopologyInput) -> tuple[TopologyInput, TrainingSoftware]:
    """A machine and a software whose named factors are all one, and whose launch is nothing."""
    rate = TrainingRate(sustained=1.0, provenance="assumed", source="-")
    plain = replace(software(), norms=1.0, elementwise=1.0, quantise={}, launch=0.0, layer=0.0)
    experts = replace(plain.experts, rate=1.0, width_power=0.0, sync=0.0, launch=0.0)
    attention = AttentionKernel(source="-", backward_flop=2.0, backward_rate=1.0)
    plain = replace(plain, attention=attention, experts=replace(experts, permute_bytes=0.0))
    return replace(machine, alone=replace(machine.alone, training=rate)), plain


def kernels(chip: str, *dtypes: str) -> Kernels:
    machine, plain = neutral(machine_of(chip))
    return kernels_of(machine, plain, dtypes)


def case_of(chip: str, name: str, tokens: int = TOKENS) -> Case:
    """The layers of a model on one device, one sequence of so many tokens at a time."""
    machine, plain = neutral(machine_of(chip))
    given = job(name, seq_len=tokens, global_batch=1).workload
    model, network = load_spec("model", given.model, Model)[1], Network(machine)
    plan = given.plan
    prices, groups = kernels_of(machine, plain, ("bf16",)), groups_of(network, plan, 1)
    return Case(prices, network, groups, model, given, plan)


def dtypes_of(machine: TopologyInput) -> list[str]:
    known = machine.alone.gemm
    return [name for name, peak in PEAKS.items() if name in known and peak in machine.chip.peak]


@pytest.mark.parametrize("chip", CHIPS)
def test_a_product_costs_the_same_in_training(chip: str) -> None:
    """But for the floor, which is the launch of the software, and the passes that quantise."""
    machine = machine_of(chip)
    for dtype in dtypes_of(machine):
        curve = machine.alone.gemm[dtype]  # type: ignore[index]
        for m, n, k in SHAPES:
            (trained,) = kernels(chip, dtype).products(dtype, [(m, n, k)])
            served = gemm_s(machine.timed_alone, dtype, np.array([float(m)]), n, k)[0][0]
            served -= curve.floor + curve.per_k * k / 1000
            if curve.quantise is not None:
                width = {"fp8": 1.0, "fp8_block": 1.0, "fp4": 0.5625}[dtype]
                passes = (2 + width) * m * k / machine.chip.device_bandwidth
                served -= passes / curve.quantise
            assert trained == pytest.approx(served, rel=1e-9, abs=1e-15), (dtype, m, n, k)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", ["llama3.1-8b", "deepseek-v3", "gemma3-27b", "gpt-oss-120b"])
def test_attention_costs_the_same_in_training(chip: str, name: str) -> None:
    machine, model = machine_of(chip), load_spec("model", name, Model)[1]
    recipe = Recipe("bf16", "bf16", "bf16", "bf16", "bf16")
    for tp in (1, 2):
        prompt = prompt_attention(machine.timed_alone, model, Layout(tp), recipe)
        for length in LENGTHS:
            trained, _ = attention_s(kernels(chip), model, length, 3.0, tp)
            served = 3 * prompt.seconds(0, length) / model.layers
            narrow = 1.0 if model.mla or model.head_dim >= 128 else (model.head_dim / 128) ** 0.41
            assert trained == pytest.approx(served / narrow, rel=1e-12)


@pytest.mark.parametrize("chip", ["h100_sxm", "h200_sxm", "b200", "gb200", "mi300x"])
@pytest.mark.parametrize("workload", ["mixtral_8x7b_train", "qwen3_30b_train"])
def test_experts_cost_the_same_in_training(chip: str, workload: str) -> None:
    """But for the floor, and for what moves rows: in the curve of the chip, or of the software."""
    case = case_of(chip, workload)
    machine, model = machine_of(chip).timed_alone, case.model
    assert model.moe is not None
    recipe, layout = Recipe("bf16", "bf16", "bf16", "bf16", "bf16"), Layout()
    served = expert_time(machine, model, layout, recipe, TOKENS)
    curve = machine.fits.moe["bf16"]
    inner = activation_elements(model, model.moe.expert_hidden)
    picks = TOKENS * model.moe.top_k
    moved = picks * (2 * model.hidden + inner) * 2
    moved_s = moved / (machine.chip.device_bandwidth * curve.activations)
    kept_s = served.math_s[-1] + served.weights_s[-1] - curve.floor - moved_s
    trained = layers_of(case).experts
    assert trained.forward["experts"] == pytest.approx(kept_s, rel=1e-3)
    assert trained.inputs["experts"] == pytest.approx(kept_s, rel=1e-3)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("workload", ["llama3_8b_train", "mixtral_8x7b_train", "gpt3_175b_train"])
def test_streams_cost_the_same_in_training(chip: str, workload: str) -> None:
    """But for their floors, and the write into a cache."""
    case = case_of(chip, workload)
    model, layers = case.model, layers_of(case)
    layer = layers.dense if model.moe is None else layers.experts
    wanted = glue_bytes(model, 1) - 2 * 2 * kv_elements_per_layer(model.kinds[0], 1)
    rate = stream_bytes_per_s(machine_of(chip).timed_alone)
    assert layer.forward["elementwise"] == pytest.approx(TOKENS * wanted / rate, rel=1e-12)


@pytest.mark.parametrize("chip", CHIPS)
def test_a_service_pays_the_price_of_kernels_with_its_own_factors(chip: str) -> None:
    """Products and streams of its families, on curves that its ``in_engine`` changes."""
    machine, given = machine_of(chip), load_workload("llama8b", vendor=machine_of(chip).chip.vendor)
    recipe = Recipe("bf16", "bf16", "bf16", "bf16", "bf16")
    parts = (given.model, given.software, Layout(), recipe)
    found = {one.name: one for one in operator_families(machine, *parts)}
    kernels_in = given.software.in_situ.glue_kernels_per_layer
    floors = kernels_in * machine.fits.glue.floor * given.model.layers
    glue_s = given.model.layers * 1000 * glue_bytes(given.model, 1) / stream_bytes_per_s(machine)
    assert found["glue"].tokens_s is not None
    assert found["glue"].tokens_s[1000] == pytest.approx(floors + glue_s, rel=1e-12)
    assert machine.fits.glue.memory == machine.alone.glue.memory


@pytest.mark.parametrize(
    ("factor", "slower"), [("sustained", 2.0), ("precision", 2.0), ("attention", 1.0)]
)
def test_factors_of_a_chip_stretch_arithmetic(factor: str, slower: float) -> None:
    machine, plain = neutral(machine_of("h100_sxm"))
    value = {"bf16": 0.5} if factor == "precision" else 0.5
    assert machine.alone.training is not None
    changed = replace(machine.alone.training, **{factor: value})
    slow = replace(machine, alone=replace(machine.alone, training=changed))
    long, reads = (16384.0, 16384.0, 16384.0), (1.0, 8192.0, 8192.0)
    before = kernels_of(machine, plain, ()).products("bf16", [long, reads])
    after = kernels_of(slow, plain, ()).products("bf16", [long, reads])
    assert after[0] == pytest.approx(slower * before[0])
    assert after[1] == pytest.approx(before[1])
    model = load_spec("model", "llama3.1-8b", Model)[1]
    once, _ = attention_s(kernels_of(machine, plain, ()), model, 4096, 1.0, 1)
    again, _ = attention_s(kernels_of(slow, plain, ()), model, 4096, 1.0, 1)
    assert again == pytest.approx((1.0 if factor == "precision" else 2.0) * once)


def test_fusion_of_a_software_scales_bytes_between_products() -> None:
    case = case_of("h100_sxm", "llama3_8b_train")
    before = layers_of(case).dense.forward["elementwise"]
    more = replace(case.kernels.software, elementwise=1.5)
    after = layers_of(replace(case, kernels=replace(case.kernels, software=more)))
    assert after.dense.forward["elementwise"] == pytest.approx(1.5 * before)


def test_training_does_not_see_what_engines_change() -> None:
    """The floor of fp8 products, 12 us alone and 3 in engines, is the launch of the software."""
    machine = machine_of("h100_sxm")
    assert machine.alone.gemm["fp8"].floor > 3 * machine.fits.gemm["fp8"].floor
    assert machine.timed_alone.fits is machine.alone
    trained = kernels_of(machine, software(), ("fp8",))
    assert trained.curves["fp8"].floor == software().launch
    assert trained.curves["fp8"].memory == machine.alone.gemm["fp8"].memory
