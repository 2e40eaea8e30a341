"""Families whose layers differ in attention: sizes as published, kinds by layer, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.errors import SpecError
from cluster_sim.kernels import counts, model_ops
from cluster_sim.specs.load import load_spec
from cluster_sim.specs.model import Model

Json = dict[str, Any]
FULL, NEAR = "full_attention", "sliding_attention"
MLA = {
    **{"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128},
    **{"qk_rope_head_dim": 64, "v_head_dim": 128},
}


def sizes(kind: str, shape: tuple[int, ...], vocab: int, context: int, **more: Any) -> Json:
    layers, hidden, heads, kv_heads = shape
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-6,
        "torch_dtype": "bfloat16",
        **more,
    }


def v4(shape: tuple[int, ...], ratios: list[int], **more: Any) -> Json:
    fixed = {
        **{"head_dim": 512, "qk_rope_head_dim": 64, "o_lora_rank": 1024, "sliding_window": 128},
        **{"index_n_heads": 64, "index_head_dim": 128, "hc_mult": 4, "hc_sinkhorn_iters": 20},
        **{"n_shared_experts": 1, "num_experts_per_tok": 6, "num_hash_layers": 3},
        **{"num_nextn_predict_layers": 1, "compress_rope_theta": 160000},
    }
    return sizes("deepseek_v4", shape, 129280, 1048576, compress_ratios=ratios, **fixed, **more)


V4_FLASH = v4(
    (43, 4096, 64, 1),
    [0, 0, *[4, 128] * 20, 4, 0],
    **{"q_lora_rank": 1024, "o_groups": 8, "index_topk": 512},
    **{"n_routed_experts": 256, "moe_intermediate_size": 2048},
)
V4_PRO = v4(
    (61, 7168, 128, 1),
    [128, 128, *[4, 128] * 29, 4, 0],
    **{"q_lora_rank": 1536, "o_groups": 16, "index_topk": 1024},
    **{"n_routed_experts": 384, "moe_intermediate_size": 3072},
)
WHOLE = [4, 8, 12, 16, 20, 24, 27]  # counted from 1
KIMI_LINEAR = {
    **sizes("kimi_linear", (27, 2304, 32, 32), 163840, 0, **MLA, head_dim=72),
    **{"max_position_embeddings": None, "model_max_length": 1048576, "q_lora_rank": None},
    **{"num_experts": 256, "num_experts_per_token": 8, "num_shared_experts": 1},
    **{"moe_intermediate_size": 1024, "intermediate_size": 9216, "first_k_dense_replace": 1},
    **{"moe_layer_freq": 1, "mla_use_nope": True, "moe_renormalize": True},
    "linear_attn_config": {
        **{"full_attn_layers": WHOLE, "kda_layers": [n for n in range(1, 28) if n not in WHOLE]},
        **{"num_heads": 32, "head_dim": 128, "short_conv_kernel_size": 4},
    },
}
KIMI_K3 = {
    **KIMI_LINEAR,
    **sizes("kimi_linear", (93, 7168, 96, 96), 163840, 1048576, **MLA),
    **{"head_dim": None, "num_experts": 896, "num_experts_per_token": 16},
    **{"num_shared_experts": 2, "moe_intermediate_size": 3072, "intermediate_size": 33792},
    **{"routed_expert_hidden_size": 3584, "latent_moe_use_norm": True, "attn_res_block_size": 12},
    "mla_use_output_gate": True,
    "linear_attn_config": {
        "full_attn_layers": [*range(4, 93, 4), 93],
        "kda_layers": [n for n in range(1, 93) if n % 4],
        **{"num_heads": 96, "head_dim": 128, "short_conv_kernel_size": 4},
        **{"use_full_rank_gate": True, "gate_lower_bound": -5.0},
    },
}
FREQ = [0] * 3 + [1] * 57
MINIMAX_M3 = sizes(
    "minimax_m3",
    (60, 6144, 64, 4),
    200064,
    1048576,
    **{"head_dim": 128, "intermediate_size": 3072, "dense_intermediate_size": 12288},
    **{"shared_intermediate_size": 3072, "n_shared_experts": 1, "num_local_experts": 128},
    **{"num_experts_per_tok": 4, "moe_layer_freq": FREQ, "use_qk_norm": True},
    **{"use_routing_bias": True, "num_mtp_modules": 7, "num_nextn_predict_layers": 1},
    sparse_attention_config={
        **{"use_sparse_attention": True, "sparse_attention_freq": FREQ},
        **{"sparse_disable_index_value": FREQ, "sparse_index_dim": 128},
        **{"sparse_num_index_heads": 4, "sparse_topk_blocks": 16, "sparse_block_size": 128},
    },
)
INDEXERS = ["full"] * 3 + (["shared"] * 3 + ["full"]) * 18 + ["shared"] * 3
GLM_5_2 = sizes(
    "glm_moe_dsa",
    (78, 6144, 64, 64),
    154880,
    1048576,
    **{**MLA, "q_lora_rank": 2048, "qk_nope_head_dim": 192, "v_head_dim": 256},
    **{"n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8},
    **{"moe_intermediate_size": 2048, "intermediate_size": 12288, "first_k_dense_replace": 3},
    **{"index_n_heads": 32, "index_head_dim": 128, "index_topk": 2048, "index_topk_freq": 4},
    **{"index_skip_topk_offset": 3, "index_topk_pattern": None, "indexer_types": INDEXERS},
    **{"index_share_for_mtp_iteration": True, "moe_router_dtype": "float32"},
    num_nextn_predict_layers=1,
)
GEMMA_3 = {
    "model_type": "gemma3",
    "text_config": {
        **{"model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21504},
        **{"num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16},
        **{"head_dim": 128, "sliding_window": 1024, "query_pre_attn_scalar": 168},
    },
    "vision_config": {"hidden_size": 1152},
    "mm_tokens_per_image": 256,
}


def gemma4(shape: tuple[int, ...], every: int, **more: Any) -> Json:
    types = [NEAR if (layer + 1) % every else FULL for layer in range(shape[0])]
    fixed = {"head_dim": 256, "global_head_dim": 512, "layer_types": types}
    text = sizes("gemma4_text", shape, 262144, 262144, **fixed, **more)
    return {"model_type": "gemma4", "text_config": text, "audio_config": None}


GEMMA_4 = gemma4(
    (60, 5376, 32, 16),
    6,
    **{"intermediate_size": 21504, "num_global_key_value_heads": 4, "attention_k_eq_v": True},
    **{"sliding_window": 1024, "hidden_size_per_layer_input": 0, "enable_moe_block": False},
)
GEMMA_4_MOE = gemma4(
    (30, 2816, 16, 8),
    6,
    **{"intermediate_size": 2112, "num_global_key_value_heads": 2, "attention_k_eq_v": True},
    **{"sliding_window": 1024, "hidden_size_per_layer_input": 0, "enable_moe_block": True},
    **{"num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704},
)
GEMMA_4_E2B = gemma4(
    (35, 1536, 8, 1),
    5,
    **{"intermediate_size": 6144, "sliding_window": 512, "num_kv_shared_layers": 20},
    **{"hidden_size_per_layer_input": 256, "use_double_wide_mlp": True},
    **{"num_global_key_value_heads": None, "vocab_size_per_layer_input": 262144},
)
PATTERN = [0, *[1] * 4, *([0, *[1] * 5] * 7), 0]
MIMO_V2 = sizes(
    "mimo_v2_flash",
    (48, 4096, 64, 4),
    152576,
    262144,
    **{"head_dim": 192, "v_head_dim": 128, "intermediate_size": 16384, "sliding_window": 128},
    **{"sliding_window_size": 128, "attention_chunk_size": 128, "swa_num_key_value_heads": 8},
    **{"swa_num_attention_heads": 64, "swa_head_dim": 192, "swa_v_head_dim": 128},
    **{"hybrid_layer_pattern": PATTERN, "moe_layer_freq": [0] + [1] * 47},
    **{"moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": None},
    **{"num_experts_per_tok": 8, "add_swa_attention_sink_bias": True, "swa_rope_theta": 10000},
)
STEP_3_5 = {
    "model_type": "step3p7",
    "text_config": {
        **sizes("step3p5", (45, 4096, 64, 0), 128896, 262144, head_dim=128),
        **{"num_key_value_heads": None, "num_attention_groups": 8, "intermediate_size": 11264},
        **{"moe_num_experts": 288, "moe_top_k": 8, "moe_intermediate_size": 1280},
        **{"share_expert_dim": 1280, "sliding_window": 512, "num_nextn_predict_layers": 3},
        "layer_types": [FULL, NEAR, NEAR, NEAR] * 12,  # three more than layers, for drafts
        "moe_layers_enum": ",".join(map(str, range(3, 45))),
        "use_head_wise_attn_gate": True,
        "attention_other_setting": {
            **{"attention_type": NEAR, "num_attention_heads": 96},
            **{"num_attention_groups": 8, "head_dim": 128},
        },
    },
    "vision_config": {"width": 1536},
}
STEP_3 = {
    "model_type": "step3_vl",
    "text_config": {
        **sizes("step3_text", (61, 7168, 64, 0), 128815, 65536, head_dim=256),
        **{"num_key_value_heads": None, "num_attention_groups": 1, "share_q_dim": 2048},
        **{"intermediate_size": 18432, "moe_num_experts": 48, "moe_top_k": 3},
        **{"moe_intermediate_size": 5120, "share_expert_dim": 5120},
        "moe_layers_enum": ",".join(map(str, range(4, 60))),
    },
}
MINIMAX_01 = sizes(
    "minimax_text_01",
    (80, 6144, 64, 8),
    200064,
    10240000,
    **{"head_dim": 128, "intermediate_size": 9216, "num_local_experts": 32},
    **{"num_experts_per_tok": 2, "shared_intermediate_size": 0, "postnorm": True},
    **{"attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10, "layernorm_mlp_alpha": 3.55},
)
GLM_4_7_FLASH = sizes(
    "glm4_moe_lite",
    (47, 2048, 20, 20),
    154880,
    202752,
    **{**MLA, "q_lora_rank": 768, "qk_nope_head_dim": 192, "v_head_dim": 256, "head_dim": 64},
    **{"n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 4},
    **{"moe_intermediate_size": 1536, "intermediate_size": 10240, "first_k_dense_replace": 1},
)
PUBLISHED: list[tuple[str, Json, float]] = [  # total parameters in billions, as published
    ("deepseek-v4-flash", V4_FLASH, 284),
    ("kimi-linear-48b-a3b", KIMI_LINEAR, 49.1),  # the hub's count of what is called 48B
    ("minimax-m3", MINIMAX_M3, 428),
    ("glm-5.2", GLM_5_2, 744),
    ("gemma-3-27b", GEMMA_3, 27.0),
    ("gemma-4-31b", GEMMA_4, 30.7),
    ("gemma-4-26b-a4b", GEMMA_4_MOE, 25.2),
    ("mimo-v2-flash", MIMO_V2, 309),
    ("step-3.5-flash", STEP_3_5, 196.8),
    ("step3", STEP_3, 316),
    ("minimax-text-01", MINIMAX_01, 456),
    ("glm-4.7-flash", GLM_4_7_FLASH, 30),
]
ACTIVE: list[tuple[str, Json, float]] = [  # without the embedding, in billions, as published
    ("deepseek-v4-flash", V4_FLASH, 13),
    ("deepseek-v4-pro", V4_PRO, 49),
    ("kimi-linear-48b-a3b", KIMI_LINEAR, 3),
    ("minimax-m3", MINIMAX_M3, 23),
    ("gemma-4-26b-a4b", GEMMA_4_MOE, 3.8),
    ("gemma-4-e2b", GEMMA_4_E2B, 2.3),
    ("mimo-v2-flash", MIMO_V2, 15),
    ("step-3.5-flash", STEP_3_5, 11),
    ("step3", STEP_3, 38),
]


def read(config: Json, folder: Path) -> Model:
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return load_spec("model", str(path), Model)[1]


@pytest.mark.parametrize(
    ("config", "billions"), [row[1:] for row in PUBLISHED], ids=[row[0] for row in PUBLISHED]
)
def test_totals_are_the_published_ones(config: Json, billions: float, tmp_path: Path) -> None:
    total = counts.parameters(read(config, tmp_path)) / 1e9
    assert total == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    ("config", "billions"), [row[1:] for row in ACTIVE], ids=[row[0] for row in ACTIVE]
)
def test_what_multiplies_is_the_published_active_count(
    config: Json, billions: float, tmp_path: Path
) -> None:
    """Publishers round down or to the nearest, and count the LM head or not."""
    model = read(config, tmp_path)
    with_head = counts.matmul_parameters(model) / 1e9
    without = with_head - model.hidden * model.vocab / 1e9
    unit = 1 if billions == int(billions) else 0.1
    assert without - unit < billions < with_head + unit / 2


def test_pro_is_published_with_its_layer_for_drafts(tmp_path: Path) -> None:
    model = read(V4_PRO, tmp_path)
    whole = (counts.parameters(model) + counts.mtp_parameters(model)) / 1e9
    assert whole == pytest.approx(1600, rel=0.01)


@pytest.mark.parametrize(("config", "gib"), [(V4_FLASH, 6.72), (V4_PRO, 9.62)])
def test_a_million_tokens_of_deepseek_v4(config: Json, gib: float, tmp_path: Path) -> None:
    """With entries and index keys in bf16, as vLLM's note on the model counts them."""
    model = read(config, tmp_path)
    grown = counts.kv_bytes_per_token(model, "bf16") + 2 * counts.index_bytes_per_token(model)
    assert grown * 2**20 / 2**30 == pytest.approx(gib, abs=0.01)


