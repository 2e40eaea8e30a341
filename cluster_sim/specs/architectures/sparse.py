"""Families with experts in keys of their own: Hunyuan, Ernie 4.5, Ling (Bailing), dots,
Phi-3.5-MoE, Granite, OLMoE, DeepSeek's first.

Source: configuration and modeling classes of transformers, hunyuan_v1 and bailing_moe of vLLM;
their defaults stand for absent keys.
"""

from __future__ import annotations

from cluster_sim.specs.architectures.common import (
    Architectures,
    base,
    biases,
    moe_after_dense,
    sliding,
)
from cluster_sim.specs.architectures.relatives import exaone4
from cluster_sim.specs.config_reader import ConfigReader, Data

# Keys that say nothing about the decoder's size: heads of other tasks, towers, routing in training.
_HUNYUAN_IDLE = {
    *("add_classification_head", "class_num", "pool_type", "norm_type", "num_media_embeds"),
    *("use_rotary_pos_emb", "moe_layer_num_skipped", "moe_drop_tokens", "capacity_factor"),
    *("moe_random_routing_dropped_token", "dense_list", "position_embedding_xdrope"),
    *("skip_cls_token", "mask_init_id", "image_token_id", "group_limited_greedy"),
    *("max_num_patches_per_img", "org_vocab_size", "routed_scaling_factor", "norm_topk_prob"),
}
_ERNIE_PAIRS = (
    *("moe_num_experts", "moe_intermediate_size", "moe_layer_start_index", "moe_layer_end_index"),
    *("moe_k", "moe_capacity"),
)
_ERNIE_IDLE = {
    *("moe_use_aux_free", "moe_gate", "moe_capacity", "moe_norm_min", "moe_use_hard_gate"),
    *("moe_group", "fuse_rms_norm", "compression_ratio", "moe_gate_act", "moe_norm_gate_logits"),
    *("moe_multimodal_dispatch_use_allgather", "intermediate_size", "moe_group_experts"),
    *("add_tail_layers", "moe_dropout_prob", "moe_all_to_all_dropout", "use_recompute_moe"),
}


