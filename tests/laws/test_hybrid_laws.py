"""Laws of layers that are no pairs of attention and MLP: Mamba, blocks alone, several widths."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.kernels import counts
from cluster_sim.kernels.layout import Layout, Recipe, check_layout
from cluster_sim.kernels.model_ops import layer_gemms, state_bytes, weight_bytes_per_device
from cluster_sim.kernels.state_space import groups_per_device, state_space_bytes
from cluster_sim.perf.drafts import one_mtp_layer, with_mtp_layers
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.specs.load import load_spec, load_topology, load_workload
from cluster_sim.specs.load_training import load_training
from cluster_sim.specs.model import DenseMlp, Model, Moe, StateSpace
from cluster_sim.training.job import make_job

MACHINE = load_topology("h200_nvl8")
SOFTWARE = load_workload(
    "llama70b", ["engine.max_num_seqs=32", "engine.max_num_batched_tokens=512"]
).software
BF16 = Recipe("bf16", "bf16", "bf16", "bf16", "bf16")
DENSE = load_spec("model", "llama3.1-8b", Model)[1]
# As many blocks of one thing each as the dense model has pairs of both.
ALONE = dataclasses.replace(
    DENSE,
    layers=2 * DENSE.layers,
    ffn_hidden=0,
    attention_layers=DENSE.layers,
    mlps=(DenseMlp(hidden=DENSE.ffn_hidden, layers=DENSE.layers),),
)
SECOND = StateSpace(
    kind="mamba2", layers=24, inner=8192, state=128, conv=4, heads=128, groups=8, gated_norm=True
)
FIRST = StateSpace(kind="mamba1", layers=24, inner=8192, state=16, conv=4, dt_rank=256)
GATED = StateSpace(kind="short_conv", layers=24, inner=4096, state=0, conv=3)


def hybrid(ssm: StateSpace, **more: Any) -> Model:
    return dataclasses.replace(DENSE, state_space=ssm, **more)


def price_of(model: Model, tp: int = 1) -> StepPrice:
    return compile_step_price(MACHINE, model, SOFTWARE, Layout(tp), BF16)


def family_tables(price: StepPrice, name: str) -> list[Any]:
    found = next(family for family in price.families if family.name == name)
    return [table for table in (found.tokens_s, found.sequences_s) if table is not None]


@pytest.mark.parametrize("tp", [1, 4])
def test_blocks_alone_cost_what_pairs_do(tp: int) -> None:
    assert counts.parameters(ALONE) == counts.parameters(DENSE)
    assert counts.flop_per_token(ALONE) == counts.flop_per_token(DENSE)
    alone, pairs = (weight_bytes_per_device(model, Layout(tp), BF16) for model in (ALONE, DENSE))
    assert alone == pairs
    prices = price_of(DENSE, tp), price_of(ALONE, tp)
    for step in ((0, 0, 0, 1, 1, 0.0), (0, 0, 0, 17, 1, 0.0), (8, 9000, 0, 0, 0, 0.0)):
        of_pairs, of_blocks = (price.step_s(*step) for price in prices)
        assert of_blocks == pytest.approx(of_pairs, rel=1e-12)


def test_widths_listed_in_parts_are_one_width() -> None:
    parts = tuple(DenseMlp(hidden=DENSE.ffn_hidden, layers=layers) for layers in (20, 12))
    listed = dataclasses.replace(DENSE, mlps=parts)
    assert counts.parameters(listed) == counts.parameters(DENSE)
    assert price_of(listed).step_s(4, 100, 0, 64, 1, 0.0) == pytest.approx(
        price_of(DENSE).step_s(4, 100, 0, 64, 1, 0.0), rel=1e-12
    )


def test_a_narrower_mlp_costs_less_and_none_the_least() -> None:
    narrow = (DenseMlp(hidden=1024, layers=16), DenseMlp(hidden=DENSE.ffn_hidden, layers=16))
    steps = [
        price_of(dataclasses.replace(DENSE, mlps=mlps)).step_s(1, 10, 0, 0, 0, 0.0)
        for mlps in ((), narrow, None)
    ]
    assert steps[0] < steps[1] < steps[2]


@pytest.mark.parametrize("ssm", [FIRST, SECOND, GATED], ids=lambda ssm: ssm.kind)
def test_states_do_not_grow_with_the_sequence(ssm: StateSpace) -> None:
    model = hybrid(ssm)
    whole = counts.kv_bytes_per_token(DENSE, "bf16")
    assert counts.kv_bytes_per_token(model, "bf16") == whole * 8 / 32
    assert state_bytes(model, 1, "bf16") == 24 * state_space_bytes(ssm, 1)
    price = price_of(model)
    tables = family_tables(price, "state_space")
    steps = [price.step_s(4, context, 0, 0, 0, 0.0) for context in (1000, 2000, 3000)]
    dense = [price_of(DENSE).step_s(4, context, 0, 0, 0, 0.0) for context in (1000, 2000)]
    assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0])
    assert steps[1] - steps[0] == pytest.approx((dense[1] - dense[0]) / 4)
    assert all(np.all(np.diff(table) >= 0) and table[0] == 0 for table in tables)


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("ssm", [FIRST, SECOND, GATED], ids=lambda ssm: ssm.kind)
def test_shards_add_up_to_the_whole(ssm: StateSpace, tp: int) -> None:
    one, many = (
        sum(g.n * g.k for g in layer_gemms(hybrid(ssm), Layout(n)) if g.name.startswith("state"))
        for n in (1, tp)
    )
    assert one == counts.state_space_parameters(ssm, DENSE.hidden)
    assert many * tp == one
    assert state_space_bytes(ssm, tp) * tp == state_space_bytes(ssm, 1)


def test_fewer_groups_than_devices_are_replicated() -> None:
    single = dataclasses.replace(SECOND, groups=1)
    one, four = (
        sum(g.n * g.k for g in layer_gemms(hybrid(single), Layout(n)) if g.name.startswith("state"))
        for n in (1, 4)
    )
    assert groups_per_device(single, 4) == 1
    assert 4 * four - one == 3 * 2 * single.state * DENSE.hidden


def test_states_in_bf16_are_half_as_large_and_quicker() -> None:
    wide = dataclasses.replace(SECOND, state_dtype="fp32")
    tail = 3 * (SECOND.inner + 2 * SECOND.groups * SECOND.state) * 2
    assert state_space_bytes(wide, 1) - tail == 2 * (state_space_bytes(SECOND, 1) - tail)
    assert price_of(hybrid(wide)).step_s(32, 0, 0, 0, 0, 0.0) > price_of(hybrid(SECOND)).step_s(
        32, 0, 0, 0, 0, 0.0
    )


def test_states_take_their_room_in_the_cache() -> None:
    chip = MACHINE.chip
    plain = kv_cache(chip, DENSE, SOFTWARE, Layout(), BF16)
    states = kv_cache(chip, hybrid(SECOND), SOFTWARE, Layout(), BF16)
    assert plain.state_blocks == 0
    taken = states.state_blocks * states.block_tokens * states.bytes_per_token
    assert taken == pytest.approx(state_bytes(hybrid(SECOND), 1, "bf16"), rel=0.05)


def test_mamba_beside_attention_shares_norms_and_adds_a_sum() -> None:
    both = dataclasses.replace(SECOND, layers=32, beside_attention=True)
    model = hybrid(both)
    assert (model.cached_layers, model.residual_blocks, model.summed_blocks) == (32, 64, 96)
    more = counts.parameters(model) - counts.parameters(DENSE)
    own = counts.state_space_parameters(both, DENSE.hidden)
    assert more == 32 * (own + counts.state_space_small(both, DENSE.hidden))


def test_latents_as_wide_as_tokens_add_their_two_products_alone() -> None:
    moe = Moe(experts=8, top_k=2, expert_hidden=2048, layers=32)
    plain = dataclasses.replace(DENSE, moe=moe)
    latent = dataclasses.replace(plain, moe=dataclasses.replace(moe, latent=DENSE.hidden))
    half = dataclasses.replace(plain, moe=dataclasses.replace(moe, latent=DENSE.hidden // 2))
    more = 32 * 2 * DENSE.hidden**2
    assert counts.parameters(latent) - counts.parameters(plain) == more
    assert counts.expert_parameters(half) * 2 == counts.expert_parameters(plain)
    assert price_of(plain).step_s(32, 0, 0, 0, 0, 0.0) < price_of(latent).step_s(
        32, 0, 0, 0, 0, 0.0
    )


def test_drafts_add_a_layer_of_attention_and_experts() -> None:
    moe = Moe(experts=8, top_k=2, expert_hidden=2048, layers=20)
    model = hybrid(
        SECOND, layers=52, attention_layers=8, mlps=(), moe=moe, mtp_layers=1, ffn_hidden=0
    )
    longer = with_mtp_layers(model, 1)
    added = [
        getattr(longer, name) - getattr(model, name)
        for name in ("layers", "cached_layers", "moe_layers", "state_space_layers", "dense_layers")
    ]
    assert added == [1, 1, 1, 0, 0]
    alone = one_mtp_layer(model)
    assert (alone.cached_layers, alone.moe_layers, alone.residual_blocks) == (1, 1, 2)


def test_degrees_must_divide_the_heads_of_a_state() -> None:
    odd = dataclasses.replace(SECOND, inner=6144, heads=96, groups=8)
    check_layout(hybrid(odd), Layout(32))
    with pytest.raises(DoesNotFitError, match="96 heads of the state space"):
        check_layout(dataclasses.replace(hybrid(odd), heads=64, kv_heads=8), Layout(64))


def test_such_models_are_not_trained() -> None:
    job = load_training("llama3_8b_train")
    given = dataclasses.replace(job, model=hybrid(SECOND))
    with pytest.raises(SpecError, match="served here, not trained"):
        make_job(MACHINE, given)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"attention_layers": 40}, "attention and state space name more than 32"),
    ({"state_space": dataclasses.replace(SECOND, layers=32)}, "state_space.layers must leave"),
    ({"mlps": (DenseMlp(hidden=8, layers=33),)}, "mlps and moe name more than 32"),
    ({"projections": 65}, "projections 65 exceed"),
    ({"mlps": (), "mtp_layers": 1}, "mtp_layers of a model with mlps need moe"),
]


@pytest.mark.parametrize(("changes", "text"), BAD)
def test_counts_that_cannot_be_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(DENSE, **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dt_rank": 4}, "heads and groups belong to kind mamba2"),
        ({"heads": 0}, "heads and groups belong to kind mamba2"),
        ({"groups": 3}, "inner 8192 must be a multiple of heads 128"),
        ({"inner_norms": True}, "inner_norms to mamba1"),
        ({"state": 0}, "state belongs to mamba1 and mamba2"),
    ],
)
def test_states_that_cannot_be_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(SECOND, **changes)


def test_stages_of_a_pipeline_hold_blocks_in_equal_parts() -> None:
    for stages in (2, 4):
        pairs, alone = (
            weight_bytes_per_device(model, Layout(1, stages), BF16) for model in (DENSE, ALONE)
        )
        assert alone == pairs


def test_prefixes_of_states_are_not_kept() -> None:
    job = load_workload("llama70b", ["engine.prefix_cache=true"], {"model": "llama3.1-8b"})
    with pytest.raises(SpecError, match="recurrent layers, whose states are not shared"):
        load_workload("llama70b", ["engine.prefix_cache=true"], {"model": "jamba-1.5-large"})
    assert job.software.prefix_cache
