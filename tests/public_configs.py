"""Dimensions of published models as their config.json files say them, with published counts."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def config(kind: str, shape: tuple[int, ...], vocab: int, **more: Any) -> Json:
    """Layers, hidden size, heads, heads of keys and values, width of the MLP."""
    layers, hidden, heads, kv_heads, width = shape
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": width,
        "vocab_size": vocab,
        **more,
    }


NANO = config(
    "nemotron_h",
    (52, 2688, 32, 2, 1856),
    131072,
    hybrid_override_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    head_dim=128,
    mamba_num_heads=64,
    mamba_head_dim=64,
    n_groups=8,
    ssm_state_size=128,
    conv_kernel=4,
    chunk_size=128,
    expand=2,
    mamba_ssm_cache_dtype="float32",
    moe_intermediate_size=1856,
    moe_shared_expert_intermediate_size=3712,
    n_routed_experts=128,
    n_shared_experts=1,
    num_experts_per_tok=6,
    time_step_limit=[0.0, float("inf")],
)
SUPER = {
    **NANO,
    **config("nemotron_h", (88, 4096, 32, 2, 2688), 131072),
    "hybrid_override_pattern": "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*"
    "EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME",
    **{"mamba_num_heads": 128, "moe_intermediate_size": 2688, "moe_latent_size": 1024},
    **{"moe_shared_expert_intermediate_size": 5376, "n_routed_experts": 512},
    **{"num_experts_per_tok": 22, "num_nextn_predict_layers": 1},
    "mtp_hybrid_override_pattern": "*E",
}
NEMOTRON_H_8B = config(
    "nemotron_h",
    (52, 4096, 32, 8, 21504),
    131072,
    hybrid_override_pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
    attention_head_dim=128,
    mamba_num_heads=128,
    ssm_state_size=128,
    max_position_embeddings=8192,
    time_step_rank=256,
)
JAMBA_MINI = config(
    "jamba",
    (32, 4096, 32, 8, 14336),
    65536,
    **{"attn_layer_period": 8, "attn_layer_offset": 4, "expert_layer_period": 2},
    **{"expert_layer_offset": 1, "num_experts": 16, "num_experts_per_tok": 2},
    **{"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 256},
)
BAMBA = config(
    "bamba",
    (32, 4096, 32, 8, 14336),
    128256,
    **{"attn_layer_indices": [9, 18, 27], "mamba_n_heads": 128, "mamba_d_head": 64},
    **{"mamba_n_groups": 1, "mamba_d_state": 128, "mamba_expand": 2, "attn_rotary_emb": 64},
)
GRANITE_H = config(
    "granitemoehybrid",
    (40, 4096, 32, 8, 768),
    100352,
    layer_types=(["mamba"] * 9 + ["attention"]) * 4,
    **{"num_local_experts": 72, "num_experts_per_tok": 10, "shared_intermediate_size": 1536},
    **{"mamba_n_heads": 128, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 128},
    **{"mamba_expand": 2, "tie_word_embeddings": True, "attention_multiplier": 0.0078125},
    **{"position_embedding_type": "nope", "normalization_function": "rmsnorm"},
)
FALCON_H1_7B = config(
    "falcon_h1",
    (44, 3072, 12, 2, 12288),
    130048,
    head_dim=128,
    **{"mamba_d_ssm": 3072, "mamba_n_heads": 24, "mamba_d_head": 128, "mamba_d_state": 256},
    **{"mamba_n_groups": 1, "mamba_rms_norm": False, "ssm_multipliers": [1.0, 0.5]},
    **{"attention_in_multiplier": 1.0, "attn_layer_indices": None},
)
LFM2_MOE = config(
    "lfm2_moe",
    (24, 2048, 32, 8, 7168),
    65536,
    layer_types=[
        "full_attention" if layer in (2, 6, 10, 14, 18, 21) else "conv" for layer in range(24)
    ],
    **{"num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 1792},
    **{"num_dense_layers": 2, "conv_L_cache": 3, "conv_bias": False, "use_expert_bias": True},
)
LFM2 = config(
    "lfm2",
    (16, 2048, 32, 8, 12288),
    65536,
    **{"full_attn_idxs": [2, 5, 8, 10, 12, 14], "block_auto_adjust_ff_dim": True},
    **{"block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0, "conv_L_cache": 3},
    **{"block_ff_dim": 12288, "conv_dim": 2048, "block_dim": 2048, "num_heads": 32},
)
ERNIE_21B = config(
    "ernie4_5_moe",
    (28, 2560, 20, 4, 12288),
    103424,
    **{"moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 1536, "use_bias": False},
    **{"moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_end_index": None},
    **{"moe_layer_interval": 1, "moe_gate_act": None, "moe_use_aux_free": True},
)
ERNIE_300B = {
    **ERNIE_21B,
    **config("ernie4_5_moe", (54, 8192, 64, 8, 28672), 103424, tie_word_embeddings=False),
    **{"moe_k": 8, "moe_intermediate_size": 3584, "moe_num_shared_experts": 0},
    **{"moe_layer_start_index": 3, "moe_layer_end_index": 53, "moe_capacity": [64, 64, 64]},
}
ERNIE_VL = {
    **ERNIE_21B,
    **{"model_type": "ernie4_5_moe_vl", "moe_num_experts": [64, 64]},
    **{"moe_intermediate_size": [1536, 512], "moe_layer_start_index": [1, 1]},
    **{"moe_layer_end_index": [29, 28], "moe_capacity": [[64], [64]], "im_patch_id": 100295},
}
HUNYUAN_A13B = config(
    "hunyuan_v1_moe",
    (32, 4096, 32, 8, 3072),
    128167,
    **{"num_experts": 64, "moe_topk": [8] * 32, "num_shared_expert": [1] * 32},
    **{"moe_intermediate_size": [3072] * 32, "use_mixed_mlp_moe": True, "use_cla": False},
    **{"attention_head_dim": 128, "tie_word_embeddings": True, "use_qk_norm": True},
    **{"org_vocab_size": 128167, "cla_share_factor": 2, "pool_type": "last", "class_num": 0},
)
HUNYUAN_LARGE = config(
    "hunyuan",
    (64, 6400, 80, 8, 18304),
    129024,
    **{"num_experts": 16, "moe_topk": 1, "num_shared_expert": 1, "use_cla": True},
    **{"cla_share_factor": 2, "use_qk_norm": True, "tie_word_embeddings": True},
)
LING_LITE = config(
    "bailing_moe",
    (28, 2048, 16, 4, 1408),
    126464,
    **{"num_experts": 64, "num_shared_experts": 2, "num_experts_per_tok": 6},
    **{"moe_intermediate_size": 1408, "first_k_dense_replace": 0, "use_bias": False},
    **{"norm_head": False, "norm_softmax": False, "embedding_dropout": 0.0},
)
LING_MINI = config(
    "bailing_moe",
    (20, 2048, 16, 4, 5120),
    157184,
    head_dim=128,
    **{"num_experts": 256, "num_shared_experts": 1, "num_experts_per_tok": 8},
    **{"moe_intermediate_size": 512, "moe_shared_expert_intermediate_size": 512},
    **{"first_k_dense_replace": 1, "moe_router_enable_expert_bias": True, "use_qk_norm": True},
    **{"router_dtype": "fp32", "score_function": "sigmoid", "num_nextn_predict_layers": 0},
)
DOTS = config(
    "dots1",
    (62, 4096, 32, 32, 10944),
    152064,
    **{"moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 2},
    **{"num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1},
    **{"sliding_window": None, "max_window_layers": 62, "head_dim": 128},
)
CHATGLM3 = {
    **{"model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "num_attention_heads": 32},
    **{"ffn_hidden_size": 13696, "kv_channels": 128, "multi_query_attention": True},
    **{"multi_query_group_num": 2, "padded_vocab_size": 65024, "seq_length": 8192},
    **{"add_qkv_bias": True, "add_bias_linear": False, "rmsnorm": True, "post_layer_norm": True},
    **{"apply_query_key_layer_scaling": True, "bias_dropout_fusion": True},
}
EXAONE_35 = {
    **{"model_type": "exaone", "num_layers": 32, "hidden_size": 4096, "num_attention_heads": 32},
    **{"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 102400},
    **{"activation_function": "silu", "layer_norm_epsilon": 1e-5, "max_position_embeddings": 32768},
}
# Name, config, billions of parameters and of active ones as the publisher's card says them.
PUBLISHED: list[tuple[str, Json, float, float | None]] = [
    ("Nemotron 3 Nano", NANO, 31.6, 3.6),
    ("Nemotron 3 Super", SUPER, 120.6, 12.7),
    ("Nemotron-H 8B", NEMOTRON_H_8B, 8.1, None),
    (
        "Nemotron Nano 9B v2",
        {
            **NEMOTRON_H_8B,
            **config("nemotron_h", (56, 4480, 40, 8, 15680), 131072, mamba_head_dim=80),
            "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
        },
        8.888,
        None,
    ),
    ("Jamba 1.5 Mini", JAMBA_MINI, 51.6, 12.1),
    (
        "Jamba Reasoning 3B",
        {
            **JAMBA_MINI,
            **config("jamba", (28, 2560, 20, 1, 8192), 65536, tie_word_embeddings=True),
            **{"num_experts": 1, "num_experts_per_tok": 1, "mamba_dt_rank": 160},
            **{"attn_layer_period": 14, "attn_layer_offset": 7},
        },
        3.03,
        None,
    ),
    ("Bamba 9B", BAMBA, 9.78, None),
    ("Granite 4.0 H Small", GRANITE_H, 32.2, None),
    (
        "Granite 4.0 H Tiny",
        {
            **GRANITE_H,
            **config("granitemoehybrid", (40, 1536, 12, 4, 512), 100352, mamba_n_heads=48),
            **{"num_local_experts": 64, "num_experts_per_tok": 6, "shared_intermediate_size": 1024},
        },
        6.94,
        None,
    ),
    ("Falcon H1 7B", FALCON_H1_7B, 7.59, None),
    (
        "Falcon H1 34B",
        {
            **FALCON_H1_7B,
            **config("falcon_h1", (72, 5120, 20, 4, 21504), 261120),
            **{"mamba_d_ssm": 4096, "mamba_n_heads": 32, "mamba_n_groups": 2},
        },
        33.64,
        None,
    ),
    ("LFM2 8B-A1B", LFM2_MOE, 8.34, None),
    ("LFM2 1.2B", LFM2, 1.17, None),
    ("ERNIE 4.5 21B-A3B", ERNIE_21B, 21.8, None),
    ("ERNIE 4.5 300B-A47B", ERNIE_300B, 300.0, 47.0),
    ("Hunyuan-A13B", HUNYUAN_A13B, 80.4, 13.0),
    ("Hunyuan-Large", HUNYUAN_LARGE, 389.0, 52.0),
    ("Ling-lite 1.5", LING_LITE, 16.8, 2.75),
    ("Ling-mini 2.0", LING_MINI, 16.26, None),
    (
        "Ling 1T",
        {
            **LING_MINI,
            **config("bailing_moe", (80, 8192, 64, 8, 18432), 157184),
            **{"moe_intermediate_size": 2048, "moe_shared_expert_intermediate_size": 2048},
            "first_k_dense_replace": 4,
        },
        1000.0,
        51.0,
    ),
    ("dots.llm1", DOTS, 142.8, 14.0),
    ("ChatGLM3-6B", CHATGLM3, 6.24, None),
    ("EXAONE 3.5 7.8B", EXAONE_35, 7.82, None),
    (
        "EXAONE 4.0 32B",
        config("exaone4", (64, 5120, 40, 8, 27392), 102400, sliding_window_pattern="LLLG"),
        32.0,
        None,
    ),
    ("OLMo 2 7B", config("olmo2", (32, 4096, 32, 32, 11008), 100352), 7.3, None),
    ("OLMo 2 32B", config("olmo2", (64, 5120, 40, 8, 27648), 100352), 32.2, None),
    ("Seed-OSS 36B", config("seed_oss", (64, 5120, 80, 8, 27648), 155136), 36.15, None),
    ("GLM-4-32B", config("glm4", (61, 6144, 48, 2, 23040), 151552, head_dim=128), 32.57, None),
    ("GLM-4-9B", config("glm4", (40, 4096, 32, 2, 13696), 151552), 9.4, None),
    ("Command R", config("cohere", (40, 8192, 64, 64, 22528), 256000), 34.98, None),
    ("Command R7B", config("cohere2", (32, 4096, 32, 8, 14336), 256000), 8.03, None),
    (
        "Command R+",
        config("cohere", (64, 12288, 96, 8, 33792), 256000, use_qk_norm=True),
        103.8,
        None,
    ),
    ("Command A", config("cohere2", (64, 12288, 96, 8, 36864), 256000), 111.06, None),
    ("Hunyuan 7B", config("hunyuan_v1_dense", (32, 4096, 32, 8, 14336), 128167), 8.03, None),
    ("ERNIE 4.5 0.3B", config("ernie4_5", (18, 1024, 16, 2, 3072), 103424), 0.361, None),
    ("SmolLM3 3B", config("smollm3", (36, 2048, 16, 4, 11008), 128256), 3.08, None),
    ("InternLM2 20B", config("internlm2", (48, 6144, 48, 8, 16384), 92544), 19.86, None),
    ("InternLM3 8B", config("internlm3", (48, 4096, 32, 2, 10240), 128512), 8.80, None),
    (
        "Baichuan2 13B",
        {
            **{"model_type": "baichuan", "hidden_size": 5120, "intermediate_size": 13696},
            **{"num_hidden_layers": 40, "num_attention_heads": 40, "vocab_size": 125696},
            "model_max_length": 4096,
        },
        13.9,
        None,
    ),
    ("StarCoder2 3B", config("starcoder2", (30, 3072, 24, 2, 12288), 49152), 3.03, None),
    ("Phi-2", config("phi", (32, 2560, 32, 32, 10240), 51200), 2.78, None),
    (
        "Granite 3.1 8B",
        config("granite", (40, 4096, 32, 8, 12800), 49155, tie_word_embeddings=True),
        8.17,
        None,
    ),
    (
        "Granite 3.0 1B-A400M",
        config(
            "granitemoe",
            (24, 1024, 16, 8, 512),
            49155,
            **{"num_local_experts": 32, "num_experts_per_tok": 8, "tie_word_embeddings": True},
        ),
        1.33,
        0.43,
    ),
    (
        "Phi-3.5-MoE",
        config(
            "phimoe",
            (32, 4096, 32, 8, 6400),
            32064,
            **{"num_local_experts": 16, "num_experts_per_tok": 2, "attention_bias": True},
            **{"lm_head_bias": True, "sliding_window": 131072, "input_jitter_noise": 0.01},
        ),
        41.87,
        6.6,
    ),
    (
        "OLMoE 1B-7B",
        config("olmoe", (16, 2048, 16, 16, 1024), 50304, num_experts=64, num_experts_per_tok=8),
        6.92,
        1.28,
    ),
    (
        "DeepSeekMoE 16B",
        config(
            "deepseek",
            (28, 2048, 16, 16, 10944),
            102400,
            **{"moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2},
            **{"num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1},
        ),
        16.38,
        2.83,
    ),
    (
        "K-EXAONE 236B-A23B",
        config(
            "exaone_moe",
            (48, 6144, 64, 8, 18432),
            153600,
            **{"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8},
            **{"moe_intermediate_size": 2048, "num_shared_experts": 1, "sliding_window": 128},
            **{"first_k_dense_replace": 1, "sliding_window_pattern": "LLLG"},
        ),
        236.0,
        None,
    ),
    (
        "GLM-4.5V",
        config(
            "glm4v_moe_text",
            (46, 4096, 96, 8, 10944),
            151552,
            **{"head_dim": 128, "n_routed_experts": 128, "n_shared_experts": 1},
            **{"num_experts_per_tok": 8, "moe_intermediate_size": 1408},
            **{"first_k_dense_replace": 1},
        ),
        106.0,
        None,
    ),
    ("Apertus 8B", config("apertus", (32, 4096, 32, 8, 21504), 131072), 8.05, None),
    (
        "MiniCPM3 4B",
        config(
            "minicpm3",
            (62, 2560, 40, 40, 6400),
            73448,
            **{"q_lora_rank": 768, "kv_lora_rank": 256, "qk_nope_head_dim": 64},
            **{"qk_rope_head_dim": 32, "tie_word_embeddings": True},
        ),
        4.07,
        None,
    ),
    (
        "OPT 66B",
        {
            **{"model_type": "opt", "num_hidden_layers": 64, "hidden_size": 9216},
            **{"num_attention_heads": 72, "ffn_dim": 36864, "vocab_size": 50272},
            **{"word_embed_proj_dim": 9216, "do_layer_norm_before": True},
        },
        65.7,
        None,
    ),
    (
        "BLOOM",
        {
            **{"model_type": "bloom", "n_layer": 70, "num_attention_heads": 112},
            **{"n_embed": 14336, "vocab_size": 250880, "seq_length": 2048},
        },
        176.2,
        None,
    ),
    (
        "MPT 30B",
        {
            **{"model_type": "mpt", "n_layers": 48, "d_model": 7168, "n_heads": 64},
            **{"vocab_size": 50432, "max_seq_len": 8192, "no_bias": True},
            **{"attn_config": {"alibi": True}, "expansion_ratio": 4},
        },
        29.96,
        None,
    ),
    (
        "DBRX",
        {
            **{"model_type": "dbrx", "n_layers": 40, "d_model": 6144, "n_heads": 48},
            **{"vocab_size": 100352, "max_seq_len": 32768, "attn_config": {"kv_n_heads": 8}},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
        },
        131.6,
        36.0,
    ),
    (
        "StarCoder",
        {
            **{"model_type": "gpt_bigcode", "n_layer": 40, "n_embd": 6144, "n_head": 48},
            **{"n_inner": 24576, "vocab_size": 49152, "n_positions": 8192, "multi_query": True},
        },
        15.52,
        None,
    ),
    (
        "Qwen 7B",
        config("qwen", (32, 4096, 32, 32, 22016), 151936, seq_length=8192, kv_channels=128),
        7.72,
        None,
    ),
    ("StableLM 3B", config("stablelm", (32, 2560, 32, 32, 6912), 50304), 2.795, None),
    (
        "MiniCPM 2B",
        config("minicpm", (40, 2304, 36, 36, 5760), 122753, tie_word_embeddings=True),
        2.72,
        None,
    ),
]

BLOCK = {
    "attention": {"n_heads_in_group": 8, "no_op": False, "replace_with_linear": False},
    "ffn": {"ffn_mult": 5.25, "no_op": False, "replace_with_linear": False},
}
NOTHING = {"no_op": True, "replace_with_linear": False, "n_heads_in_group": None, "ffn_mult": None}
LINEAR = {"no_op": False, "replace_with_linear": True}


def searched(*blocks: Json) -> Json:
    whole = config("nemotron-nas", (len(blocks), 8192, 64, 8, 0), 128256, block_configs=blocks)
    return whole | {"num_key_value_heads": None, "intermediate_size": None, **CONTEXT}


CONTEXT = {"max_position_embeddings": 131072}
