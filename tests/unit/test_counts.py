"""Counts of every packaged model against its publisher, the shared table and the products of one
device.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.kernels import counts, model_ops
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.specs.find import names
from cluster_sim.specs.load import load_spec
from cluster_sim.specs.model import Model, Published

MODELS = {name: load_spec("model", name, Model)[1] for name in names("model")}
TOTALS_APART = {  # more than 1 % from the published total, and why
    "aquila-7b": "7B is its name",
    "aquila2-7b": "7B is its name",
    "baichuan-13b": "13B is its name",
    "deepseek-v4-pro": "published with the layer for drafts, rounded",
    "gpt-moe-1.8t": "leaked figures, assumed shape",
    "gpt-moe-1.8t-finegrained": "leaked figures, assumed shape",
    "gpt3-20b": "20B is its name",
    "internlm-65b": "65B is its name",
    "kimi-k2": "published rounded up to 1.04T",
    "kimi-k2.5": "published rounded up to 1.04T",
    "llama4-scout": "published with the vision tower",
    "megatron-1.7b": "published rounded",
    "megatron-3.6b": "published rounded",
    "nemotron-22b": "22B is its name",
    "nemotron-8b": "8B is its name",
}
ACTIVE_APART = {  # more than 3 % and half a unit of the published figure's last digit
    "aquila-7b": "7B is its name",
    "aquila2-7b": "7B is its name",
    "deepseek-v3.2": "published as DeepSeek-V3, without the index",
    "deepseek-v2-lite": "published without the embedding",
    "deepseek-v4-flash": "published without the embedding",
    "glm-4.5": "published without the embedding",
    "glm-4.5-air": "published without the embedding, rounded down",
    "glm-5": "published without the embedding",
    "glm-5.1": "published without the embedding",
    "gpt-oss-120b": "published without the embedding",
    "gpt-oss-20b": "published without the embedding",
    "minimax-m2.5": "published without the embedding, rounded down",
    "minimax-m3": "published without the embedding",
    "nemotron-22b": "22B is its name",
    "nemotron-8b": "8B is its name",
    "qwen3-next-80b": "published without the embedding, rounded down",
    "pangu-ultra-moe-718b": "published without the embedding",
}
CHECKPOINTS_GB = {  # sizes of the published weights, recalled; without layers for drafts
    "gpt-oss-120b": 65.3,
    "gpt-oss-20b": 13.8,
    "kimi-k2": 1029,
    "llama3.1-405b": 811.7,
    "llama3.1-70b": 141.1,
    "llama3.1-8b": 16.06,
    "mixtral-8x7b": 93.4,
    "qwen3-235b-a22b": 470.2,
    "qwen3-32b": 65.5,
}


def published(model: Model) -> Published:
    assert model.published is not None
    return model.published


@pytest.mark.parametrize("name", MODELS)
def test_totals_are_the_published_ones(name: str) -> None:
    model = MODELS[name]
    apart = abs(counts.parameters(model) / 1e9 / published(model).total - 1)
    assert (apart > 0.01) == (name in TOTALS_APART), apart


@pytest.mark.parametrize("name", MODELS)
def test_active_parameters_are_the_published_ones(name: str) -> None:
    model, said = MODELS[name], published(MODELS[name]).active
    rounding = 0.5 / said if said == int(said) and model.moe is not None else 0.0
    apart = abs(counts.active_parameters(model) / 1e9 / said - 1)
    assert (apart > max(0.03, rounding)) == (name in ACTIVE_APART), apart


@pytest.mark.parametrize("name", MODELS)
def test_the_products_of_one_device_are_the_matmul_parameters(name: str) -> None:
    model, alone = MODELS[name], Layout()
    products = sum(g.layers * g.n * g.k for g in model_ops.layer_gemms(model, alone))
    head = model_ops.lm_head(model, 1)
    if model.moe is not None:
        chosen = model.moe.top_k * model_ops.expert_elements(model, alone)
        products += model.moe.layers * chosen
    assert products + head.n * head.k == counts.matmul_parameters(model)


@pytest.mark.parametrize("name", MODELS)
def test_the_cache_of_one_device_holds_what_a_token_leaves(name: str) -> None:
    model = MODELS[name]
    window = sum(
        model_ops.window_layers(model, kind) * counts.kv_elements_per_layer(kind)
        for kind in model.kinds
    )
    whole = counts.kv_bytes_per_token(model, "bf16") + counts.index_bytes_per_token(model)
    assert model_ops.kv_bytes_per_token(model, 1, "bf16") == whole - 2 * window


def test_active_is_total_without_experts_and_never_less_than_the_products() -> None:
    for model in MODELS.values():
        total, active = counts.parameters(model), counts.active_parameters(model)
        assert counts.matmul_parameters(model) <= active <= total
        assert (active == total) == (model.moe is None)
        assert (counts.mtp_parameters(model) > 0) == (model.mtp_layers > 0)


def test_bytes_and_flop_by_hand() -> None:
    cached = {name: counts.kv_bytes_per_token(MODELS[name], "bf16") for name in MODELS}
    assert cached["llama3.1-70b"] == 2 * 80 * 8 * 128 * 2 == 327_680
    assert cached["deepseek-v3"] == 61 * (512 + 64) * 2 == 70_272
    assert cached["qwen3.5-397b-a17b"] == 15 * 2 * 2 * 256 * 2
    assert counts.index_bytes_per_token(MODELS["deepseek-v3.2"]) == 61 * 128
    expanded = counts.attention_flop_per_context_token(MODELS["deepseek-v3"], absorbed=False)
    absorbed = counts.attention_flop_per_context_token(MODELS["deepseek-v3"], absorbed=True)
    assert expanded == 61 * 2 * 128 * (192 + 128)
    assert absorbed == 61 * 2 * 128 * (576 + 512)
    linear = MODELS["qwen3.5-397b-a17b"]
    state = counts.flop_per_token(linear) - 2 * counts.matmul_parameters(linear)
    assert state == 45 * 6 * 64 * 128 * 128


def test_biases_norms_and_positions_by_hand() -> None:
    layer = 12 * 768**2 + 13 * 768  # a GPT block: products, their biases and two norms
    gpt2 = Model(
        name="gpt2",
        title="GPT-2",
        layers=12,
        hidden=768,
        ffn_hidden=3072,
        gated=False,
        heads=12,
        kv_heads=12,
        head_dim=64,
        vocab=50257,
        tied_embeddings=True,
        learned_positions=1024,
        biases=("qkv", "attention_output", "mlp", "norms"),
        max_context=1024,
    )
    assert counts.parameters(gpt2) == 12 * layer + (50257 + 1024) * 768 + 2 * 768 == 124_439_808


@pytest.mark.parametrize("name", CHECKPOINTS_GB)
def test_weights_have_the_size_of_the_checkpoint(name: str) -> None:
    model = MODELS[name]
    dtype = model.native_dtype
    rest = "bf16" if dtype == "mxfp4" else dtype
    native = Recipe(dtype, rest, rest, dtype, "bf16")
    size = model_ops.weight_bytes_per_device(model, Layout(), native) / 1e9
    assert size == pytest.approx(CHECKPOINTS_GB[name], rel=0.01)


def test_the_reference_table_is_reproduced(shared: Path) -> None:
    rows = list(csv.DictReader((shared / "reference" / "models.csv").read_text().splitlines()))
    assert {row["name"] for row in rows} <= set(MODELS)
    for row in rows:
        model = MODELS[row["name"]]
        found = {
            "kv_bytes_per_token_fp16": counts.kv_bytes_per_token(model, "bf16"),
            "kv_bytes_per_token_fp8": counts.kv_bytes_per_token(model, "fp8"),
            "attn_flops_per_ctx_token_prefill": counts.attention_flop_per_context_token(
                model, absorbed=False
            ),
            "attn_flops_per_ctx_token_decode": counts.attention_flop_per_context_token(
                model, absorbed=True
            ),
            "max_context": model.max_context,
            "indexer_k_bytes_per_token_fp8": counts.index_bytes_per_token(model),
        }
        assert found == {key: float(row[key] or 0) for key in found}, row["name"]
        said = published(model)
        assert (str(said.total), str(said.active)) == (
            str(float(row["published_total_B"])),
            str(float(row["published_active_B"])),
        )
        billions = {
            "formula_total_B": counts.parameters(model),
            "formula_active_B": counts.active_parameters(model),
            "matmul_params_per_token_B": counts.matmul_parameters(model),
            "mtp_extra_B": counts.mtp_parameters(model) if row["mtp_extra_B"] else 0,
        }
        for key, value in billions.items():  # rounded there, and positions counted as idle
            wanted = float(row[key] or 0)
            assert value / 1e9 == pytest.approx(wanted, rel=2e-3, abs=0.006), (row["name"], key)


def test_show_appends_the_counts(runner: CliRunner) -> None:
    shown = runner.invoke(cli, ["show", "model", "deepseek-v3"]).output
    assert "# computed: 671.03B parameters (published 671B)" in shown
    assert "# active: 37.55B (published 37B), of which 36.62B multiply with a token" in shown
    assert "# KV cache: 70,272 bytes per token in bf16" in shown
    assert "# draft layers: 11.61B more parameters" in shown