def _hunyuan(c: ConfigReader, *, norm: bool) -> Data:
    """Hunyuan V1, dense or with experts beside a shared MLP; older ones name their heads and say
    whether queries and keys have norms.
    """
    c.named(head_dim="attention_head_dim")
    c.read |= _HUNYUAN_IDLE | {key for key in c.data if key.startswith(("vit_", "anyres_", "im_"))}
    c.must_be("use_mla", False)
    c.read |= {"kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}
    experts = c.same_in_all("num_experts", 1)
    data = base(c, dense=experts == 1, context=2048)
    bias, mlp = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    data["biases"] = biases(qkv=bias, attention_output=bias, mlp=mlp)
    data["qk_norm"] = c.flag("use_qk_norm", norm)
    data["other_attention"] = _shared_keys(c, data)
    c.must_be("sliding_window", None)
    keys = {"moe_topk", "num_shared_expert", "moe_intermediate_size", "use_mixed_mlp_moe"}
    if experts > 1:
        width = c.count("intermediate_size")
        shared = c.same_in_all("num_shared_expert", 1, least=0)
        data["moe"] = {
            "experts": experts,
            "top_k": c.same_in_all("moe_topk", 1),
            "expert_hidden": c.same_in_all("moe_intermediate_size", width),
            "shared_hidden": shared * width if c.flag("use_mixed_mlp_moe", True) else 0,
            "layers": data["layers"],
        }
    c.read |= keys
    return data


def _shared_keys(c: ConfigReader, data: Data) -> list[Data]:
    """Layers that read the keys and values of one before: all but every ``cla_share_factor``-th."""
    factor, wanted = c.count("cla_share_factor", 1), c.flag("use_cla", False)
    layers = data["layers"] - -(-data["layers"] // factor) if wanted else 0
    if not layers:
        return []
    same = {key: data[key] for key in ("heads", "kv_heads", "head_dim")}
    return [{"layers": layers, "cache": False, **same}]


def _ernie_moe(c: ConfigReader, *, vision: bool = False) -> Data:
    data = base(c, tied=True, dense=False, context=131072)
    layers, bias = data["layers"], c.flag("use_bias", False)
    if vision:
        _text_alone(c)
    first = c.count("moe_layer_start_index", 1, least=0)
    last = c.count("moe_layer_end_index", -1, least=-1)
    every = c.count("moe_layer_interval", 1)
    last = layers - 1 if last == -1 else min(last, layers - 1)
    count = sum((layer + 1) % every == 0 for layer in range(first, last + 1))
    if count < layers:
        data["ffn_hidden"] = c.count("intermediate_size")
    width = c.count("moe_intermediate_size", 1536)
    c.read |= _ERNIE_IDLE
    return data | {
        "biases": biases(qkv=bias, attention_output=bias, mlp=bias, router=True),
        "moe": {
            "experts": c.count("moe_num_experts", 64),
            "top_k": c.count("moe_k", 6),
            "expert_hidden": width,
            "shared_hidden": c.count("moe_num_shared_experts", 2, least=0) * width,
            "idle_hidden": c.count("experts_of_images", 0, least=0),
            "layers": count,
        }
        if count
        else None,
        "notes": _dense_drafts(c),
    }


def _dense_drafts(c: ConfigReader) -> list[str]:
    """What to note of layers for drafts that are dense while the last layers have experts."""
    if not c.count("num_nextn_predict_layers", 0, least=0):
        return []
    return ["its dense layer for drafts is left out: it drafts nothing here"]


def _text_alone(c: ConfigReader) -> None:
    """Of keys that say a number for text and one for images, those for text; experts of images lie
    in memory, as many as the widths and counts say.
    """
    widths = c.data.get("moe_intermediate_size")
    count, width = c.data.get("moe_num_experts", 64), 0
    if isinstance(widths, list) and len(widths) == 2:
        width = widths[1]
    if isinstance(count, list):
        count = count[-1] if count else 0
    if isinstance(count, int) and isinstance(width, int):
        c.imply("experts_of_images", count * width)
    for key in _ERNIE_PAIRS:
        value = c.data.get(key)
        if isinstance(value, list) and value:
            c.imply(key, value[0])
    c.read |= {"moe_dense_experts_token_type_ids", "mm_vocab_size", "max_text_id", "max_image_id"}
    c.read |= {key for key in c.data if key.startswith(("im_", "image_", "video_", "vision_"))}
    c.read |= {"moe_use_token_type_bias", "moe_with_send_router_loss", "spatial_conv_size"}
    c.read |= {"temporal_conv_size", "pixel_hidden_size", "moe_multimodal_paired_experts"}


def _bailing(c: ConfigReader, *, norm: bool) -> Data:
    """Ling and Ring: the first layers are dense, the others have experts and shared ones."""
    c.named(n_routed_experts="num_experts", n_shared_experts="num_shared_experts")
    data = base(c, dense=False, context=16384)
    bias, qkv = c.flag("use_bias", False), c.flag("use_qkv_bias", False)
    data["qk_norm"] = c.flag("use_qk_norm", norm)
    data["moe"] = moe_after_dense(c, data)
    shared = c.count("moe_shared_expert_intermediate_size", 0, least=0)
    if shared:
        data["moe"]["shared_hidden"] = c.count("n_shared_experts", 1, least=0) * shared
    routed_bias = c.flag("moe_router_enable_expert_bias", norm)
    data["biases"] = biases(
        qkv=bias or qkv,
        attention_output=bias,
        mlp=bias,
        router=routed_bias,
    )
    c.must_be("sliding_window", None)
    c.must_be("use_sliding_window", False)
    c.read |= {"max_window_layers", "router_dtype", "moe_router_enable_routed_scaling", "norm_head"}
    c.read |= {"multi_gate", "moe_router_enable_shared_expert", "head_norm", "use_rmsnorm"}
    data["mtp_layers"] = c.count("num_nextn_predict_layers", 0, least=0)
    return data


def _dots(c: ConfigReader) -> Data:
    data = base(c, dense=False, context=2048)
    bias = c.flag("attention_bias", False)
    first = c.count("max_window_layers", 62)
    wanted = c.has("sliding_window")
    data |= {
        "qk_norm": True,
        "biases": biases(qkv=bias, attention_output=bias, router=True),
        "moe": moe_after_dense(c, data),
        "local": sliding(c, data, lambda layer: wanted and layer >= first),
    }
    c.read.add("use_sliding_window")
    return data


def _exaone_moe(c: ConfigReader) -> Data:
    """K-EXAONE: one dense layer, then experts."""
    c.named(n_routed_experts="num_experts", n_shared_experts="num_shared_experts")
    if not c.has("first_k_dense_replace"):
        c.imply("first_k_dense_replace", 1)
    data = exaone4(c, dense=False)
    data["moe"] = moe_after_dense(c, data)
    return data | {"biases": biases(router=True), "notes": _dense_drafts(c)}


def _glm4v_moe(c: ConfigReader) -> Data:
    """GLM-4.5V: as GLM-4.5, with biases unless a config says otherwise."""
    data = base(c, dense=False, context=65536)
    data["qk_norm"] = c.flag("use_qk_norm", False)
    data["biases"] = biases(qkv=c.flag("attention_bias", True), router=True)
    data["moe"] = moe_after_dense(c, data)
    return data


def _phi_moe(c: ConfigReader) -> Data:
    data = base(c, dense=False, context=131072)
    bias, head = c.flag("attention_bias", False), c.flag("lm_head_bias", False)
    c.read |= {"input_jitter_noise", "router_jitter_noise", "intermediate_size"}
    return data | {
        "biases": biases(qkv=bias, attention_output=bias, norms=True, head=head),
        "moe": _local_experts(c, data, 16, 2),
        "local": sliding(c, data, lambda _: c.has("sliding_window")),
    }


def _local_experts(c: ConfigReader, data: Data, experts: int, top_k: int) -> Data:
    return {
        "experts": c.count("num_local_experts", experts),
        "top_k": c.count("num_experts_per_tok", top_k),
        "expert_hidden": c.count("intermediate_size"),
        "shared_hidden": c.count("shared_intermediate_size", 0, least=0),
        "layers": data["layers"],
    }


def _granite_moe(c: ConfigReader) -> Data:
    data = base(c, dense=False, context=2048)
    bias = c.flag("attention_bias", False)
    c.read |= {"attention_multiplier", "embedding_multiplier"}
    return data | {
        "biases": biases(qkv=bias, attention_output=bias),
        "moe": _local_experts(c, data, 8, 2),
    }


def _olmoe(c: ConfigReader) -> Data:
    c.named(num_local_experts="num_experts")
    data = base(c, dense=False, context=4096)
    bias = c.flag("attention_bias", False)
    return data | {
        "qk_norm": True,
        "biases": biases(qkv=bias, attention_output=bias),
        "moe": _local_experts(c, data, 64, 8),
    }


def _deepseek_first(c: ConfigReader) -> Data:
    data = base(c, dense=False, context=2048)
    bias = c.flag("attention_bias", False)
    data["moe"] = moe_after_dense(c, data)
    return data | {"biases": biases(qkv=bias, attention_output=bias)}


ARCHITECTURES: Architectures = {
    "hunyuan": lambda c: _hunyuan(c, norm=False),
    "hunyuan_v1_dense": lambda c: _hunyuan(c, norm=True),
    "hunyuan_v1_moe": lambda c: _hunyuan(c, norm=True),
    "ernie4_5_moe": _ernie_moe,
    "ernie4_5_moe_vl": lambda c: _ernie_moe(c, vision=True),
    "ernie4_5_vl_moe": lambda c: _ernie_moe(c, vision=True),
    "ernie4_5_vl_moe_text": lambda c: _ernie_moe(c, vision=True),
    "bailing_moe": lambda c: _bailing(c, norm=False),
    "bailing_moe_v2": lambda c: _bailing(c, norm=True),
    "dots1": _dots,
    "exaone_moe": _exaone_moe,
    "glm4v_moe": _glm4v_moe,
    "glm4v_moe_text": _glm4v_moe,
    "phimoe": _phi_moe,
    "granitemoe": _granite_moe,
    "granitemoeshared": _granite_moe,
    "olmoe": _olmoe,
    "deepseek": _deepseek_first,
}
