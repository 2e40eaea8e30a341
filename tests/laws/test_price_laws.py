"""Laws of time alone, on every chip and on random models, plans and batches."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_sim.kernels.layout import Layout, recipe
from cluster_sim.machine.host import domain_devices
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.specs.find import names
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.specs.model import Model

CHAT = load_workload("llama70b", ["engine.max_num_seqs=64", "engine.max_num_batched_tokens=1024"])
LOADED = [load_topology(name) for name in names("topology")]
# without a bf16 peak there is no price of a bf16 step
MACHINES = {m.topology.name: m for m in LOADED if "bf16" in m.chip.peak}
CASES = settings(max_examples=60, deadline=None)
FAMILIES = (
    *("gemm_math", "gemm_weights", "attention_prefill", "attention_decode"),
    *("glue", "all_reduce", "host", "swap"),
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    kv_heads = draw(st.sampled_from((1, 2, 8)))
    return dataclasses.replace(
        CHAT.model,
        layers=draw(st.integers(1, 100)),
        hidden=128 * draw(st.integers(4, 128)),
        ffn_hidden=256 * draw(st.integers(2, 200)),
        heads=kv_heads * draw(st.sampled_from((8, 16))),
        kv_heads=kv_heads,
        vocab=draw(st.integers(1000, 200_000)),
    )


@st.composite
def steps(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Decodes, context, prompt tokens, prompts, end of the prompts."""
    decodes, tokens = draw(st.integers(0, 56)), draw(st.integers(0, 1024))
    prompts = min(tokens, draw(st.integers(1, 8)))
    context = decodes * draw(st.integers(1, 50_000))
    return max(decodes, int(tokens == 0)), context, tokens, prompts, draw(st.integers(1024, 10**5))


def price_of(machine: TopologyInput, model: Model, tp: int) -> StepPrice:
    dtype = next(d for d in ("fp8", "int8", "bf16") if d in machine.chip.peak)
    dtypes = recipe(machine.chip, model, dtype, dtype)
    inside = max(n for n in (1, 2, 4, 8) if n <= min(tp, domain_devices(machine)))
    return compile_step_price(machine, model, CHAT.software, Layout(inside), dtypes)


def seconds(price: StepPrice, step: tuple[int, int, int, int, int]) -> float:
    decodes, context, tokens, prompts, end = step
    attention_s = price.prefill_attention_s(end - tokens, end) if tokens else 0.0
    return price.step_s(decodes, context, 0, tokens, prompts, attention_s)


def better(machine: TopologyInput, what: str, factor: float) -> TopologyInput:
    chip, topology = machine.chip, machine.topology
    if what == "bandwidth":
        memory = dataclasses.replace(chip.memory, bandwidth=chip.memory.bandwidth * factor)
        chip = dataclasses.replace(chip, memory=memory)
    elif what == "flops":
        chip = dataclasses.replace(chip, peak={d: v * factor for d, v in chip.peak.items()})
    else:
        links = topology.scale_up.link_bandwidth * factor
        scale_up = dataclasses.replace(topology.scale_up, link_bandwidth=links)
        topology = dataclasses.replace(topology, scale_up=scale_up)
    return dataclasses.replace(machine, chip=chip, topology=topology)


@pytest.mark.parametrize("what", ["bandwidth", "flops", "links"])
@CASES
@given(
    name=st.sampled_from(sorted(MACHINES)),
    model=models(),
    step=steps(),
    tp=st.sampled_from((1, 2, 4, 8)),
    factor=st.floats(1.01, 10),
)
def test_no_step_gets_slower_on_a_better_machine(
    what: str,
    name: str,
    model: Model,
    step: tuple[int, int, int, int, int],
    tp: int,
    factor: float,
) -> None:
    machine = MACHINES[name]
    before = seconds(price_of(machine, model, tp), step)
    after = seconds(price_of(better(machine, what, factor), model, tp), step)
    assert 0 < after <= before
    if what == "links" and tp == 1:
        assert after == before


@CASES
@given(name=st.sampled_from(sorted(MACHINES)), model=models(), step=steps())
def test_families_add_up_and_none_is_negative(
    name: str, model: Model, step: tuple[int, int, int, int, int]
) -> None:
    price = price_of(MACHINES[name], model, 4)
    decodes, context, tokens, prompts, end = step
    assert tuple(family.name for family in price.families) == FAMILIES
    attention_s = price.prefill_attention_s(end - tokens, end) if tokens else 0.0
    rows = decodes + (prompts if tokens else 0)
    total = 0.0
    for family in price.families:
        part = family.context_s * context
        part += 0.0 if family.tokens_s is None else family.tokens_s[decodes + tokens]
        part += 0.0 if family.sequences_s is None else family.sequences_s[rows]
        part += 0.0 if family.decodes_s is None else family.decodes_s[decodes]
        if tokens:
            part += family.prefill_floor_s + attention_s * family.prompts
        assert part >= 0
        total += part
    assert total == pytest.approx(seconds(price, step), rel=1e-12)


@CASES
@given(
    name=st.sampled_from(sorted(MACHINES)),
    decodes=st.integers(1, 64),
    each=st.integers(1, 10**6),
    length=st.integers(1, 300),
)
def test_a_stretch_has_the_bytes_of_its_steps(
    name: str, decodes: int, each: int, length: int
) -> None:
    price = price_of(MACHINES[name], CHAT.model, 8)
    context = decodes * each
    stretch = price.decode_stretch_s(decodes, context, 0, 0, length).tolist()
    single = [price.step_s(decodes, context + decodes * i, 0, 0, 0, 0.0) for i in range(length)]
    assert stretch == single


@CASES
@given(start=st.integers(0, 10**5), first=st.integers(1, 5000), second=st.integers(1, 5000))
def test_chunks_of_a_prompt_are_at_least_its_whole(start: int, first: int, second: int) -> None:
    """Splitting reads short contexts at a lower share of the peak, never a higher one."""
    price = price_of(MACHINES["h200_nvl8"], CHAT.model, 2)
    middle, end = start + first, start + first + second
    parts = price.prefill_attention_s(start, middle) + price.prefill_attention_s(middle, end)
    assert parts >= price.prefill_attention_s(start, end) * (1 - 1e-12)