def test_a_tenth_of_the_cache_of_deepseek_v3_2(tmp_path: Path) -> None:
    """The publisher's figure for V4-Pro at a million tokens, which has index keys in four bits;
    here both are in fp8 with what turns in bf16, index keys in fp8.
    """
    model, before = read(V4_PRO, tmp_path), load_spec("model", "deepseek-v3.2", Model)[1]
    million = 2**20
    held = million * model_ops.kv_bytes_per_token(model, 1, "fp8")
    held += model_ops.state_bytes(model, 1, "fp8")
    was = million * before.layers * (512 + 16 + 2 * 64 + 128 + 4)
    assert held / was == pytest.approx(0.1, abs=0.015)


def test_a_quarter_of_the_flop_of_deepseek_v3_2(tmp_path: Path) -> None:
    """The publisher's 27 % of V3.2's FLOP a token at a million tokens, for V4-Pro."""
    model, before = read(V4_PRO, tmp_path), load_spec("model", "deepseek-v3.2", Model)[1]
    million, found = 2**20, []
    for one in (model, before):
        assert one.local is not None
        assert one.indexed is not None
        flop = float(counts.flop_per_token(one))
        for kind in one.kinds:
            seen = million * counts.read_share(kind)
            if kind == one.indexed:
                index = one.local.indexed_layers * one.local.index_heads * one.local.index_dim
                flop += 2 * index * seen
                seen = one.local.tokens * counts.read_share(kind)
            seen += kind.compressed.window if kind.compressed is not None else 0
            flop += 2 * kind.layers * kind.heads * counts.head_dims(kind, absorbed=True) * seen
        found.append(flop)
    assert found[0] / found[1] == pytest.approx(0.27, abs=0.01)


