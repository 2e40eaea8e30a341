"""Checkpoints: what each method stores and leaves out, the files beside a config, bad ones."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.errors import SpecError
from cluster_sim.kernels.layout import Layout, recipe
from cluster_sim.kernels.model_ops import weight_bytes_per_device
from cluster_sim.perf.checkpoint import counted_bytes, size_note, size_share
from cluster_sim.specs.checkpoint import INDEX, SIDECAR
from cluster_sim.specs.layer_places import layers_of
from cluster_sim.specs.load import load_spec, load_topology
from cluster_sim.specs.model import Model
from cluster_sim.specs.module_patterns import Patterns

Json = dict[str, Any]
DENSE: Json = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
}
SPARSE: Json = {
    **DENSE,
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
}
LATENT: Json = {
    **DENSE,
    "model_type": "deepseek_v3",
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "first_k_dense_replace": 1,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "num_nextn_predict_layers": 1,
}
GATED_DELTA: Json = {
    **SPARSE,
    "model_type": "qwen3_next",
    "mlp_only_layers": [],
    "shared_expert_intermediate_size": 128,
    "linear_num_key_heads": 4,
    "linear_key_head_dim": 16,
    "linear_num_value_heads": 8,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
}
GROUP_4 = {"weights": {"num_bits": 4, "type": "int", "group_size": 32}, "targets": ["Linear"]}
GROUP_8 = {
    "weights": {"num_bits": 8, "type": "float"},
    "input_activations": {"num_bits": 8},
    "targets": ["re:.*self_attn.*"],
}
EIGHT = {"num_bits": 8, "type": "float"}


def load(folder: Path, config: Json, scheme: object = None, **beside: object) -> Model:
    folder.mkdir(parents=True, exist_ok=True)
    whole = config if scheme is None else {**config, "quantization_config": scheme}
    (folder / "config.json").write_text(json.dumps(whole))
    for name, content in beside.items():
        file = {"sidecar": SIDECAR, "index": INDEX}[name]
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return load_spec("model", str(folder), Model)[1]


def words(model: Model) -> str:
    """``part:dtype*layers`` of all that is kept."""
    return " ".join(
        f"{one.part}:{one.dtype}" + ("" if one.layers is None else f"*{one.layers:g}")
        for one in model.kept
    )


def names(layers: Iterable[int], *modules: str) -> list[str]:
    return [f"model.layers.{layer}.{module}" for layer in layers for module in modules]


def fp4(**more: Any) -> Json:
    return {"quant_method": "modelopt", "quant_algo": "NVFP4", **more}


ALL, MLP = range(4), ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
WHOLE = "attention:bf16 output:bf16"
# What: config, scheme, native dtype, kept, bytes of unusual scales.
METHODS: dict[str, tuple[Json, Json, str, str, Json]] = {
    "fp8": (DENSE, {"quant_method": "fp8"}, "fp8", "", {}),
    "fp8 of blocks, routers": (
        SPARSE,
        {
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": ["lm_head", *names(ALL, "mlp.gate", "input_layernorm")],
        },
        "fp8_block",
        "",
        {},
    ),
    "fbgemm, attention and the outer MLPs": (
        DENSE,
        {
            "quant_method": "fbgemm_fp8",
            "modules_to_not_convert": [
                "lm_head",
                *names(ALL, *QKV, "self_attn.o_proj"),
                *names((0, 3), *MLP),
            ],
        },
        "fp8",
        f"{WHOLE} dense:bf16*2",
        {},
    ),
    "keys alone": (
        DENSE,
        {"quant_method": "fp8", "modules_to_not_convert": names((1, 2), "self_attn.k_proj")},
        "fp8",
        "attention:bf16*0.6667",
        {},
    ),
    "whole layers": (
        DENSE,
        {"quant_method": "fp8", "ignored_layers": ["model.layers.0", "model.layers.2"]},
        "fp8",
        "attention:bf16*2 output:bf16*2 dense:bf16*2",
        {},
    ),
    "a name that ends as another": (
        SPARSE,
        {"quant_method": "fp8", "modules_to_not_convert": ["gate", "layers.1.self_att"]},
        "fp8",
        "",
        {},
    ),
    "fp8 with experts of four bits": (
        {**LATENT, "expert_dtype": "fp4"},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "mxfp4",
        "attention:fp8_block output:fp8_block dense:fp8_block shared:fp8_block",
        {},
    ),
    "fp8 whose ignore is that of four-bit experts": (
        LATENT,
        {
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
            "quant_algo": "MIXED_PRECISION",
            "moe_quant_algo": "NVFP4",
            "ignore": ["*.self_attn.*", "*.shared_experts.*", "mtp.*"],
            "quantized_layers": {
                name: {"quant_algo": "NVFP4", "group_size": 16}
                for name in names(range(1, 4), "mlp.experts")
            },
        },
        "fp4",
        "attention:fp8_block output:fp8_block dense:fp8_block shared:fp8_block mtp:fp8_block",
        {},
    ),
    "mxfp4, only experts": (
        SPARSE,
        {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
        "mxfp4",
        "",
        {},
    ),
    "mxfp4 that leaves experts of a layer": (
        SPARSE,
        {"quant_method": "mxfp4", "modules_to_not_convert": names((3,), "mlp.experts")},
        "mxfp4",
        "experts:bf16*1",
        {},
    ),
    "mxfp8": (DENSE, {"quant_method": "mxfp8"}, "fp8", "", {"fp8": 1.03125}),
    "gptq": (DENSE, {"quant_method": "gptq", "bits": 4, "group_size": 128}, "w4a16", "", {}),
    "gptq with zeros, head": (
        DENSE,
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False, "lm_head": True},
        "w4a16",
        "head:w4a16",
        {"w4a16": 0.51953125},
    ),
    "gptq by pattern": (
        DENSE,
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "dynamic": {
                r"-:model\.layers\.0\..*": {},
                r"+:.*down_proj.*": {"bits": 8, "group_size": 128},
            },
        },
        "w4a16",
        "attention:bf16*1 output:bf16*1 dense:bf16*1 dense:w8a16*1",
        {"w8a16": 1.015625},
    ),
    "gptq of some modules": (
        DENSE,
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "modules_in_block_to_quantize": [["self_attn.q_proj", "self_attn.o_proj"]],
        },
        "w4a16",
        "attention:bf16*2.6667 dense:bf16",
        {},
    ),
    "awq": (
        SPARSE,
        {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 64,
            "zero_point": True,
            "modules_to_not_convert": ["gate", "self_attn"],
        },
        "w4a16",
        WHOLE,
        {"w4a16": 0.5390625},
    ),
    "auto-round": (
        DENSE,
        {
            "quant_method": "auto-round",
            "bits": 4,
            "group_size": 128,
            "sym": True,
            "extra_config": {
                "model.layers.1.self_attn.o_proj": {"bits": 16},
                "model.layers.2.self_attn.o_proj": {"bits": 8},
            },
        },
        "w4a16",
        "output:bf16*1 output:w8a16*1",
        {"w8a16": 1.015625},
    ),
    "bitsandbytes nf4": (
        DENSE,
        {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "llm_int8_skip_modules": ["lm_head", "model.layers.3.mlp"],
        },
        "w4a16",
        "dense:bf16*1",
        {"w4a16": 0.5625},
    ),
    "bitsandbytes int8": (
        DENSE,
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": None},
        "w8a16",
        "",
        {},
    ),
    "modelopt fp8": (
        DENSE,
        {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]},
        "fp8",
        "",
        {},
    ),
    "modelopt fp4, all of attention": (
        SPARSE,
        fp4(ignore=["lm_head", *names(ALL, "mlp.gate")]),
        "fp4",
        "attention:fp4 output:fp4",
        {},
    ),
    "modelopt fp4, wildcards": (
        LATENT,
        fp4(
            ignore=[
                "lm_head",
                "model.layers.0*",
                "model.layers.1.*",
                *names((2, 3), "self_attn*", "mlp.shared_experts*"),
                "model.layers.4*",
            ]
        ),
        "fp4",
        "dense:bf16 shared:bf16 experts:bf16*1 mtp:bf16",
        {},
    ),
    "modelopt fp4, outputs quantised": (
        LATENT,
        fp4(ignore=names(ALL, *(f"self_attn.{n}" for n in ("q_a_proj", "q_b_proj", "kv_*")))),
        "fp4",
        "output:fp4",
        {},
    ),
    "modelopt mixed": (
        SPARSE,
        {
            "quant_method": "modelopt_mixed",
            "quant_algo": "MIXED_PRECISION",
            "exclude_modules": ["lm_head"],
            "quantized_layers": {
                **dict.fromkeys(names(ALL, *QKV, "self_attn.o_proj"), {"quant_algo": "FP8"}),
                **dict.fromkeys(names((0,), *MLP), {"quant_algo": "MXFP8"}),
                **{
                    name: {"quant_algo": "NVFP4", "group_size": 16}
                    for expert in range(16)
                    for name in names((1, 2), *(f"mlp.experts.{expert}.{m[4:]}" for m in MLP))
                },
                **{
                    name: {"quant_algo": "W4A16_AWQ", "group_size": 128}
                    for expert in range(16)
                    for name in names((3,), f"mlp.experts.{expert}.down_proj")
                },
            },
        },
        "fp4",
        "attention:fp8 output:fp8 dense:fp8 experts:w4a16*0.3333 experts:bf16*0.6667",
        {"fp8": 1.03125},
    ),
    "compressed-tensors by group": (
        SPARSE,
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"a": GROUP_8, "b": GROUP_4},
            "ignore": ["re:.*lm_head", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
        },
        "w4a16",
        "attention:fp8 output:fp8 dense:bf16",
        {"w4a16": 0.5625},
    ),
    "compressed-tensors, head not ignored": (
        DENSE,
        {"quant_method": "compressed-tensors", "config_groups": {"a": GROUP_4}},
        "w4a16",
        "head:w4a16",
        {"w4a16": 0.5625},
    ),
    "compressed-tensors mxfp4 alone": (
        DENSE,
        {
            "quant_method": "compressed-tensors",
            "ignore": ["lm_head"],
            "config_groups": {
                "a": {"weights": {"num_bits": 4, "type": "float", "group_size": 32}, "targets": []}
            },
        },
        "w4a16",
        "",
        {"w4a16": 0.53125},
    ),
    "quark": (
        SPARSE,
        {
            "quant_method": "quark",
            "exclude": ["lm_head", "*self_attn*"],
            "global_quant_config": {
                "weight": {"dtype": "fp4", "group_size": 32},
                "input_tensors": {"dtype": "fp4"},
            },
            "layer_quant_config": {
                "*mlp.down_proj": {"weight": {"dtype": "fp8_e4m3"}, "input_tensors": {"x": 1}}
            },
        },
        "mxfp4",
        "dense:mxfp4*0.6667 dense:fp8*0.3333",
        {},
    ),
    "bitsandbytes without its name": (
        DENSE,
        {"load_in_8bit": True, "llm_int8_skip_modules": ["self_attn"]},
        "w8a16",
        "attention:bf16 output:bf16",
        {},
    ),
    "hqq": (
        DENSE,
        {
            "quant_method": "hqq",
            "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}},
            "skip_modules": ["lm_head"],
        },
        "w4a16",
        "",
        {"w4a16": 0.5625},
    ),
    "hqq by module": (
        DENSE,
        {
            "quant_method": "hqq",
            "quant_config": {
                f"mlp.{name}_proj": {"weight_quant_params": {"nbits": 8, "group_size": 128}}
                for name in ("gate", "up", "down")
            },
        },
        "w8a16",
        "attention:bf16 output:bf16",
        {"w8a16": 1.03125},
    ),
    "torchao": (
        DENSE,
        {
            "quant_method": "torchao",
            "quant_type": {
                "default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 32}}
            },
        },
        "w4a16",
        "",
        {"w4a16": 0.625},
    ),
    "torchao of old": (
        DENSE,
        {
            "quant_method": "torchao",
            "quant_type": "int4_weight_only",
            "quant_type_kwargs": {"group_size": 64},
            "modules_to_not_convert": ["self_attn"],
        },
        "w4a16",
        "attention:bf16 output:bf16",
        {"w4a16": 0.5625},
    ),
    "torchao by module": (
        DENSE,
        {
            "quant_method": "torchao",
            "quant_type": {
                "default": {
                    "_type": "ModuleFqnToConfig",
                    "_data": {
                        "module_fqn_to_config": {
                            "_default": {"_type": "Float8DynamicActivationFloat8WeightConfig"},
                            **dict.fromkeys(names((0,), *QKV, "self_attn.o_proj")),
                        }
                    },
                }
            },
        },
        "fp8",
        "attention:bf16*1 output:bf16*1",
        {},
    ),
    "linear attention": (
        GATED_DELTA,
        {
            "quant_method": "fp8",
            "modules_to_not_convert": [
                *names((0, 1, 2), "linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba"),
                *names(ALL, "mlp.shared_expert.down_proj", "mlp.shared_expert_gate"),
            ],
        },
        "fp8",
        "linear:bf16*2.2727 shared:bf16*1.3333",
        {},
    ),
}


@pytest.mark.parametrize("what", METHODS)
def test_what_a_method_stores_where(what: str, tmp_path: Path) -> None:
    config, scheme, native, kept, widths = METHODS[what]
    model = load(tmp_path / "m", config, scheme)
    assert model.native_dtype == native
    assert words(model) == kept
    assert model.bytes_per_element == pytest.approx(widths)


@pytest.mark.parametrize("prefix", ["", "model.", "language_model.model.", "model.language_model."])
def test_what_stands_before_the_layers_does_not_matter(prefix: str, tmp_path: Path) -> None:
    parts = ("self_attn*", "mlp.gate_proj", "mlp.experts.1.*", "mlp.experts.2.up_proj*")
    ignore = [f"{prefix}layers.{layer}.{part}" for layer in ALL for part in parts]
    model = load(tmp_path / "m", SPARSE, fp4(ignore=ignore))
    assert words(model) == "dense:bf16*0.3333 experts:bf16*0.25"


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("model.layers.1", [1]),
        ("model.layers.1.*", [1]),
        ("model.layers.1*", [1, *range(10, 20)]),
        ("*.layers.1.*", [1]),
        ("model.layers.[12].self_attn*", [1, 2]),
        ("model.layers.?.self_attn.q_proj", list(range(10))),
        (r"re:.*layers\.1\..*", [1]),
        (r"re:model\.layers\.1\d\..*", list(range(10, 20))),
        (r"re:model.layers.1.*", [1, *range(10, 20)]),
        (r"re:.*layers\.(1|2)\..*", [1, 2]),
        (r"re:^.*layers\.1\..*self_attn.*$", [1]),
        (r"re:.*\.q_proj$", list(range(20))),
        (r"re:.*self_att$", []),
        (r"re:self_attn.*", []),
        (r"re:.*1.*q", [1, *range(10, 20)]),
        (r"re:^(?!.*layers\.1\.).*", [0, *range(2, 20)]),
        ("self_attn", list(range(20))),
        ("q_proj", list(range(20))),
        ("*q_proj", list(range(20))),
        ("proj", []),
        ("self_attn.k_proj", []),
        ("model.layers", list(range(20))),
        ("layers.1.mlp", []),
    ],
)
def test_which_layers_a_pattern_means(pattern: str, layers: list[int]) -> None:
    meant = Patterns([pattern])
    assert [n for n in range(20) if meant.means(f"layers.{n}.self_attn.q_proj")] == layers


PLACES: dict[str, tuple[Json, Json, dict[str, list[int]]]] = {
    "blocks by letter": (
        {"hybrid_override_pattern": "ME*-E"},
        {
            "attention_layers": 1,
            "state_space": {"layers": 1},
            "moe": {"layers": 2},
            "mlps": [{"hidden": 8, "layers": 1}],
        },
        {"linear": [0], "experts": [1, 4], "attention": [2], "dense": [3]},
    ),
    "periods": (
        {"attn_layer_period": 4, "attn_layer_offset": 2, "expert_layer_period": 2}
        | {"expert_layer_offset": 1},
        {"state_space": {"layers": 4}, "moe": {"layers": 2}},
        {"linear": [0, 1, 3, 4], "attention": [2], "experts": [1, 3], "dense": [0, 2, 4]},
    ),
    "one-based lists": (
        {"linear_attn_config": {"kda_layers": [1, 2, 4]}, "first_k_dense_replace": 1},
        {"linear": {"layers": 3}, "moe": {"layers": 4}},
        {"linear": [0, 1, 3], "output": [2, 4], "shared": [1, 2, 3, 4], "dense": [0]},
    ),
    "a list in a text": (
        {"moe_layers_enum": "1, 3"},
        {"moe": {"layers": 2}},
        {"router": [1, 3], "dense": [0, 2, 4], "attention": [0, 1, 2, 3, 4]},
    ),
    "steps": (
        {"interleave_moe_layer_step": 2},
        {"moe": {"layers": 2}, "local": {"layers": 3, "kind": "sparse"}},
        {"experts": [1, 3], "index": [2, 3, 4]},
    ),
    "beside attention": (
        {},
        {"state_space": {"layers": 5, "beside_attention": True}},
        {"linear": [0, 1, 2, 3, 4], "attention": [0, 1, 2, 3, 4]},
    ),
    "searched blocks": (
        {"block_configs": [{"attention": {"no_op": n != 1}, "ffn": {}} for n in range(5)]},
        {"attention_layers": 1, "mlps": [{"hidden": 8, "layers": 5}]},
        {"attention": [1], "dense": [0, 1, 2, 3, 4]},
    ),
    "nothing said": ({}, {"moe": {"layers": 3}}, {"experts": [2, 3, 4], "dense": [0, 1]}),
    "lists that do not fit": (
        {"moe_layers": [0], "layer_types": ["mamba"] * 5, "moe_layer_freq": [0, "x"]},
        {"moe": {"layers": 3}},
        {"experts": [2, 3, 4], "attention": [0, 1, 2, 3, 4]},
    ),
}


@pytest.mark.parametrize("what", PLACES)
def test_which_layers_have_a_part(what: str) -> None:
    config, data, places = PLACES[what]
    for part, layers in places.items():
        assert layers_of(config, {"layers": 5, **data}, part) == layers, part


@pytest.mark.parametrize(
    ("alias", "method"),
    [
        ("gptq_marlin", "gptq"),
        ("AWQ", "awq"),
        ("awq_marlin", "awq"),
        ("intel/auto-round", "auto-round"),
        ("auto_round", "auto-round"),
        ("compressed_tensors", "compressed-tensors"),
    ],
)
def test_methods_have_other_names(alias: str, method: str, tmp_path: Path) -> None:
    rest = {"bits": 4, "group_size": 128, "sym": True, "config_groups": {"a": GROUP_4}}
    found = [
        load(tmp_path / str(n), DENSE, {"quant_method": one, **rest})
        for n, one in enumerate((alias, method))
    ]
    same = [dataclasses.replace(one, name="", title="-", sources={}) for one in found]
    assert same[0] == same[1]
    assert same[0].native_dtype == "w4a16"


def test_odd_schemes_are_read_or_refused(tmp_path: Path) -> None:
    """Values of all methods, each replaced by others and moved about."""
    rng = random.Random(7)
    values = [None, True, 0, -1, 4, 1e300, "", "re:[", "*", [], ["lm_head"], [[1]], {}, {"a": 1}]
    for config, scheme, *_ in METHODS.values():
        for _ in range(5):
            changed = json.loads(json.dumps(scheme))
            for _ in range(rng.randint(1, 3)):
                place = changed
                while isinstance(place, dict) and place and rng.random() < 0.6:
                    inner = place[rng.choice(sorted(place))]
                    place = inner if isinstance(inner, dict) and inner else place
                value = json.loads(json.dumps(rng.choice(values)))
                place[rng.choice([*sorted(place), "ignore", "bits"])] = value
            with contextlib.suppress(SpecError):
                load(tmp_path / "m", config, changed)


def test_neighbours_prices_are_noted(tmp_path: Path) -> None:
    model = load(tmp_path / "m", DENSE, {"quant_method": "mxfp8"})
    assert model.notes == ("MXFP8 are priced as fp8: a neighbour's curve",)


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        (fp4(kv_cache_scheme={"num_bits": 8, "type": "float"}), "fp8"),
        (fp4(kv_cache_scheme={"num_bits": 8, "type": "int"}), "int8"),
        (fp4(kv_cache_scheme="FP8"), "fp8"),
        (fp4(kv_cache_quant_algo="FP8"), "fp8"),
        (fp4(kv_cache_quant_algo=None), None),
        (fp4(), None),
    ],
)
def test_the_kv_dtype_that_a_checkpoint_asks_for(
    scheme: Json, dtype: str | None, tmp_path: Path
) -> None:
    assert load(tmp_path / "m", DENSE, scheme).kv_dtype == dtype


def test_a_kv_dtype_that_is_not_known_is_noted(tmp_path: Path) -> None:
    model = load(tmp_path / "m", DENSE, fp4(kv_cache_quant_algo="NVFP4"))
    assert model.kv_dtype is None
    assert "KV cache of NVFP4 is not modelled" in model.notes[0]


BAD: dict[str, tuple[object, str]] = {
    "text": ("fp8", "quantization_config: must be an object (got 'fp8')"),
    "list": (["fp8"], "quantization_config: must be an object"),
    "number": (8, "quantization_config: must be an object"),
    "method": ({"quant_method": "exl2"}, "quantization_config: quant_method 'exl2' is not known"),
    "hqq": ({"quant_method": "hqq"}, "hqq needs quant_config.weight_quant_params"),
    "torchao": (
        {"quant_method": "torchao", "quant_type": "int2_weight_only"},
        "torchao's 'int2_weight_only' is not known; known are Int4WeightOnlyConfig",
    ),
    "sparse beside": (
        {
            "quant_method": "compressed-tensors",
            "sparsity_config": {"format": "sparse-24-bitmask"},
            "config_groups": {"g": GROUP_4},
        },
        "format 'sparse-24-bitmask': sparse weights are not modelled",
    ),
    "no method": ({"bits": 4}, "quant_method '' is not known"),
    "method type": ({"quant_method": 8}, "quantization_config.quant_method: must be text"),
    "bits": ({"quant_method": "awq", "bits": 3}, "weights of 3 bits are not known"),
    "bits type": ({"quant_method": "gptq", "bits": [4]}, "weights of [4] bits are not known"),
    "no bits": ({"quant_method": "gptq"}, "weights of None bits"),
    "block": ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size: must be a"),
    "names": (
        {"quant_method": "fp8", "modules_to_not_convert": [{"a": 1}]},
        "quantization_config.modules_to_not_convert: must be a list of names of modules",
    ),
    "names type": ({"quant_method": "fp8", "ignored_layers": 7}, "ignored_layers: must be a list"),
    "algorithm": (fp4(quant_algo="NVFP3"), "quant_algo 'NVFP3' is not known; known are"),
    "algorithm type": (fp4(quant_algo=[1]), "quant_algo [1] is not known"),
    "listed": (
        fp4(quant_algo="MIXED_PRECISION", quantized_layers={"a": "FP8"}),
        "quantized_layers: 'a': must be an object (got 'FP8')",
    ),
    "listed type": (
        fp4(quant_algo="MIXED_PRECISION", quantized_layers=["a"]),
        "quantized_layers: must be an object",
    ),
    "no groups": ({"quant_method": "compressed-tensors"}, "compressed-tensors needs config_groups"),
    "group": (
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": 4}}},
        "config_groups.g: must be an object",
    ),
    "group bits": (
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {}}}},
        "weights of None bits",
    ),
    "sparse": (
        {
            "quant_method": "compressed-tensors",
            "format": "marlin-24",
            "config_groups": {"g": GROUP_4},
        },
        "sparse weights are not modelled",
    ),
    "cache": (fp4(kv_cache_scheme=[8]), "kv_cache_scheme: must be an object or a name"),
    "bnb": ({"quant_method": "bitsandbytes"}, "needs load_in_4bit or load_in_8bit"),
    "expression": (
        {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["re:("]},
        "is no regular expression",
    ),
    "endless expression": (
        {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["re:(a+)+$"]},
        "is too complicated",
    ),
    "alternatives for ever": (
        {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["re:((.|.))*x"]},
        "is too complicated",
    ),
    "many options": (
        {
            "quant_method": "awq",
            "bits": 4,
            "modules_to_not_convert": ["re:" + ".?" * 40 + "." * 40],
        },
        "is too complicated",
    ),
    "many loops": (
        {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["re:" + ".*x" * 9]},
        "is too complicated",
    ),
    "many wildcards": (
        {
            "quant_method": "awq",
            "bits": 4,
            "modules_to_not_convert": [f"*x{n}" for n in range(999)],
        },
        "patterns that name no layer",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_scheme_is_refused_by_file_and_key(what: str, tmp_path: Path) -> None:
    scheme, says = BAD[what]
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "m", DENSE, scheme)
    assert says in str(caught.value)
    assert str(tmp_path / "m" / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    "ignore", [None, [], [[]], "lm_head", ["lm_head"] * 3, [["lm_head"], "lm_head"], [""], ["*"]]
)
def test_odd_lists_are_fine(ignore: object, tmp_path: Path) -> None:
    model = load(tmp_path / "m", DENSE, fp4(ignore=ignore))
    assert (model.native_dtype == "bf16") == (ignore == ["*"])
    assert not model.kept


@pytest.mark.parametrize("scheme", [None, {}])
def test_the_sidecar_counts_where_the_config_says_nothing(
    scheme: object, tmp_path: Path, runner: CliRunner
) -> None:
    quantization = {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["lm_head", *names(ALL, "self_attn*")],
    }
    beside = {"producer": {"name": "modelopt"}, "quantization": quantization}
    model = load(tmp_path / "m", SPARSE, scheme, sidecar=beside)
    assert (model.native_dtype, words(model), model.kv_dtype) == ("fp4", "", "fp8")
    assert model.sources["quantization"].endswith(SIDECAR)
    assert not model.notes
    shown = runner.invoke(cli, ["show", "model", str(tmp_path / "m")])
    assert "native_dtype: fp4" in shown.output, shown.output


def test_the_config_counts_where_both_say_something(tmp_path: Path) -> None:
    beside = {"quantization": {"quant_algo": "FP8"}}
    model = load(tmp_path / "m", DENSE, fp4(), sidecar=beside)
    assert model.native_dtype == "fp4"
    assert "differ (native_dtype fp4 and fp8): config.json counts" in model.notes[0]
    agreeing = {"quantization": {"quant_algo": "NVFP4"}}
    assert not load(tmp_path / "n", DENSE, fp4(), sidecar=agreeing).notes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ({}, "quantization: must be an object (got None)"),
        ({"quantization": {"quant_algo": "X"}}, "quantization: quant_algo 'X' is not known"),
    ],
)
def test_a_bad_sidecar_is_refused(content: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "m", DENSE, sidecar=content)
    assert says in str(caught.value)
    assert SIDECAR in str(caught.value)


def test_a_dtype_in_the_name_alone_is_noted(tmp_path: Path) -> None:
    assert "the name says NVFP4" in load(tmp_path / "My-8B-NVFP4", DENSE).notes[0]
    assert not load(tmp_path / "My-8B", DENSE).notes


def index(size: object, *tensors: str) -> Json:
    return {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(tensors, "a")}


def test_the_size_of_a_checkpoint_scales_the_weights(tmp_path: Path) -> None:
    plain = load(tmp_path / "m", LATENT)
    counted = counted_bytes(plain)
    for share in (0.97, 1.0, 1.04):
        size = round(counted * share)
        model = load(tmp_path / "m", LATENT, index=index(size, "model.layers.3.mlp.gate.weight"))
        assert size_share(model) == pytest.approx(share, rel=1e-6)
        assert not size_note(model)
    with_drafts = load(tmp_path / "m", LATENT, index=index(size, "model.layers.4.eh_proj.weight"))
    assert with_drafts.checkpoint_drafts
    assert counted_bytes(with_drafts) > 1.05 * counted


def test_explain_says_what_is_kept(tmp_path: Path, runner: CliRunner) -> None:
    scheme = {"quant_method": "fp8", "modules_to_not_convert": ["self_attn", "layers.0.mlp"]}
    load(tmp_path / "m", DENSE, {**scheme, "ignored_layers": ["model.layers.0.mlp"]})
    line = "explain --topo h200_nvl8 --workload llama8b --rate 5 --model"
    printed = " ".join(runner.invoke(cli, [*line.split(), str(tmp_path / "m")]).output.split())
    assert "fp8 weights (attention bf16, output bf16, dense bf16 in layers: 1), fp8 KV" in printed


def test_a_size_far_from_the_config_is_noted(tmp_path: Path, runner: CliRunner) -> None:
    size = round(1.5 * counted_bytes(load(tmp_path / "m", DENSE)))
    model = load(tmp_path / "m", DENSE, index=index(size, "lm_head.weight"))
    assert "50 % more than the weights of its config: the config counts" in size_note(model)
    line = "run --topo h200_nvl8 --workload llama8b --rate 5 --requests 5 --model"
    assert "50 % more than" in " ".join(
        runner.invoke(cli, [*line.split(), str(tmp_path / "m")]).output.split()
    )


def test_a_size_with_other_towers_says_nothing(tmp_path: Path) -> None:
    model = load(tmp_path / "m", DENSE, index=index(10**9, "model.visual.blocks.0.attn.weight"))
    assert model.checkpoint_bytes is None
    assert "1.0 GB hold other towers" in model.notes[0]


def test_an_index_without_a_size_says_nothing(tmp_path: Path) -> None:
    for number, metadata in enumerate(({}, {"total_size": None}, None)):
        beside = {"metadata": metadata, "weight_map": {"lm_head.weight": "a"}}
        model = load(tmp_path / f"m{number}", DENSE, index=beside)
        assert model.checkpoint_bytes is None
        assert "says no metadata.total_size: weights are counted" in model.notes[0]


@pytest.mark.parametrize("size", ["5", -1, 0, 1e30, True, 1.5, float("inf")])
def test_a_bad_size_is_refused(size: object, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "m", DENSE, index=index(size))
    assert INDEX in str(caught.value)


def listed(layers: int, experts: int) -> dict[str, Json]:
    inside = [f"{p}.{e}.{w}" for e in range(experts) for p in ("mlp.experts",) for w in MLP_LEAVES]
    return dict.fromkeys(names(range(layers), *inside, *QKV), {"quant_algo": "NVFP4"})


MLP_LEAVES = ("gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("kind", ["listed", "names", "prefixes"])
def test_long_lists_are_read_quickly(kind: str, tmp_path: Path) -> None:
    config = {**SPARSE, "num_hidden_layers": 58, "num_experts": 128}
    entries = listed(58, 128)
    assert len(entries) > 22_000
    scheme = fp4(quant_algo="MIXED_PRECISION", quantized_layers=entries)
    if kind != "listed":
        scheme = fp4(ignore=[name + "*" * (kind == "prefixes") for name in entries])
    load(tmp_path / "m", SPARSE, fp4())  # imports
    start = time.process_time()
    model = load(tmp_path / "m", config, scheme)
    assert time.process_time() - start < 0.9  # 0.1 to 0.3 s on an idle core
    assert model.native_dtype == "fp4"


def test_kept_parts_stand_in_a_model_file(tmp_path: Path) -> None:
    text = """extends: llama3.1-8b
