"""Laws of kinds of attention and of experts: limits in which one architecture is another."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_sim.kernels import counts
from cluster_sim.kernels.experts import choice_probabilities, expert_time
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import (
    kv_bytes_per_token,
    linear_state_bytes,
    state_bytes,
    weight_bytes_per_device,
)
from cluster_sim.perf.family import Family
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.step_price import StepPrice, compile_step_price, local_tokens
from cluster_sim.specs.chip import ExpertCurve, LatentCurve, PrefillCurve
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_spec, load_topology, load_workload
from cluster_sim.specs.model import LocalAttention, Model, Moe

SOFTWARE = load_workload(
    "llama70b", ["engine.max_num_seqs=32", "engine.max_num_batched_tokens=512"]
).software
DTYPES = Recipe("fp8", "fp8", "fp8", "fp8", "fp8")
CASES = settings(max_examples=25, deadline=None)
KINDS = (
    *("deepseek-v3", "deepseek-v3.2", "gpt-oss-20b", "llama4-maverick", "qwen3.5-397b-a17b"),
    *("qwen2-57b-a14b", "minimax-m2.5", "gemma2-9b", "gpt-j-6b", "falcon-180b", "gpt-moe-1.8t"),
)


def with_curves(machine: TopologyInput) -> TopologyInput:
    """Eight H200 with made-up curves for experts and latents."""
    made_up: dict[str, Any] = {"provenance": "assumed", "source": "made up"}
    experts = ExpertCurve(floor=5e-6, compute=0.5, memory=0.8, activations=0.6, **made_up)
    latents = LatentCurve(floor=5e-6, compute=0.5, memory=0.8, **made_up)
    prompts = PrefillCurve(floor=1e-5, compute=0.6, half_length=1000, **made_up)
    fits = dataclasses.replace(
        machine.fits,
        moe={"fp8": experts, "bf16": experts},
        mla_prefill={"fp8": prompts, "bf16": prompts},
        mla_decode={"fp8": latents, "bf16": latents},
    )
    return dataclasses.replace(machine, fits=fits)


MACHINE = with_curves(load_topology("h200_nvl8"))
MODELS = {name: load_spec("model", name, Model)[1] for name in (*KINDS, "llama3.1-8b")}
DENSE = MODELS["llama3.1-8b"]


def price_of(model: Model, layout: Layout | None = None) -> StepPrice:
    return compile_step_price(MACHINE, model, SOFTWARE, layout or Layout(), DTYPES)


def decode_s(price: StepPrice, context: int) -> float:
    return price.step_s(1, context, local_tokens(price.local, context), 0, 0, 0.0)


def family(price: StepPrice, name: str) -> Family:
    return next(family for family in price.families if family.name == name)


def table(price: StepPrice, name: str) -> Any:
    found = family(price, name).tokens_s
    assert found is not None
    return found


def local(kind: Any, tokens: int, layers: int, **index: int) -> LocalAttention:
    return LocalAttention(kind=kind, tokens=tokens, layers=layers, **index)


@pytest.mark.parametrize("name", KINDS)
def test_more_tokens_are_never_cheaper(name: str) -> None:
    price = price_of(MODELS[name], Layout(4))
    assert (np.diff(price.tokens_s) >= 0).all()
    assert (np.diff(price.sequences_s) >= 0).all()
    assert (np.diff(price.decode_base_s) > 0).all()
    assert price.context_s > 0
    assert price.prefill_attention_s(0, 2000) > price.prefill_attention_s(0, 1000) > 0


@pytest.mark.parametrize("kind", ["sliding", "chunked"])
@CASES
@given(context=st.integers(1, 50_000), spare=st.integers(0, 1000), layers=st.integers(1, 32))
def test_a_window_or_chunk_as_long_as_the_context_is_full_attention(
    kind: str, context: int, spare: int, layers: int
) -> None:
    full = price_of(DENSE)
    wide = dataclasses.replace(DENSE, local=local(kind, 2048 + context + spare, layers))
    price = price_of(wide)
    assert decode_s(price, context) == pytest.approx(decode_s(full, context), rel=1e-12)
    whole = full.prefill_attention_s(0, context)
    assert price.prefill_attention_s(0, context) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("kind", ["sliding", "chunked"])
@CASES
@given(start=st.integers(0, 50_000), tokens=st.integers(1, 5000), window=st.integers(1, 50_000))
def test_a_window_or_chunk_never_costs_more_than_full_attention(
    kind: str, start: int, tokens: int, window: int
) -> None:
    price = price_of(dataclasses.replace(DENSE, local=local(kind, window, 16)))
    full, end = price_of(DENSE), start + tokens
    assert decode_s(price, end) <= decode_s(full, end) * (1 + 1e-12)
    near, whole = (p.prefill_attention_s(start, end) for p in (price, full))
    assert 0 < near <= whole * (1 + 1e-12)


def test_sparse_attention_over_all_tokens_is_full_attention_and_the_index() -> None:
    index = {"index_heads": 64, "index_dim": 128}
    sparse = dataclasses.replace(DENSE, local=local("sparse", 10_000, DENSE.layers, **index))
    price, full = price_of(sparse), price_of(DENSE)
    stream = MACHINE.fits.attention_decode["fp8"].memory * MACHINE.chip.memory.bandwidth
    rate = MACHINE.fits.attention_prefill["fp8"].compute * MACHINE.chip.peak["bf16"]
    for context in (1, 100, 10_000):
        own = decode_s(full, context) + price.tokens_s[1] - full.tokens_s[1]
        read = context * counts.index_bytes_per_token(sparse) / stream
        assert decode_s(price, context) == pytest.approx(own + read, rel=1e-12)
        pairs = context**2 * (1 + price.prompt.half_length / context)
        scored = DENSE.layers * 64 * 128 * pairs / rate
        own = full.prefill_attention_s(0, context)
        assert price.prefill_attention_s(0, context) == pytest.approx(own + scored, rel=1e-12)
    growth = kv_bytes_per_token(sparse, 8, "fp8") - kv_bytes_per_token(DENSE, 8, "fp8")
    assert growth == counts.index_bytes_per_token(sparse)  # every device keeps the whole index


def test_chosen_latents_are_not_expanded() -> None:
    """V3.2: 2,048 tokens as in V3, then 2,048 for each token at 1,088 dimensions instead of 320."""
    sparse, full = price_of(MODELS["deepseek-v3.2"]), price_of(MODELS["deepseek-v3"])
    length, window = 100_000, 2048
    beyond = 2 * window * (length - window) * 1088 / 320
    chosen = full.prompt.all_s * (window**2 + beyond) * (1 + full.prompt.half_length / window)
    scored = sparse.prompt.all_s * length**2 * (1 + full.prompt.half_length / length)
    priced = sparse.prefill_attention_s(0, length)
    assert priced == pytest.approx(chosen + scored, rel=1e-12)
    assert priced < full.prefill_attention_s(0, length)
    short = sparse.prefill_attention_s(0, 2048) - sparse.prompt.all_s * 2048**2 * (
        1 + full.prompt.half_length / 2048
    )
    assert short == pytest.approx(full.prefill_attention_s(0, 2048), rel=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_bytes_of_the_cache_add_up_over_layers(name: str) -> None:
    model = MODELS[name]
    one, two = (dataclasses.replace(model, **layers_of(model, factor)) for factor in (1, 2))
    for tp in (1, 4):
        both = kv_bytes_per_token(one, tp, "fp8") + kv_bytes_per_token(model, tp, "fp8")
        assert kv_bytes_per_token(two, tp, "fp8") == both
        assert state_bytes(two, tp, "fp8") == 2 * state_bytes(model, tp, "fp8")
    assert counts.kv_bytes_per_token(two, "fp8") == 2 * counts.kv_bytes_per_token(model, "fp8")


def layers_of(model: Model, factor: int) -> dict[str, Any]:
    """All counts of layers times a factor."""
    parts = {name: getattr(model, name) for name in ("moe", "local", "linear")}
    changed: dict[str, Any] = {
        name: dataclasses.replace(part, layers=factor * part.layers)
        for name, part in parts.items()
        if part is not None
    }
    return {"layers": factor * model.layers, **changed}


@CASES
@given(experts=st.integers(1, 300), top_k=st.integers(1, 8), tokens=st.integers(1, 2000))
def test_touched_experts_lie_between_top_k_and_all_picks(
    experts: int, top_k: int, tokens: int
) -> None:
    moe = Moe(experts=experts, top_k=min(top_k, experts), expert_hidden=64, layers=1)
    chosen = choice_probabilities(moe)
    assert chosen.sum() == pytest.approx(moe.top_k)
    assert ((chosen > 0) & (chosen <= 1)).all()
    touched = float((1 - (1 - chosen) ** tokens).sum())
    most = min(moe.experts, tokens * moe.top_k)
    assert moe.top_k * (1 - 1e-9) <= touched <= most * (1 + 1e-9)


def test_experts_on_one_spread_are_cut_like_a_dense_mlp() -> None:
    """EP 1 is tensor parallelism alone: every device has a slice of every expert."""
    model = MODELS["qwen2-57b-a14b"]
    assert model.moe is not None
    tp, ep = Layout(4), Layout(4, ep=4)
    whole = expert_time(MACHINE, model, Layout(), DTYPES, 500)
    sliced = expert_time(MACHINE, model, tp, DTYPES, 500)
    assert np.allclose(whole.math_s, 4 * sliced.math_s, rtol=1e-12)
    weights = [weight_bytes_per_device(model, layout, DTYPES) for layout in (tp, ep)]
    assert weights[0] == weights[1]
    # The busiest device of a spread has at least the mean of the picks, which slices share evenly.
    spread = expert_time(MACHINE, model, ep, DTYPES, 500)
    assert (spread.math_s >= sliced.math_s * (1 - 1e-12)).all()


def test_one_expert_is_a_dense_mlp_with_a_router() -> None:
    moe = Moe(experts=1, top_k=1, expert_hidden=DENSE.ffn_hidden, layers=DENSE.layers)
    single = dataclasses.replace(DENSE, ffn_hidden=0, moe=moe)
    router = DENSE.layers * DENSE.hidden
    assert counts.parameters(single) == counts.parameters(DENSE) + router
    assert counts.active_parameters(single) == counts.parameters(single)
    assert counts.matmul_parameters(single) == counts.matmul_parameters(DENSE) + router
    for tp in (1, 4):
        one, dense = price_of(single, Layout(tp)), price_of(DENSE, Layout(tp))
        for name in ("glue", "all_reduce", "host"):
            for left, right in zip(tables(one, name), tables(dense, name), strict=True):
                assert np.array_equal(left, right), name
        assert (one.context_s, one.prompt.all_s) == (dense.context_s, dense.prompt.all_s)
        weights = [weight_bytes_per_device(m, Layout(tp), DTYPES) for m in (single, DENSE)]
        assert weights[0] == weights[1] + 2 * router  # routers are kept in bf16 on every device
    mlp = 2 * counts.mlp_parameters(DENSE, DENSE.ffn_hidden) * DENSE.layers
    curve = MACHINE.fits.moe["fp8"]
    flop_s = mlp / (MACHINE.chip.peak["fp8"] * curve.compute)
    assert table(price_of(single), "expert_math")[300] == pytest.approx(300 * flop_s, rel=1e-9)


def tables(price: StepPrice, name: str) -> list[Any]:
    found = family(price, name)
    return [t for t in (found.tokens_s, found.sequences_s, found.decodes_s) if t is not None]


@pytest.mark.parametrize("name", ["llama3.1-8b", "gemma2-9b", "qwen2-57b-a14b"])
def test_a_pipeline_of_one_stage_is_none(name: str) -> None:
    model = MODELS[name]
    plain, one = Layout(), Layout(tp=1, pp=1)
    left, right = price_of(model, plain), price_of(model, one)
    assert left.tokens_s == right.tokens_s
    assert [f.name for f in left.families] == [f.name for f in right.families]
    assert "handoff" not in [f.name for f in left.families]
    assert kv_cache(MACHINE.chip, model, SOFTWARE, plain, DTYPES) == kv_cache(
        MACHINE.chip, model, SOFTWARE, one, DTYPES
    )


def test_the_fullest_stage_holds_the_layers_that_do_not_divide() -> None:
    model = dataclasses.replace(DENSE, layers=61)
    table = 2 * model.vocab * model.hidden
    alone = weight_bytes_per_device(model, Layout(), DTYPES) - 2 * table
    fullest = weight_bytes_per_device(model, Layout(pp=4), DTYPES) - table
    assert fullest == pytest.approx(alone * 16 / 61, rel=1e-12)
    caches = [
        kv_cache(MACHINE.chip, model, SOFTWARE, Layout(pp=pp), DTYPES).bytes_per_token
        for pp in (1, 4)
    ]
    assert caches[1] == pytest.approx(caches[0] * 4 * 16 / 61, rel=1e-12)


def test_queries_that_share_one_key_head_are_bound_by_flop() -> None:
    """120 queries on one KV head need 240 FLOP a byte of fp8 cache; an H200 has 206 in bf16."""
    model = dataclasses.replace(MODELS["gpt-moe-1.8t"], layers=1, moe=None, ffn_hidden=64)
    flop = counts.attention_flop_per_context_token(model, absorbed=True)
    rate = MACHINE.chip.peak["bf16"] * MACHINE.fits.attention_prefill["fp8"].compute
    moved = counts.kv_bytes_per_token(model, "fp8")
    stream = MACHINE.chip.memory.bandwidth * MACHINE.fits.attention_decode["fp8"].memory
    assert flop / rate > moved / stream
    assert price_of(model).context_s == pytest.approx(flop / rate, rel=1e-12)


def test_a_linear_state_by_hand() -> None:
    linear = MODELS["qwen3.5-397b-a17b"].linear
    assert linear is not None
    tail = 3 * (2 * 16 * 128 + 64 * 128) * 2  # three inputs of the convolution in bf16
    assert linear_state_bytes(linear, 1) == 64 * 128 * 128 * 4 + tail
    assert linear_state_bytes(linear, 8) * 8 == linear_state_bytes(linear, 1)


def test_norms_gates_and_positions_are_counted() -> None:
    def glue(**changes: Any) -> float:
        return float(table(price_of(dataclasses.replace(DENSE, **changes)), "glue")[1])

    bandwidth = MACHINE.chip.memory.bandwidth * MACHINE.fits.glue.memory
    more = DENSE.layers * 2 / bandwidth  # seconds per element of each layer
    hidden, queries = DENSE.hidden, DENSE.heads * DENSE.head_dim
    assert glue(norms=4) - glue() == pytest.approx(4 * hidden * more, rel=1e-6)
    assert glue() - glue(norms=1) == pytest.approx(4 * hidden * more, rel=1e-6)
    assert glue(output_gate=True) - glue() == pytest.approx(3 * queries * more, rel=1e-6)
    learned = dataclasses.replace(DENSE, learned_positions=1000)
    extra = [weight_bytes_per_device(m, Layout(), DTYPES) for m in (learned, DENSE)]
    assert extra[0] - extra[1] == 1000 * hidden * 2


def test_a_parallel_block_has_one_all_reduce() -> None:
    two = table(price_of(DENSE, Layout(4)), "all_reduce")
    one = table(price_of(dataclasses.replace(DENSE, parallel_block=True), Layout(4)), "all_reduce")
    assert np.array_equal(2 * one, two)


def test_windows_in_all_layers_keep_a_growing_cache() -> None:
    """Nothing would be left that grows with the context, which blocks are counted by."""
    everywhere = dataclasses.replace(DENSE, local=local("sliding", 512, DENSE.layers))
    assert kv_cache(MACHINE.chip, everywhere, SOFTWARE, Layout(), DTYPES).blocks > 0
    half = dataclasses.replace(DENSE, local=local("sliding", 512, DENSE.layers // 2))
    assert 2 * kv_bytes_per_token(half, 1, "fp8") == kv_bytes_per_token(DENSE, 1, "fp8")
    assert state_bytes(half, 1, "fp8") == 512 * kv_bytes_per_token(half, 1, "fp8")


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_latents_are_replicated_and_heads_are_not(tp: int) -> None:
    model = MODELS["deepseek-v3"]
    assert kv_bytes_per_token(model, tp, "fp8") == counts.kv_bytes_per_token(model, "fp8")
    price, alone = price_of(model, Layout(tp)), price_of(model)
    assert price.prompt.all_s == pytest.approx(alone.prompt.all_s / tp, rel=1e-12)
    mla = MACHINE.fits.mla_decode["fp8"]
    moved = kv_bytes_per_token(model, tp, "fp8") / (MACHINE.chip.memory.bandwidth * mla.memory)
    assert price.context_s >= moved * (1 - 1e-12)


def test_no_weight_is_lost_or_doubled_over_a_stage() -> None:
    """Routers, latents' way down and index are on every device, all else once."""
    model = MODELS["deepseek-v3.2"]
    alone = weight_bytes_per_device(model, Layout(), DTYPES)
    mla, moe, index = model.mla, model.moe, model.local
    assert mla is not None
    assert moe is not None
    assert index is not None
    down = model.layers * (mla.q_rank + mla.kv_rank + mla.rope_dim) * model.hidden
    replicated = down + model.layers * counts.index_parameters(model)
    replicated += 2 * moe.layers * counts.router_parameters(model)
    for layout in (Layout(8), Layout(8, ep=8), Layout(8, ep=4), Layout(16, ep=8)):
        each = weight_bytes_per_device(model, layout, DTYPES)
        whole = alone + (layout.tp - 1) * replicated
        assert layout.tp * each == pytest.approx(whole, rel=1e-12)