def test_kinds_by_layer(tmp_path: Path) -> None:
    def kinds(config: Json) -> list[tuple[int, int, int, int, int]]:
        return [
            (kind.layers, kind.local_layers, kind.heads, kind.kv_heads, kind.head_dim)
            for kind in read(config, tmp_path).kinds
        ]

    assert kinds(V4_FLASH) == [(20, 0, 64, 1, 512), (2, 0, 64, 1, 512), (21, 21, 64, 1, 512)]
    assert kinds(V4_PRO) == [(31, 0, 128, 1, 512), (30, 30, 128, 1, 512)]
    assert kinds(MIMO_V2) == [(9, 0, 64, 4, 192), (39, 39, 64, 8, 192)]
    assert kinds(GEMMA_4) == [(10, 0, 32, 4, 512), (50, 50, 32, 16, 256)]
    assert kinds(STEP_3_5) == [(12, 0, 64, 8, 128), (33, 33, 96, 8, 128)]
    assert kinds(GEMMA_3) == [(62, 52, 32, 16, 128)]
    assert kinds(MINIMAX_M3) == [(60, 57, 64, 4, 128)]
    caches = [(kind.layers, kind.cache) for kind in read(GEMMA_4_E2B, tmp_path).kinds]
    assert caches == [(3, True), (4, False), (12, True), (16, False)]


