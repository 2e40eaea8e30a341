"""Families of models by their configs: published parameters, kinds of layers, refusals by name."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from public_configs import (
    BAMBA,
    BLOCK,
    ERNIE_21B,
    ERNIE_300B,
    ERNIE_VL,
    FALCON_H1_7B,
    GRANITE_H,
    HUNYUAN_A13B,
    HUNYUAN_LARGE,
    JAMBA_MINI,
    LINEAR,
    NANO,
    NEMOTRON_H_8B,
    NOTHING,
    PUBLISHED,
    SUPER,
    Json,
    config,
    searched,
)

from cluster_sim.errors import SpecError
from cluster_sim.kernels import counts
from cluster_sim.specs.hugging_face import ARCHITECTURES, parse
from cluster_sim.specs.load import load_spec
from cluster_sim.specs.model import Model


def model(tmp_path: Path, data: Json) -> Model:
    (tmp_path / "config.json").write_text(json.dumps(data))
    return load_spec("model", str(tmp_path), Model)[1]


def read(data: Json) -> Json:
    return parse(json.dumps(data), "config.json", "m")


@pytest.mark.parametrize(
    ("data", "total", "active"), [case[1:] for case in PUBLISHED], ids=[c[0] for c in PUBLISHED]
)
def test_parameters_as_published(
    data: Json, total: float, active: float | None, tmp_path: Path
) -> None:
    found = model(tmp_path, data)
    assert counts.parameters(found) == pytest.approx(total * 1e9, rel=0.01)
    if active is not None:  # rounded to two figures on most cards, with or without the embedding
        assert counts.active_parameters(found) == pytest.approx(active * 1e9, rel=0.025)


def test_blocks_of_nemotron_h_are_one_mixer_or_one_mlp_each(tmp_path: Path) -> None:
    nano, dense = model(tmp_path, NANO), model(tmp_path, NEMOTRON_H_8B)
    assert (nano.layers, nano.cached_layers, nano.state_space_layers) == (52, 6, 23)
    assert (nano.moe_layers, nano.dense_layers, nano.residual_blocks) == (23, 0, 52)
    assert (dense.cached_layers, dense.state_space_layers, dense.dense_layers) == (4, 24, 24)


def test_sizes_of_blocks_that_are_not_there_say_nothing() -> None:
    moe = {key: NANO[key] for key in NANO if "expert" in key}
    assert read({**NEMOTRON_H_8B, **moe}) == read(NEMOTRON_H_8B)
    dense = {**JAMBA_MINI, "num_experts": 1}
    assert "moe" not in read(dense)


def test_words_say_what_letters_say() -> None:
    words = {"M": "mamba", "E": "moe", "*": "full_attention", "-": "mlp"}
    pattern = NANO["hybrid_override_pattern"]
    listed = {key: value for key, value in NANO.items() if "pattern" not in key}
    listed |= {
        "layers_block_type": [words[letter] for letter in pattern],
        "num_hidden_layers": None,
    }
    assert read(listed) == read(NANO)


def test_drafts_of_nemotron_are_attention_and_experts(tmp_path: Path) -> None:
    found = model(tmp_path, SUPER)
    assert found.mtp_layers == 1
    # The card counts 123.6B with the layers that draft.
    whole = counts.parameters(found) + counts.mtp_parameters(found)
    assert whole == pytest.approx(123.6e9, rel=0.01)


def test_searched_models_have_blocks_of_their_own(tmp_path: Path) -> None:
    small = {"ffn_mult": 0.5, "no_op": False, "replace_with_linear": False}
    found = model(
        tmp_path,
        searched(BLOCK, BLOCK, {**BLOCK, "attention": NOTHING}, {**BLOCK, "ffn": small}),
    )
    assert (found.layers, found.cached_layers, found.kv_heads) == (4, 3, 8)
    assert [(mlp.hidden, mlp.layers) for mlp in found.dense_mlps] == [(2816, 1), (28672, 3)]
    linear = model(tmp_path, searched(BLOCK, {"attention": LINEAR, "ffn": NOTHING}))
    assert (linear.projections, linear.cached_layers, linear.dense_layers) == (1, 1, 1)


def test_searched_models_may_group_heads_by_block(tmp_path: Path) -> None:
    wide = {**BLOCK, "attention": {**BLOCK["attention"], "n_heads_in_group": 16}}
    found = model(tmp_path, searched(BLOCK, wide, wide))
    assert [(kind.layers, kind.kv_heads) for kind in found.kinds] == [(1, 8), (2, 4)]
    one, two = (
        counts.kv_bytes_per_token(model(tmp_path, searched(b)), "bf16") for b in (BLOCK, wide)
    )
    assert counts.kv_bytes_per_token(found, "bf16") == one + 2 * two


def test_hybrids_keep_keys_in_attention_layers_alone(tmp_path: Path) -> None:
    for data, cached, states in ((JAMBA_MINI, 4, 28), (BAMBA, 3, 29), (GRANITE_H, 4, 36)):
        found = model(tmp_path, data)
        assert (found.cached_layers, found.state_space_layers) == (cached, states)
        per_layer = 2 * found.kv_heads * found.head_dim * 2
        assert counts.kv_bytes_per_token(found, "bf16") == cached * per_layer


def test_falcon_h1_has_both_mixers_in_every_layer(tmp_path: Path) -> None:
    found = model(tmp_path, FALCON_H1_7B)
    assert (found.cached_layers, found.state_space_layers) == (44, 44)
    assert (found.own_mixers, found.residual_blocks, found.summed_blocks) == (44, 88, 132)


def test_older_hunyuan_shares_keys_between_layers(tmp_path: Path) -> None:
    shared = model(tmp_path, HUNYUAN_LARGE)
    own = model(tmp_path, {**HUNYUAN_LARGE, "use_cla": False})
    bytes_ = [counts.kv_bytes_per_token(found, "bf16") for found in (shared, own)]
    assert bytes_[0] == bytes_[1] / 2


def test_experts_of_images_lie_in_memory_and_compute_nothing(tmp_path: Path) -> None:
    text, both = model(tmp_path, ERNIE_21B), model(tmp_path, ERNIE_VL)
    more = counts.parameters(both) - counts.parameters(text)
    assert more == 27 * 64 * 3 * 2560 * 512
    assert counts.active_parameters(both) == counts.active_parameters(text)
    assert counts.matmul_parameters(both) == counts.matmul_parameters(text)
    alone = model(tmp_path, {**ERNIE_VL, "moe_intermediate_size": 1536, "moe_num_experts": 64})
    assert counts.parameters(alone) == counts.parameters(text)


WINDOWS: list[tuple[str, Json, int]] = [
    ("cohere2", {"sliding_window_pattern": 4}, 6),
    ("cohere2", {}, 6),
    ("olmo3", {"sliding_window": 4096}, 6),
    ("exaone4", {"sliding_window": 4096, "sliding_window_pattern": "LLLG"}, 6),
    ("exaone4", {"sliding_window": 4096, "sliding_window_pattern": 4}, 6),
    ("exaone4", {"sliding_window": None}, 0),
    ("smollm3", {"use_sliding_window": False, "no_rope_layers": [1, 0]}, 0),
    ("olmo2", {}, 0),
]


@pytest.mark.parametrize(("kind", "keys", "local"), WINDOWS)
def test_windows_by_layer(kind: str, keys: Json, local: int, tmp_path: Path) -> None:
    data = config(kind, (8, 1024, 8, 2, 4096), 32000, max_position_embeddings=65536, **keys)
    found = model(tmp_path, data)
    assert found.local_layers == local
    assert found.local is None or found.local.tokens == 4096


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("mistral3", "text_config"),
        ("llava", "text_config"),
        ("internvl_chat", "llm_config"),
        ("deepseek_vl_v2", "language_config"),
    ],
)
def test_wrappers_are_their_decoder(outer: str, inner: str, tmp_path: Path) -> None:
    data = config("mistral", (8, 1024, 8, 2, 4096), 32000, max_position_embeddings=8192)
    wrapped = {"model_type": outer, inner: data, "vision_config": {"hidden_size": 64}}
    whole = model(tmp_path, wrapped)
    assert counts.parameters(whole) == counts.parameters(model(tmp_path, data))


PIXTRAL = {  # as saved: what differs from the class
    **{"model_type": "mistral", "hidden_size": 5120, "head_dim": 128, "num_hidden_layers": 40},
    **{"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 131072},
    **{"max_position_embeddings": 1024000, "sliding_window": None, "is_composition": True},
}
LLAVA = {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064}


@pytest.mark.parametrize(
    ("inner", "total", "left_out"),
    [(PIXTRAL, 12.25, "num_attention_heads 32"), (LLAVA, 6.74, "hidden_size 4096")],
)
def test_decoders_inside_others_leave_out_what_their_class_says(
    inner: Json, total: float, left_out: str, tmp_path: Path
) -> None:
    whole = model(tmp_path, {"model_type": "llava", "text_config": inner})
    assert counts.parameters(whole) == pytest.approx(total * 1e9, rel=0.01)
    assert whole.local is None
    assert any(left_out in note for note in whole.notes)
    with pytest.raises(SpecError, match=f"{left_out.split()[0]}: missing"):
        model(tmp_path, inner)  # of its own it must say so itself


def test_dense_layers_for_drafts_are_left_out_and_noted(tmp_path: Path) -> None:
    found = model(tmp_path, {**ERNIE_300B, "num_nextn_predict_layers": 1})
    assert found.mtp_layers == 0
    assert any("drafts nothing here" in note for note in found.notes)


def test_derivatives_of_gpt_oss_have_other_counts(tmp_path: Path) -> None:
    data = config(
        "gpt_oss",
        (24, 2880, 64, 8, 2880),
        201088,
        **{"head_dim": 64, "num_local_experts": 24, "num_experts_per_tok": 4},
        **{"sliding_window": 128, "max_position_embeddings": 131072, "attention_bias": True},
        layer_types=["sliding_attention", "full_attention"] * 12,
    )
    pruned, whole = (model(tmp_path, {**data, "num_local_experts": n}) for n in (24, 32))
    assert counts.parameters(whole) == pytest.approx(20.9e9, rel=0.01)
    assert counts.parameters(whole) - counts.parameters(pruned) > 8 * 24 * 24e6


REFUSED: list[tuple[str, Json, str]] = [
    ("letter", {**NANO, "hybrid_override_pattern": "M*X"}, "'X' is not known"),
    ("no blocks", {**NANO, "hybrid_override_pattern": ""}, "hybrid_override_pattern: missing"),
    ("count", {**NANO, "num_hidden_layers": 51}, "num_hidden_layers: is not the 52 blocks"),
    ("no keys", {**NANO, "num_hidden_layers": 2, "hybrid_override_pattern": "ME"}, "attention"),
    ("drafts", {**SUPER, "mtp_hybrid_override_pattern": "ME"}, "only attention and then moe"),
    ("state dtype", {**NANO, "mamba_ssm_cache_dtype": "int3"}, "'int3' is not known"),
    ("period", {**JAMBA_MINI, "attn_layer_offset": 8}, "attn_layer_offset: 8 must be below"),
    ("heads", {**BAMBA, "mamba_d_head": 32}, "128 heads of 32 are not the inner width of 8192"),
    ("kinds", {**GRANITE_H, "layer_types": ["mamba"] * 3}, "for each of the 40 layers"),
    ("topk", {**HUNYUAN_A13B, "moe_topk": [8] * 31 + [4]}, "moe_topk: layers that differ"),
    ("no groups", searched({**BLOCK, "attention": {"no_op": False}}), "n_heads_in_group"),
    ("no width", searched({**BLOCK, "ffn": {"no_op": False}}), "ffn_mult must be"),
    ("empty", searched(), "block_configs: missing or empty"),
    ("left over", {**BAMBA, "mamba_new_block": 3}, "mamba_new_block: is not understood"),
]


@pytest.mark.parametrize(("data", "text"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_refusals_name_key_and_way_out(data: Json, text: str) -> None:
    with pytest.raises(SpecError, match="config.json: ") as error:
        read(data)
    assert text in str(error.value)


def test_the_reference_names_every_family() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    listed = text.split("Known by `model_type`:")[1].split("\n\n")[0]
    words = set(re.findall(r"[\w-]+", listed))
    assert not [kind for kind in ARCHITECTURES if kind not in words and not kind.endswith("_text")]


ODD = (
    *(None, 0, -1, 3, 1.5, float("nan"), "x", "auto", True, [], [1, 2], [None], {}, {"a": 1}),
    10**30,
)


def test_configs_with_odd_values_load_or_are_refused(tmp_path: Path) -> None:
    rng = random.Random(7)
    cases = [*(case[1] for case in PUBLISHED), ERNIE_VL, searched(BLOCK, BLOCK)]
    refused = 0
    for _ in range(200):
        data = dict(rng.choice(cases))
        for key in rng.sample(list(data), 2):
            data[key] = rng.choice(ODD)
        try:
            model(tmp_path, data)
        except SpecError:
            refused += 1
    assert 100 < refused < 200
