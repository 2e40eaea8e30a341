"""Qwen2 to Qwen3.5."""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases, layer_types, sliding
from cluster_sim.specs.config_reader import ConfigReader, Data


def qwen(c: ConfigReader, *, norm: bool, dense: bool = True) -> Data:
    """Qwen2 has biases on queries, keys and values, Qwen3 norms on queries and keys."""
    data = base(c, dense=dense)
    bias = c.flag("attention_bias", False) if norm else True
    data["qk_norm"] = norm
    data["biases"] = biases(qkv=bias, attention_output=bias and norm)
    wanted = c.has("sliding_window") and c.flag("use_sliding_window", False)
    c.read.add("use_sliding_window")
    first = c.count("max_window_layers", 28, least=0)  # transformers' default
    data["local"] = sliding(c, data, lambda layer: wanted and layer >= first)
    return data


def _qwen_moe(c: ConfigReader, data: Data, *, shared: bool) -> Data:
    layers = data["layers"]
    step = c.count("decoder_sparse_step", 1)
    dense = c.items("mlp_only_layers")
    count = sum((layer + 1) % step == 0 and layer not in dense for layer in range(layers))
    width = c.count("shared_expert_intermediate_size", least=0) if shared else 0
    if count < layers:
        data["ffn_hidden"] = c.count("intermediate_size")
    c.read.add("intermediate_size")
    return {
        "experts": c.count("num_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": c.count("moe_intermediate_size"),
        "shared_hidden": width,
        "shared_gate": width > 0,
        "layers": count,
    }


def _qwen2_moe(c: ConfigReader) -> Data:
    data = qwen(c, norm=False, dense=False)
    data["moe"] = _qwen_moe(c, data, shared=True)
    return data


def _qwen3_moe(c: ConfigReader) -> Data:
    data = qwen(c, norm=True, dense=False)
    data["moe"] = _qwen_moe(c, data, shared=False)
    return data


def _qwen_linear(c: ConfigReader) -> Data:
    """Qwen3-Next and Qwen3.5: gated-delta layers, every fourth is full attention with a gate."""
    has_experts = c.has("num_experts")
    data = base(c, dense=not has_experts)
    every = c.count("full_attention_interval", 4)
    kinds = layer_types(
        c,
        data["layers"],
        lambda layer: "linear_attention" if (layer + 1) % every else "full_attention",
        "full_attention",
        "linear_attention",
    )
    c.must_be("attention_bias", False)
    c.must_be("mtp_use_dedicated_embeddings", False)
    data["qk_norm"] = True
    data["output_gate"] = c.flag("attn_output_gate", True)
    if has_experts:
        data["moe"] = _qwen_moe(c, data, shared=True)
    data["linear"] = {
        "layers": kinds.count("linear_attention"),
        "key_heads": c.count("linear_num_key_heads"),
        "key_dim": c.count("linear_key_head_dim"),
        "value_heads": c.count("linear_num_value_heads"),
        "value_dim": c.count("linear_value_head_dim"),
        "conv": c.count("linear_conv_kernel_dim"),
    }
    data["mtp_layers"] = c.count("mtp_num_hidden_layers", 0, least=0)
    return data


ARCHITECTURES: Architectures = {
    "qwen2": lambda c: qwen(c, norm=False),
    "qwen2_vl": lambda c: qwen(c, norm=False),
    "qwen2_vl_text": lambda c: qwen(c, norm=False),
    "qwen2_5_vl": lambda c: qwen(c, norm=False),
    "qwen2_5_vl_text": lambda c: qwen(c, norm=False),
    "qwen2_5_omni_text": lambda c: qwen(c, norm=False),
    "qwen2_moe": _qwen2_moe,
    "qwen3": lambda c: qwen(c, norm=True),
    "qwen3_moe": _qwen3_moe,
    "qwen3_vl": lambda c: qwen(c, norm=True),
    "qwen3_vl_text": lambda c: qwen(c, norm=True),
    "qwen3_vl_moe": _qwen3_moe,
    "qwen3_vl_moe_text": _qwen3_moe,
    "qwen3_omni_moe": _qwen3_moe,
    "qwen3_omni_moe_text": _qwen3_moe,
    "qwen3_next": _qwen_linear,
    "qwen3_5": _qwen_linear,
    "qwen3_5_text": _qwen_linear,
    "qwen3_5_moe": _qwen_linear,
    "qwen3_5_moe_text": _qwen_linear,
}