def test_kimi_delta_attention(tmp_path: Path) -> None:
    for config, layers, gate in ((KIMI_LINEAR, 20, 128), (KIMI_K3, 69, 0)):
        linear = read(config, tmp_path).linear
        assert linear is not None
        assert (linear.layers, linear.decay_rank, linear.gate_rank) == (layers, 128, gate)
    k3 = read(KIMI_K3, tmp_path)
    assert k3.moe is not None
    assert (k3.moe.latent, k3.residual_kept_every, k3.output_gate) == (3584, 12, True)
    assert counts.kv_bytes_per_token(k3, "bf16") == 24 * 576 * 2
    state = 69 * 96 * 128 * 128 * 4 + 69 * 3 * 3 * 96 * 128 * 2
    assert model_ops.state_bytes(k3, 1, "bf16") == state


@pytest.mark.parametrize(
    ("more", "layers"),
    [
        ({}, 21),
        ({"indexer_types": None}, 21),
        ({"indexer_types": None, "index_topk_pattern": "FS" * 39}, 39),
        ({"indexer_types": None, "index_topk_freq": 1}, 78),
    ],
)
def test_layers_with_an_index(more: Json, layers: int, tmp_path: Path) -> None:
    local = read({**GLM_5_2, **more}, tmp_path).local
    assert local is not None
    assert local.indexed_layers == layers


