"""Weights of vision towers by the sizes that published configs say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster_sim.kernels.counts import parameters
from cluster_sim.kernels.layout import Layout, recipe
from cluster_sim.perf.checkpoint import loaded_bytes_per_device
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.load import load_spec
from cluster_sim.specs.model import Model
from cluster_sim.specs.towers import vision_tower

Json = dict[str, Any]
QWEN = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 32}
QWEN3_VL_2B: Json = {
    "model_type": "qwen3_vl",
    "text_config": {
        "model_type": "qwen3_vl_text",
        "num_hidden_layers": 28,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 6144,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "patch_size": 16,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
PIXTRAL = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
# Published sizes of the towers with what maps them to the decoder, or of whole checkpoints.
TOWERS: list[tuple[Json, int]] = [
    (
        {"model_type": "qwen2_vl"}
        | {"vision_config": {**QWEN, "embed_dim": 1280, "mlp_ratio": 4, "hidden_size": 3584}},
        675_759_104,
    ),
    (
        {"model_type": "qwen2_5_vl"}
        | {
            "vision_config": {
                **QWEN,
                **{"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
            }
        },
        676_550_144,
    ),
    (QWEN3_VL_2B, 406_957_056),
    (
        {"model_type": "gemma3", "text_config": {"hidden_size": 5376}}
        | {"vision_config": {**SIGLIP, "patch_size": 14, "image_size": 896}},
        423_060_336,
    ),
    (
        {"model_type": "kimi_vl", "text_config": {"hidden_size": 2048}}
        | {
            "vision_config": {
                **SIGLIP,
                **{"patch_size": 14, "init_pos_emb_height": 64, "init_pos_emb_width": 64},
            }
        },
        # 27 blocks, tables of patches and positions, three norms, 4,608 -> 4,608 -> 2,048
        27 * 15_239_504 + 678_528 + 4_718_592 + 4 * 1_152 + 21_238_272 + 9_439_232,
    ),
    (
        {"model_type": "mistral3", "text_config": {"hidden_size": 5120}, "spatial_merge_size": 2}
        | {"vision_config": {**PIXTRAL, "patch_size": 14}},
        438_958_080,
    ),
]


@pytest.mark.parametrize(("config", "weights"), TOWERS, ids=[c["model_type"] for c, _ in TOWERS])
def test_weights_of_a_tower(config: Json, weights: int) -> None:
    assert vision_tower(config) == weights


@pytest.mark.parametrize("value", [None, "1024", 0, -1, True, 1.5, 10**9, [1]])
def test_a_tower_without_its_sizes_is_left_out(value: object) -> None:
    tower = {**QWEN3_VL_2B["vision_config"], "hidden_size": value}
    assert vision_tower({**QWEN3_VL_2B, "vision_config": tower}) is None
    assert vision_tower({**QWEN3_VL_2B, "model_type": "else"}) is None


def test_engines_load_the_tower_in_slices(tmp_path: Path) -> None:
    """Qwen3-VL-2B has 2,127,532,032 weights in all."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_VL_2B))
    model, chip = load_spec("model", str(tmp_path), Model)[1], load_spec("chip", "l4", Chip)[1]
    assert parameters(model) + model.tower_parameters == 2_127_532_032
    assert "the vision tower counts as 0.41 billion weights in bf16" in model.notes[0]
    for tp in (1, 2):
        loaded = loaded_bytes_per_device(model, Layout(tp), recipe(chip, model, "bf16", "bf16"))
        assert loaded == pytest.approx(2 * 2_127_532_032 / tp, rel=2e-3)  # norms are not loaded


def test_a_log_of_mistral_small() -> None:
    """44.76 GiB in vLLM on one H100: decoder and tower."""
    model, chip = (
        load_spec("model", "mistral-small-3.1-24b", Model)[1],
        load_spec("chip", "h100_sxm", Chip)[1],
    )
    loaded = loaded_bytes_per_device(model, Layout(), recipe(chip, model, "bf16", "bf16"))
    tower = vision_tower(TOWERS[-1][0])
    assert tower is not None
    text = loaded - 2 * model.tower_parameters
    assert (text + 2 * tower) / 2**30 == pytest.approx(44.76, rel=0.002)
