"""Laws of models with several kinds of attention: parts add up, and limits are the plain model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_model_laws import CASES, DENSE, MACHINE, MODELS, decode_s, family, local, price_of

from cluster_sim.errors import DoesNotFitError
from cluster_sim.kernels import counts
from cluster_sim.kernels.layout import Layout, Recipe, check_layout
from cluster_sim.kernels.model_ops import (
    kv_bytes_per_token,
    layer_gemms,
    linear_state_bytes,
    state_bytes,
    weight_bytes_per_device,
    window_layers,
)
from cluster_sim.perf.drafts import one_mtp_layer, with_mtp_layers
from cluster_sim.perf.residuals import step_residuals
from cluster_sim.specs.kept import Kept
from cluster_sim.specs.load import load_workload
from cluster_sim.specs.model import Attention, Compressed, Model, Moe

OWN = {"heads": DENSE.heads, "kv_heads": DENSE.kv_heads, "head_dim": DENSE.head_dim}
DTYPES = Recipe("fp8", "fp8", "fp8", "fp8", "fp8")
EXPERTS = Moe(experts=2, top_k=1, expert_hidden=8, layers=32)
ENTRIES = {
    **{"q_rank": 1024, "rope_dim": 64, "window": 128, "output_groups": 8, "output_rank": 512},
}


def with_others(model: Model, *kinds: Any) -> Model:
    return dataclasses.replace(model, other_attention=kinds)


def compressed(ratio: int, layers: int = 32, *, indexed: int = 0, **more: Any) -> Model:
    """A dense model of entries for every ``ratio`` tokens, chosen by an index in some layers."""
    shape = {"heads": 64, "kv_heads": 1, "head_dim": 512}
    kinds: tuple[Attention, ...] = ()
    if indexed:
        entries = Compressed(**ENTRIES, ratio=4, overlap=True)
        kinds = (Attention(layers=indexed, local_layers=indexed, compressed=entries, **shape),)
    chosen = local("sparse", 2048, indexed, index_heads=64, index_dim=128) if indexed else None
    return dataclasses.replace(
        DENSE,
        layers=layers,
        **shape,
        compressed=Compressed(**ENTRIES, ratio=ratio),
        other_attention=kinds,
        local=chosen,
        **more,
    )


@CASES
@given(split=st.integers(1, 31), context=st.integers(1, 50_000), tp=st.sampled_from([1, 2, 8]))
def test_two_kinds_of_the_same_attention_are_one(split: int, context: int, tp: int) -> None:
    twice = with_others(DENSE, Attention(layers=split, **OWN))
    assert counts.parameters(twice) == counts.parameters(DENSE)
    assert kv_bytes_per_token(twice, tp, "fp8") == kv_bytes_per_token(DENSE, tp, "fp8")
    one, two = (weight_bytes_per_device(m, Layout(tp), DTYPES) for m in (DENSE, twice))
    assert one == pytest.approx(two, rel=1e-12)
    one, two = (price_of(model, Layout(tp)) for model in (DENSE, twice))
    assert decode_s(two, context) == pytest.approx(decode_s(one, context), rel=1e-12)
    spent = [price.prefill_attention_s(0, context) for price in (one, two)]
    assert spent[0] == pytest.approx(spent[1], rel=1e-12)
    assert one.tokens_s == pytest.approx(two.tokens_s, rel=1e-9)


@CASES
@given(split=st.integers(1, 31), window=st.integers(1, 5000), context=st.integers(1, 20_000))
def test_a_kind_of_windows_is_local_attention(split: int, window: int, context: int) -> None:
    plain = dataclasses.replace(DENSE, local=local("sliding", window, split))
    apart = with_others(plain, Attention(layers=split, local_layers=split, **OWN))
    assert window_layers(plain, plain.kinds[0]) == sum(
        window_layers(apart, kind) for kind in apart.kinds
    )
    for measure in (kv_bytes_per_token, state_bytes):
        assert measure(plain, 2, "fp8") == measure(apart, 2, "fp8")
    one, two = price_of(plain), price_of(apart)
    assert decode_s(two, context) == pytest.approx(decode_s(one, context), rel=1e-12)
    spent = [price.prefill_attention_s(0, context) for price in (one, two)]
    assert spent[0] == pytest.approx(spent[1], rel=1e-12)


@pytest.mark.parametrize("layers", [1, 7, 31])
def test_layers_of_each_kind_add_up(layers: int) -> None:
    """A model of two kinds is the mean of the models of each, weighted by layers."""
    wide = {"heads": 64, "kv_heads": 4, "head_dim": 192, "v_dim": 128}
    mixed = with_others(DENSE, Attention(layers=layers, **wide))
    whole = dataclasses.replace(DENSE, **wide)
    share = layers / DENSE.layers

    def between(measure: Any) -> None:
        apart = (1 - share) * measure(DENSE) + share * measure(whole)
        assert measure(mixed) == pytest.approx(apart, rel=1e-12)

    between(lambda model: counts.attention_flop_per_context_token(model, absorbed=True))
    between(lambda model: counts.kv_bytes_per_token(model, "bf16"))
    between(counts.parameters)
    between(lambda model: kv_bytes_per_token(model, 4, "fp8"))
    between(lambda model: price_of(model).context_s)
    between(lambda model: price_of(model).prompt.all_s)
    between(lambda model: family(price_of(model), "attention_decode").decodes_s[7])


def test_layers_without_a_cache_read_that_of_others() -> None:
    kind = Attention(layers=8, cache=False, **OWN)
    shared = with_others(DENSE, kind)
    assert kv_bytes_per_token(shared, 1, "fp8") == 24 / 32 * kv_bytes_per_token(DENSE, 1, "fp8")
    saved = 8 * 2 * DENSE.kv_heads * DENSE.head_dim * DENSE.hidden
    assert counts.parameters(DENSE) - counts.parameters(shared) == saved
    assert price_of(shared).context_s == pytest.approx(price_of(DENSE).context_s, rel=1e-12)


def test_values_that_are_the_keys_save_a_product_and_no_cache() -> None:
    same = dataclasses.replace(DENSE, value_projection=False)
    saved = DENSE.layers * DENSE.kv_heads * DENSE.head_dim * DENSE.hidden
    assert counts.parameters(DENSE) - counts.parameters(same) == saved
    assert kv_bytes_per_token(same, 1, "fp8") == kv_bytes_per_token(DENSE, 1, "fp8")


def test_an_index_in_some_layers_costs_its_share() -> None:
    every = MODELS["deepseek-v3.2"]
    assert every.local is not None
    some = dataclasses.replace(every, local=dataclasses.replace(every.local, index_layers=20))
    bytes_, weights = counts.index_bytes_per_token, counts.index_parameters
    assert bytes_(some) * 61 == bytes_(every) * 20
    apart = counts.parameters(every) - counts.parameters(some)
    assert apart == 41 * (weights(every) + 2 * every.local.index_dim)
    one, two = price_of(every, Layout(8)), price_of(some, Layout(8))
    assert two.context_s / one.context_s == pytest.approx(20 / 61, rel=1e-12)
    assert two.local_context_s == one.local_context_s
    drafting = with_mtp_layers(some, 1)
    assert drafting.local is not None
    assert (drafting.local.layers, drafting.local.index_layers) == (62, 21)


def test_entries_of_every_token_are_whole_attention_and_a_window() -> None:
    """Ratio 1 keeps an entry for each token; each token reads a window of entries besides."""
    whole = compressed(1)
    none = compressed(0)
    assert kv_bytes_per_token(whole, 8, "bf16") == 32 * 512 * 2
    assert kv_bytes_per_token(none, 8, "bf16") == 0
    assert kv_bytes_per_token(compressed(4), 8, "bf16") == 8 * 512 * 2
    prices = {ratio: price_of(compressed(ratio)) for ratio in (0, 1, 4, 128)}
    assert prices[0].context_s == 0
    assert prices[4].context_s == pytest.approx(prices[1].context_s / 4, rel=1e-12)
    assert prices[128].prompt.all_s == pytest.approx(prices[1].prompt.all_s / 128, rel=1e-12)
    assert len({price.prompt.token_s for price in prices.values()}) == 1
    spent = prices[0].prefill_attention_s(1000, 3000)
    assert spent == pytest.approx(2000 * prices[0].prompt.token_s, rel=1e-12)


def test_chosen_entries_cost_no_more_however_long_the_context() -> None:
    price = price_of(compressed(128, 32, indexed=16))
    assert price.local is not None
    near = [decode_s(price, context) for context in (2048, 4096, 6144)]
    assert near[2] - near[1] == pytest.approx(near[1] - near[0], rel=1e-6)  # index and pooled ones
    assert near[1] - near[0] == pytest.approx(2048 * price.context_s, rel=1e-6)
    first = decode_s(price, 1024) - decode_s(price, 512)
    assert first > 512 * price.context_s


def test_a_sequence_holds_its_window_and_what_is_not_pooled_yet() -> None:
    window = 32 * 128 * 512 * 2
    assert state_bytes(compressed(0), 8, "bf16") == window
    pooled = 32 * 128 * 2 * 512 * 4  # 128 tokens, each with an entry and a weight in fp32
    assert state_bytes(compressed(128), 8, "bf16") == window + pooled
    overlapping = compressed(128, 32, indexed=16)
    pooled = 16 * 128 * 2 * 512 * 4 + 16 * 8 * 4 * (512 + 128) * 4
    assert state_bytes(overlapping, 8, "bf16") == window + pooled


def test_what_turns_with_the_position_stays_in_bf16() -> None:
    assert kv_bytes_per_token(compressed(1), 1, "fp8") == 32 * (448 + 2 * 64)


def test_untimed_attention_is_said_to_be_assumed() -> None:
    guessed = (compressed(128), dataclasses.replace(DENSE, local=_index_of(DENSE)))
    for model in guessed:
        for name in ("attention_prefill", "attention_decode"):
            assert family(price_of(model), name).provenance == "assumed"
        software = load_workload("llama70b").software
        residuals = step_residuals(MACHINE, model, software, Layout(), DTYPES)
        assert any(one.source == "no timings" for one in residuals["attention_decode"])
    assert family(price_of(DENSE), "attention_decode").provenance != "assumed"


def _index_of(model: Model) -> Any:
    return local("sparse", 2048, model.layers, index_heads=4, index_dim=128)


def test_residual_streams_and_kept_sums_cost_products_and_bytes() -> None:
    streams = dataclasses.replace(DENSE, residual_streams=4)
    more = counts.parameters(streams) - counts.parameters(DENSE)
    assert more == 32 * 2 * (2 + 4) * 4 * 4 * DENSE.hidden
    kept = dataclasses.replace(DENSE, residual_kept_every=12)
    for model in (streams, kept):
        one, two = (family(price_of(m), "glue").tokens_s for m in (DENSE, model))
        assert two[500] > one[500]
    alone = dataclasses.replace(DENSE, residual_kept_every=DENSE.layers)
    assert (
        family(price_of(alone), "glue").tokens_s[500]
        < (family(price_of(kept), "glue").tokens_s[500])
    )


def test_embeddings_of_layers_are_held_and_looked_up() -> None:
    layered = dataclasses.replace(DENSE, layer_embedding=256)
    table = DENSE.vocab * DENSE.layers * 256
    products = 3 * DENSE.layers * DENSE.hidden * 256
    assert counts.parameters(layered) - counts.parameters(DENSE) == table + products
    assert counts.matmul_parameters(layered) - counts.matmul_parameters(DENSE) == products
    held = [weight_bytes_per_device(m, Layout(), DTYPES) for m in (DENSE, layered)]
    assert held[1] - held[0] == 2 * (table + products)


def test_decay_of_elements_and_gates_through_a_rank() -> None:
    plain = MODELS["qwen3.5-397b-a17b"]
    assert plain.linear is not None
    linear = dataclasses.replace(plain.linear, key_heads=64, decay_rank=128, gate_rank=128)
    ranked = dataclasses.replace(plain, linear=linear)
    width = 64 * 128
    products = {g.name: g for g in layer_gemms(ranked, Layout(8)) if g.part == "linear"}
    assert {"linear_down", "decay_up", "gate_up"} < set(products)
    assert products["linear_down"].n == 256  # on every device
    own = counts.linear_attention_parameters(ranked)
    assert own == plain.hidden * (4 * width + 64 + 2 * 128) + 2 * 128 * width
    assert linear_state_bytes(linear, 8) * 8 == linear_state_bytes(linear, 1)


def test_layers_for_drafts_may_be_dense() -> None:
    model = dataclasses.replace(
        MODELS["deepseek-v3"], mtp_dense=True, mtp_layers=2, ffn_hidden=11264
    )
    more = with_mtp_layers(model, 2)
    assert model.moe is not None
    assert more.moe is not None
    assert (more.moe.layers, more.dense_layers) == (model.moe.layers, model.dense_layers + 2)
    assert one_mtp_layer(model).moe is None
    dense = counts.mlp_parameters(model, 11264)
    own = counts.attention_parameters(model, model.kinds[0])
    assert counts.mtp_parameters(model) == 2 * (own + dense + (2 * 7168 + 5) * 7168)


@pytest.mark.parametrize(
    "more",
    [
        {"other_attention": (Attention(layers=4, **OWN),)},
        {"v_dim": 64},
        {"value_projection": False},
        {"q_rank": 512},
        {"residual_streams": 4},
        {"residual_kept_every": 12},
        {"layer_embedding": 256},
    ],
)
def test_what_training_has_no_price_for_is_not_alike(more: Any) -> None:
    assert DENSE.alike
    assert not dataclasses.replace(DENSE, **more).alike
    assert not compressed(128).alike


def test_what_is_kept_apart_is_shared_by_the_kinds() -> None:
    kept = (Kept(part="attention", dtype="bf16", layers=8.0),)
    plain = dataclasses.replace(DENSE, native_dtype="fp8", kept=kept)
    apart = with_others(plain, Attention(layers=20, **OWN))
    own = dataclasses.replace(DTYPES, own=True)
    held = [weight_bytes_per_device(model, Layout(), own) for model in (plain, apart)]
    assert held[0] == pytest.approx(held[1], rel=1e-12)
    for one, two in zip(
        (family(price_of(plain), name).tokens_s for name in ("gemm_math", "gemm_weights")),
        (family(price_of(apart), name).tokens_s for name in ("gemm_math", "gemm_weights")),
        strict=True,
    ):
        assert one == pytest.approx(two, rel=1e-9)


def test_every_kind_must_divide() -> None:
    odd = with_others(DENSE, Attention(layers=4, heads=24, kv_heads=8, head_dim=128))
    check_layout(odd, Layout(8))
    with pytest.raises(DoesNotFitError, match="tp=16 does not divide the 24 attention heads"):
        check_layout(odd, Layout(16))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"other_attention": (Attention(layers=32, **OWN),)}, "leaves none of the 32"),
        ({"other_attention": (Attention(layers=4, local_layers=2, **OWN),)}, "2 local layers"),
        ({"kv_heads": 5}, "heads 32 must be a multiple of kv_heads 5"),
        ({"mtp_dense": True, "ffn_hidden": 0, "moe": EXPERTS}, "mtp_dense needs ffn_hidden"),
    ],
)
def test_kinds_that_cannot_be_are_refused(more: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(DENSE, **more)