def test_blocks_by_either_form_of_config(tmp_path: Path) -> None:
    new = {
        **MINIMAX_M3,
        **{"model_type": "minimax_m3_vl_text", "sparse_attention_config": None},
        **{"moe_layer_freq": None, "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 57},
        "layer_types": [FULL] * 3 + ["minimax_m3_sparse"] * 57,
        **{"index_n_heads": 4, "index_head_dim": 128, "index_topk_blocks": 16},
        **{"index_block_size": 128, "index_local_blocks": 1},
    }
    assert read(new, tmp_path).local == read(MINIMAX_M3, tmp_path).local
    assert read(new, tmp_path).moe == read(MINIMAX_M3, tmp_path).moe


def test_wrappers_and_other_names(tmp_path: Path) -> None:
    flash = read(V4_FLASH, tmp_path)
    for kind in ("deepseek_ref", "deepseek_v4"):
        assert read({**V4_FLASH, "model_type": kind}, tmp_path) == flash
    inner = {key: value for key, value in KIMI_LINEAR.items() if key != "model_type"}
    wrapped = read({"model_type": "kimi_k3", "text_config": inner}, tmp_path)
    assert wrapped == read(KIMI_LINEAR, tmp_path)
    vl = sizes("qwen3_vl_text", (28, 2048, 16, 8), 151936, 262144, head_dim=128)
    vl |= {"intermediate_size": 6144, "tie_word_embeddings": True}
    dense = read({"model_type": "qwen3_vl", "text_config": vl}, tmp_path)
    assert counts.parameters(dense) == 1_720_574_976
    mimo = sizes("mimo", (36, 4096, 32, 8), 151680, 32768, intermediate_size=11008, head_dim=128)
    mimo |= {"attention_bias": True, "num_nextn_predict_layers": 1}
    assert read(mimo, tmp_path).mtp_layers == 1


def test_towers_are_left_out_and_said(tmp_path: Path, runner: CliRunner) -> None:
    assert read(GEMMA_3, tmp_path).notes == (
        "the vision tower is left out: neither its weights nor its time count",
    )
    assert read(GEMMA_4, tmp_path).notes == ()
    read(GEMMA_3, Path("gemma"))
    shown = runner.invoke(cli, ["show", "model", "./gemma"]).output
    assert "the vision tower is left out" in shown


def test_show_says_what_layers_do(runner: CliRunner) -> None:
    read(V4_PRO, Path("pro"))
    shown = runner.invoke(cli, ["show", "model", "./pro"]).output
    assert "# 31 layers: 128 heads of 512 over the last 128 tokens and an entry for every" in shown
    assert "# index: 960 bytes per token in 30 layers" in shown
    assert "MB besides, whatever its length" in shown
    read(GEMMA_4_E2B, Path("e2b"))
    shown = runner.invoke(cli, ["show", "model", "./e2b"]).output
    assert "in 15 of 35 layers" in shown
    assert "keys and values of an earlier layer, the local ones" in shown


def delta(**more: Any) -> Json:
    return {**KIMI_LINEAR, "linear_attn_config": {**KIMI_LINEAR["linear_attn_config"], **more}}


BAD: list[tuple[str, Json, str]] = [
    ("ratios", {**V4_FLASH, "compress_ratios": [4] * 40}, "compress_ratios: lists 40 layers of 43"),
    ("no ratios", {**V4_FLASH, "compress_ratios": None}, "compress_ratios: missing"),
    ("negative", {**V4_FLASH, "compress_ratios": [-1] * 43}, "must be whole numbers from 0"),
    (
        "other reference",
        {**V4_FLASH, "model_type": "deepseek_ref", "compress_ratios": None},
        "'deepseek_ref' is known as DeepSeek-V4 only",
    ),
    (
        "indexers",
        {**GLM_5_2, "indexer_types": ["full"] * 3},
        "each of the 78 layers full or shared",
    ),
    (
        "delta layers",
        delta(kda_layers=[1]),
        "linear_attn_config.kda_layers: with full_attn_layers not all of the 27 layers",
    ),
    (
        "delta heads",
        delta(num_heads=None),
        "linear_attn_config.num_heads: missing",
    ),
    ("experts", {**MINIMAX_M3, "moe_layer_freq": [1] * 4}, "moe_layer_freq: lists 4 layers of 60"),
    (
        "values of an index",
        {
            **MINIMAX_M3,
            "sparse_attention_config": {
                **MINIMAX_M3["sparse_attention_config"],
                "sparse_disable_index_value": [0] * 60,
            },
        },
        "an index with values is not supported",
    ),
    ("all linear", {**MINIMAX_01, "attn_type_list": [0] * 80}, "names no layer with softmax"),
    ("pattern", {**MIMO_V2, "hybrid_layer_pattern": [2] * 48}, "must have 0 or 1 for each"),
    (
        "shared all",
        {**GEMMA_4_E2B["text_config"], "num_kv_shared_layers": 33},
        "33 leaves no layer of a type to read from",
    ),
    (
        "other embedding",
        {**GEMMA_4_E2B["text_config"], "vocab_size_per_layer_input": 100},
        "vocab_size_per_layer_input: 100 is not supported, only 262144",
    ),
]


@pytest.mark.parametrize(("config", "says"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_not_understood_is_refused_by_name(config: Json, says: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read(config, tmp_path)
    assert says in str(caught.value)


CONFIGS = Path(__file__).parents[2] / ".." / "shared" / "public_cases" / "configs"
SUPPORTED = ("deepseek", "kimi", "minimax", "gemma", "qwen", "glm", "mimo", "step", "llama", "gpt")


@pytest.mark.skipif(not CONFIGS.exists(), reason="the shared public configs are not here")
def test_public_configs_of_these_families_load() -> None:
    found = [path for path in sorted(CONFIGS.iterdir()) if (path / "config.json").exists()]
    mine = [path for path in found if any(word in path.name.lower() for word in SUPPORTED)]
    assert len(mine) > 60
    for path in mine:
        load_spec("model", str(path / "config.json"), Model)