native_dtype: fp8
kept:
  - {part: attention, dtype: bf16}
  - {part: dense, dtype: bf16, layers: 2}
"""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    model = load_spec("model", str(path), Model)[1]
    assert words(model) == "attention:bf16 dense:bf16*2"
    for change, says in (
        ("part: dense, dtype: bf16, layers: 2", "part: experts, dtype: bf16"),
        ("layers: 2", "layers: 40"),
        ("part: dense, dtype: bf16, layers: 2", "part: attention, dtype: fp4"),
    ):
        path.write_text(text.replace(change, says))
        with pytest.raises(SpecError, match="kept: "):
            load_spec("model", str(path), Model)


_BLOCKS = " ".join(f"{part}:fp8_block" for part in ("attention", "output", "index", "shared"))
PUBLIC: dict[str, tuple[str, str]] = {
    "inputs/llama405b-fbgemm": ("fp8", f"{WHOLE} dense:bf16*2"),
    "inputs/nvfp4_sidecar": ("fp4", "attention:fp4 output:fp4"),
    "configs/moonshotai--Kimi-K2.5": ("w4a16", f"{WHOLE} dense:bf16 shared:bf16"),
    "configs/nvidia--DeepSeek-V3.1-NVFP4": ("fp4", "output:fp4 mtp:bf16"),
    "configs/nvidia--GLM-5-NVFP4": ("fp4", "mtp:bf16"),
    "configs/nvidia--GLM-5.1-NVFP4": ("fp4", "dense:bf16 shared:bf16 mtp:bf16"),
    "configs/nvidia--Kimi-K2.5-NVFP4": ("fp4", ""),
    "configs/nvidia--Kimi-K2.6-NVFP4": ("fp4", "dense:bf16 shared:bf16"),
    "configs/nvidia--MiniMax-M2.5-NVFP4": ("fp4", ""),
    "configs/nvidia--Qwen3.5-122B-A10B-NVFP4": ("fp4", "shared:bf16 mtp:bf16"),
    "configs/openai--gpt-oss-20b": ("mxfp4", ""),
    "configs/deepseek-ai--DeepSeek-V4-Flash": ("mxfp4", _BLOCKS),
    "configs/nvidia--DeepSeek-V4-Flash-NVFP4": ("fp4", _BLOCKS),
    "configs/nvidia--Gemma-4-26B-A4B-NVFP4": ("fp4", "shared:bf16"),
    "configs/nvidia--Gemma-4-31B-IT-NVFP4": ("fp4", WHOLE),
    "configs/nvidia--MiniMax-M3-NVFP4": (
        "fp4",
        "attention:fp8 output:fp8 index:fp8 dense:fp8 shared:fp8 mtp:bf16",
    ),
    "configs/Qwen--Qwen3-30B-A3B-FP8": ("fp8_block", ""),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_checkpoints_keep_what_they_say(name: str, shared: Path) -> None:
    model = load_spec("model", str(shared / "public_cases" / name), Model)[1]
    assert (model.native_dtype, words(model)) == PUBLIC[name]


def test_weights_of_a_public_log(shared: Path) -> None:
    """Llama 3.1 405B by fbgemm on eight H100: 57.75 GiB each (vllm-project/vllm issue 6746)."""
    folder = shared / "public_cases" / "inputs" / "llama405b-fbgemm"
    model = load_spec("model", str(folder), Model)[1]
    wanted = recipe(load_topology("h100_nvl8").chip, model, "fp8", "bf16")
    found = weight_bytes_per_device(model, Layout(8), wanted) / 2**30
    assert found == pytest.approx(57.75, rel=0.02)


# Sizes of published checkpoints: config.json, GB, with the layers for drafts.
SIZES = {
    # artifact bytes as in deepseek-ai/DeepSeek-V3's tree; tables stand in the draft layer again
    "configs/deepseek-ai--DeepSeek-V3": (688.587, True),
    "configs/deepseek-ai--DeepSeek-V4-Flash": (159.62, True),  # vllm-project/vllm issue 40821
    "configs/nvidia--Kimi-K2.6-NVFP4": (595, False),  # as ISTA-DASLab's of the same modules
    "configs/openai--gpt-oss-20b": (13.78, False),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_public_checkpoints(name: str, shared: Path) -> None:
    size, drafts = SIZES[name]
    model = load_spec("model", str(shared / "public_cases" / name), Model)[1]
    whole = dataclasses.replace(model, checkpoint_drafts=drafts)
    assert counted_bytes(whole) / 1e9 == pytest.approx(size, rel=0.02)
