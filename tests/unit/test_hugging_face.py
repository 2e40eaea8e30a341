"""Hugging Face configs: the same models as the packaged files, and refusals by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.errors import SpecError
from cluster_sim.kernels.counts import parameters
from cluster_sim.specs.load import load_spec, load_workload
from cluster_sim.specs.model import Model

Json = dict[str, Any]


def base(kind: str, shape: tuple[int, ...], vocab: int, context: int, **more: Any) -> Json:
    layers, hidden, heads, kv_heads = shape
    return {
        "architectures": ["ForCausalLM"],
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "rope_theta": 1e6,
        "rope_scaling": {"factor": 8.0},
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **more,
    }


LLAMA = base("llama", (32, 4096, 32, 8), 128256, 131072, intermediate_size=14336)
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
DEEPSEEK = base(
    "deepseek_v3",
    (61, 7168, 128, 128),
    129280,
    163840,
    intermediate_size=18432,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=8,
    first_k_dense_replace=3,
    moe_layer_freq=1,
    n_group=8,
    topk_group=4,
    topk_method="noaux_tc",
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    num_nextn_predict_layers=1,
    ep_size=1,
    quantization_config=FP8,
)
INDEX = {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
GLM_5 = {
    **DEEPSEEK,
    **base("glm_moe_dsa", (78, 6144, 64, 64), 154880, 202752, intermediate_size=12288),
    **{"q_lora_rank": 2048, "qk_nope_head_dim": 192, "v_head_dim": 256, "head_dim": 64},
    **{"index_n_heads": 32, "index_head_dim": 128, "index_topk": 2048},
    "quantization_config": None,
}
QWEN3_5 = base(
    "qwen3_5_moe_text",
    (60, 4096, 32, 2),
    248320,
    262144,
    head_dim=256,
    attention_bias=False,
    attn_output_gate=True,
    full_attention_interval=4,
    layer_types=(["linear_attention"] * 3 + ["full_attention"]) * 15,
    linear_conv_kernel_dim=4,
    linear_key_head_dim=128,
    linear_num_key_heads=16,
    linear_num_value_heads=64,
    linear_value_head_dim=128,
    mamba_ssm_dtype="float32",
    moe_intermediate_size=1024,
    shared_expert_intermediate_size=1024,
    num_experts=512,
    num_experts_per_tok=10,
    mtp_num_hidden_layers=1,
    mtp_use_dedicated_embeddings=False,
)
LLAMA_4 = base(
    "llama4_text",
    (48, 5120, 40, 8),
    202048,
    10485760,
    head_dim=128,
    attention_chunk_size=8192,
    interleave_moe_layer_step=1,
    intermediate_size=8192,
    intermediate_size_mlp=16384,
    num_local_experts=16,
    num_experts_per_tok=1,
    use_qk_norm=True,
)
GPT_OSS = base(
    "gpt_oss",
    (36, 2880, 64, 8),
    201088,
    131072,
    head_dim=64,
    attention_bias=True,
    intermediate_size=2880,
    num_local_experts=128,
    num_experts_per_tok=4,
    experts_per_token=4,
    sliding_window=128,
    layer_types=["sliding_attention", "full_attention"] * 18,
    swiglu_limit=7.0,
    initial_context_length=4096,
    quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
)
MINIMAX = base(
    "minimax_m2",
    (62, 3072, 48, 8),
    200064,
    196608,
    head_dim=128,
    intermediate_size=1536,
    num_local_experts=256,
    num_experts_per_tok=8,
    shared_intermediate_size=0,
    attn_type_list=[1] * 62,
    use_qk_norm=True,
    qk_norm_type="per_layer",
    use_routing_bias=True,
    rotary_dim=64,
    use_mtp=True,
    num_mtp_modules=3,
    mtp_transformer_layers=1,
    quantization_config=FP8,
)
GLM_4_5 = base(
    "glm4_moe",
    (46, 4096, 96, 8),
    151552,
    131072,
    head_dim=128,
    attention_bias=True,
    use_qk_norm=False,
    intermediate_size=10944,
    moe_intermediate_size=1408,
    n_routed_experts=128,
    n_shared_experts=1,
    num_experts_per_tok=8,
    first_k_dense_replace=1,
    num_nextn_predict_layers=1,
    partial_rotary_factor=0.5,
)
QWEN2 = base(
    "qwen2",
    (28, 3584, 28, 4),
    152064,
    131072,
    intermediate_size=18944,
    use_sliding_window=False,
    sliding_window=131072,
    max_window_layers=28,
)
QWEN2_MOE = {
    **QWEN2,
    **base("qwen2_moe", (28, 3584, 28, 4), 151936, 65536, moe_intermediate_size=2560),
    **{"shared_expert_intermediate_size": 20480, "num_experts": 64, "num_experts_per_tok": 8},
    **{"decoder_sparse_step": 1, "mlp_only_layers": []},
}
QWEN3_MOE = base(
    "qwen3_moe",
    (48, 2048, 32, 4),
    151936,
    40960,
    head_dim=128,
    attention_bias=False,
    intermediate_size=6144,
    moe_intermediate_size=768,
    num_experts=128,
    num_experts_per_tok=8,
    decoder_sparse_step=1,
    mlp_only_layers=[],
    sliding_window=None,
    use_sliding_window=False,
    router_aux_loss_coef=0.001,
    output_router_logits=False,
)
GEMMA2 = base(
    "gemma2",
    (42, 3584, 16, 8),
    256000,
    8192,
    head_dim=256,
    intermediate_size=14336,
    sliding_window=4096,
    attn_logit_softcapping=50.0,
    query_pre_attn_scalar=256,
    hidden_activation="gelu_pytorch_tanh",
    cache_implementation="hybrid",
)
GPT_J = {
    "model_type": "gptj",
    "n_layer": 28,
    "n_embd": 4096,
    "n_head": 16,
    "n_inner": None,
    "n_positions": 2048,
    "vocab_size": 50400,
    "rotary_dim": 64,
    "attn_pdrop": 0.0,
    "tie_word_embeddings": False,
}
GPT_2 = {
    "model_type": "gpt2",
    "n_layer": 12,
    "n_embd": 768,
    "n_head": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}
GPT_NEOX = {
    **base("gpt_neox", (44, 6144, 64, 64), 50432, 2048, intermediate_size=24576),
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
}
DEEPSEEK_LITE = {
    **DEEPSEEK,
    **base("deepseek_v2", (27, 2048, 16, 16), 102400, 163840, intermediate_size=10944),
    **{"moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2},
    **{"num_experts_per_tok": 6, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0},
    "q_lora_rank": None,
    "quantization_config": None,
}
FALCON = {
    "model_type": "falcon",
    "num_hidden_layers": 80,
    "hidden_size": 14848,
    "num_attention_heads": 232,
    "num_kv_heads": 8,
    "new_decoder_architecture": True,
    "parallel_attn": True,
    "multi_query": True,
    "alibi": False,
    "bias": False,
    "vocab_size": 65024,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, Json] = {
    "llama3.1-8b": LLAMA,
    "llama2-7b": {
        **base("llama", (32, 4096, 32, 32), 32000, 4096, intermediate_size=11008),
        "num_key_value_heads": None,
    },
    "mistral-7b": base(
        "mistral", (32, 4096, 32, 8), 32000, 32768, intermediate_size=14336, sliding_window=None
    ),
    "mixtral-8x7b": base(
        "mixtral",
        (32, 4096, 32, 8),
        32000,
        32768,
        intermediate_size=14336,
        num_local_experts=8,
        num_experts_per_tok=2,
    ),
    "qwen2.5-7b": QWEN2,
    "qwen2-57b-a14b": QWEN2_MOE,
    "qwen3-32b": base(
        "qwen3", (64, 5120, 64, 8), 151936, 40960, head_dim=128, intermediate_size=25600
    ),
    "qwen3-30b-a3b": QWEN3_MOE,
    "qwen3.5-397b-a17b": {"model_type": "qwen3_5_moe", "text_config": QWEN3_5, "vision_config": {}},
    "deepseek-v3": DEEPSEEK,
    "deepseek-v3.2": {**DEEPSEEK, "model_type": "deepseek_v32", **INDEX},
    "deepseek-v2": {
        **DEEPSEEK,
        **base("deepseek_v2", (60, 5120, 128, 128), 102400, 131072, intermediate_size=12288),
        **{"moe_intermediate_size": 1536, "n_routed_experts": 160, "n_shared_experts": 2},
        **{"num_experts_per_tok": 6, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0},
        "quantization_config": None,
    },
    "kimi-k2": {
        **DEEPSEEK,
        **base("kimi_k2", (61, 7168, 64, 64), 163840, 131072, n_routed_experts=384),
        **{"first_k_dense_replace": 1, "num_nextn_predict_layers": 0},
    },
    "glm-5": GLM_5,
    "glm-4.5-air": GLM_4_5,
    "gpt-oss-120b": GPT_OSS,
    "minimax-m2.5": MINIMAX,
    "llama4-scout": {"model_type": "llama4", "text_config": LLAMA_4, "vision_config": {"a": 1}},
    "llama4-maverick": {
        "model_type": "llama4",
        "text_config": {
            **LLAMA_4,
            "num_local_experts": 128,
            "interleave_moe_layer_step": 2,
            "max_position_embeddings": 1048576,
            "no_rope_layers": [1, 1, 1, 0] * 12,
        },
    },
    "gemma2-9b": GEMMA2,
    "gpt-j-6b": GPT_J,
    "falcon-180b": FALCON,
}


def write(folder: Path, config: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_gives_the_packaged_model(name: str, tmp_path: Path) -> None:
    packaged = load_spec("model", name, Model)[1]
    read = load_spec("model", str(write(tmp_path / "mine", CONFIGS[name])), Model)[1]
    assert (read.name, read.title, read.published) == ("mine", "mine", None)
    own = ("name", "title", "published", "sources", "notes")
    kept = {key: getattr(packaged, key) for key in own}
    assert dataclasses.replace(read, **kept) == packaged


EXACT: list[tuple[str, Json, int]] = [  # parameters that the hub shows, recalled
    ("llama-3.1-8b", LLAMA, 8_030_261_248),
    ("mixtral-8x7b", CONFIGS["mixtral-8x7b"], 46_702_792_704),
    ("gpt2", GPT_2, 124_439_808),
    ("gpt-neox-20b", GPT_NEOX, 20_554_567_680),
    (
        "gemma-2b",
        base("gemma", (18, 2048, 8, 1), 256000, 8192, head_dim=256, intermediate_size=16384),
        2_506_172_416,
    ),
    ("gemma-2-9b", GEMMA2, 9_241_705_984),
    (
        "phi-3-mini-4k",
        base("phi3", (32, 3072, 32, 32), 32064, 4096, intermediate_size=8192, sliding_window=2047),
        3_821_079_552,
    ),
    (
        "qwen3-0.6b",
        base(
            "qwen3",
            (28, 1024, 16, 8),
            151936,
            40960,
            head_dim=128,
            intermediate_size=3072,
            tie_word_embeddings=True,
        ),
        596_049_920,
    ),
    ("qwen2.5-7b", QWEN2, 7_615_616_512),
    ("qwen3-30b-a3b", QWEN3_MOE, 30_532_122_624),
    ("deepseek-v2-lite", DEEPSEEK_LITE, 15_706_484_224),
]


@pytest.mark.parametrize(("name", "config", "count"), EXACT, ids=[row[0] for row in EXACT])
def test_a_config_has_the_parameters_of_its_checkpoint(
    name: str, config: Json, count: int, tmp_path: Path
) -> None:
    assert parameters(load_spec("model", str(write(tmp_path, config)), Model)[1]) == count


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (DEEPSEEK, "aux_loss_alpha norm_topk_prob routed_scaling_factor scoring_func seq_aux"),
        (DEEPSEEK, "pretraining_tp initializer_range rms_norm_eps hidden_act auto_map dtype_note"),
        (GPT_2, "resid_pdrop embd_pdrop layer_norm_epsilon scale_attn_weights summary_type n_ctx"),
        (GPT_OSS, "router_aux_loss_coef output_router_logits pad_token_id rope_parameters"),
        (LLAMA, "attention_softmax_in_fp32 transformers_version num_labels id2label _name_or_path"),
    ],
)
def test_keys_that_change_no_cost_are_passed_over(config: Json, keys: str, tmp_path: Path) -> None:
    full = {**config, **dict.fromkeys(keys.split(), 3)}
    assert load_spec("model", str(write(tmp_path, full)), Model)[1].layers


def without(config: Json, *keys: str) -> Json:
    return {key: value for key, value in config.items() if key not in keys}


BAD: list[tuple[str, object, str]] = [
    ("no JSON", "layers: 3", "config.json:1: not valid JSON"),
    ("cut off", '{"model_type": "llama",\n', "config.json:2: not valid JSON"),
    ("a list", [LLAMA], "must be a JSON object"),
    ("a number", "3", "must be a JSON object"),
    ("NaN", '{"model_type": NaN}', "model_type: must be text (got NaN)"),
    (
        "infinity",
        {**LLAMA, "hidden_size": float("inf")},
        "hidden_size: must be a whole number (got Infinity)",
    ),
    ("twice", '{"model_type": "llama", "model_type": "gpt2"}', "duplicate key 'model_type'"),
    ("too deep", "[" * 100_000, "not valid JSON"),
    ("empty", {}, "model_type: missing"),
    ("no type", without(LLAMA, "model_type"), "model_type: missing"),
    ("type of type", {**LLAMA, "model_type": 3}, "model_type: must be text (got 3)"),
    (
        "unknown",
        {**LLAMA, "model_type": "lama"},
        "'lama' is not known; the nearest known are llama",
    ),
    ("mamba", {**LLAMA, "model_type": "mamba2"}, "'mamba2' is not known"),
    ("missing", without(LLAMA, "hidden_size"), "config.json: hidden_size: missing"),
    ("null", {**LLAMA, "vocab_size": None}, "vocab_size: missing"),
    ("text", {**LLAMA, "hidden_size": "4096"}, 'hidden_size: must be a whole number (got "4096")'),
    ("half", {**LLAMA, "hidden_size": 4096.5}, "hidden_size: must be a whole number (got 4096.5)"),
    ("true", {**LLAMA, "num_hidden_layers": True}, "num_hidden_layers: must be a whole number"),
    ("zero", {**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers: must be at least 1 (got 0)"),
    ("negative", {**LLAMA, "vocab_size": -1}, "vocab_size: must be at least 1 (got -1)"),
    ("flag", {**LLAMA, "tie_word_embeddings": 1}, "tie_word_embeddings: must be true or false"),
    ("uneven", {**LLAMA, "hidden_size": 4097}, "hidden_size: 4097 is no multiple of 32 heads"),
    ("kv heads", {**LLAMA, "num_key_value_heads": 5}, "must be a multiple of kv_heads 5"),
    ("experts", {**LLAMA, "num_local_experts": 8}, "num_local_experts: is not understood"),
    ("latent", {**LLAMA, "kv_lora_rank": 512}, "kv_lora_rank: is not understood"),
    ("shared cache", {**LLAMA, "num_kv_shared_layers": 15}, "num_kv_shared_layers: is not underst"),
    ("layer type", {**LLAMA, "layer_types": ["mamba"] * 32}, "layer_types: 'mamba' is not supp"),
    ("layer count", {**LLAMA, "layer_types": ["full_attention"]}, "lists 1 layers of 32"),
    ("window", {**GEMMA2, "sliding_window": None}, "sliding_window: missing"),
    ("lightning", {**MINIMAX, "attn_type_list": [0] * 62}, "attn_type_list: lightning attention"),
    ("shared index", {**GLM_5, "indexer_types": ["full", "shared"]}, "indexer_types: must name"),
    ("dense list", {**GLM_5, "mlp_layer_types": ["dense"] * 78}, "mlp_layer_types: does not match"),
    ("latent bias", {**DEEPSEEK, "attention_bias": True}, "attention_bias: true is not supported"),
    ("top k", {**QWEN3_MOE, "num_experts_per_tok": 200}, "top_k 200 exceeds experts 128"),
    (
        "nested",
        {"model_type": "llama4", "text_config": without(LLAMA_4, "vocab_size")},
        "text_conf",
    ),
    ("method", {**LLAMA, "quantization_config": {"quant_method": "exl2"}}, "quant_method 'exl2'"),
    ("bits", {**LLAMA, "quantization_config": {"quant_method": "awq", "bits": 3}}, "not known"),
    ("dtype", {**LLAMA, "torch_dtype": "int3"}, "torch_dtype: 'int3' is not known"),
]


def test_a_bad_key_is_shown_with_its_line(tmp_path: Path) -> None:
    config = {**LLAMA, "vocab_size": "many", "quantization_config": {"quant_method": "exl2"}}
    text = json.dumps(config, indent=2)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec("model", str(tmp_path), Model)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "vocab_size" in row)
    assert f"config.json:{line}: vocab_size: must be a whole number" in str(caught.value)
    without_it = json.dumps({**without(LLAMA, "vocab_size"), "quantization_config": None}, indent=2)
    (tmp_path / "config.json").write_text(without_it)
    with pytest.raises(SpecError, match="config.json: vocab_size: missing"):
        load_spec("model", str(tmp_path), Model)


@pytest.mark.parametrize(("config", "says"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_config_is_refused_by_name(config: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("model", str(write(tmp_path, config)), Model)
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    config = {**without(LLAMA, "hidden_size"), "vocab_size": "many", "ssm_state": 3}
    with pytest.raises(SpecError) as caught:
        load_spec("model", str(write(tmp_path, config)), Model)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        (None, "bf16"),
        ({"quant_method": "fp8"}, "fp8"),
        (FP8, "fp8_block"),
        ({"quant_method": "gptq", "bits": 4}, "w4a16"),
        ({"quant_method": "awq", "bits": 8}, "w8a16"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "w4a16",
        ),
    ],
)
def test_native_dtypes(scheme: Json | None, dtype: str, tmp_path: Path) -> None:
    config = {**LLAMA, "quantization_config": scheme}
    assert load_spec("model", str(write(tmp_path, config)), Model)[1].native_dtype == dtype


def test_numbers_that_nobody_reads_may_be_infinite(tmp_path: Path) -> None:
    config = {**LLAMA, "time_step_limit": [0.0, float("inf")]}
    load_spec("model", str(write(tmp_path, config)), Model)


def test_windows_as_long_as_the_context_are_none(tmp_path: Path) -> None:
    for window, layers in ((4096, 32), (131072, 0)):
        config = {**LLAMA, "model_type": "mistral", "sliding_window": window}
        model = load_spec("model", str(write(tmp_path, config)), Model)[1]
        assert model.local_layers == layers


def test_the_commands_take_configs_and_their_folders(runner: CliRunner) -> None:
    write(Path("My-8B"), LLAMA)
    for name in ("My-8B", "My-8B/config.json", "./My-8B"):
        checked = runner.invoke(cli, ["check", name])
        assert checked.output == f"{name}: ok (model)\n", checked.output
        shown = runner.invoke(cli, ["show", "model", name]).output
        assert "# as resolved from a Hugging Face config" in shown
        assert "hidden: 4096" in shown
        assert "# computed: 8.03B parameters" in shown
    line = "run --topo h200_nvl8 --workload llama8b --model My-8B --rate 5 --requests 5"
    assert "My-8B" in runner.invoke(cli, line.split()).output
    assert load_workload("llama8b", ["workload.model=./My-8B"]).model.name == "My-8B"


def test_a_bad_config_ends_a_command_with_code_2(runner: CliRunner) -> None:
    write(Path("bad"), {**LLAMA, "model_type": "lama"})
    done = runner.invoke(cli, ["check", "bad/config.json"])
    assert done.exit_code == 2
    assert "bad/config.json:5: model_type: 'lama' is not known" in done.output
