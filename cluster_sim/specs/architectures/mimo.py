"""MiMo: Qwen2 with layers for drafts, and MiMo-V2, whose layers with a window have heads of their
own.

Source: mimo and mimo_v2_flash in vLLM. Limits: configs of MiMo-V2 do not say how many layers for
drafts there are, so none are counted.
"""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases
from cluster_sim.specs.architectures.qwen import qwen
from cluster_sim.specs.config_reader import ConfigReader, Data


def _mimo(c: ConfigReader) -> Data:
    data = qwen(c, norm=False)
    c.must_be("attention_bias", True)
    c.read.add("use_mrope")
    return data | {"mtp_layers": c.count("num_nextn_predict_layers", 0, least=0)}


def _mimo_v2(c: ConfigReader) -> Data:
    c.named(sliding_window="sliding_window_size")
    c.read |= {"attention_chunk_size", "attention_value_scale", "attention_projection_layout"}
    c.read |= {"add_full_attention_sink_bias", "intermediate_size"}
    data = base(c, dense=False)
    layers, bias = data["layers"], c.flag("attention_bias", False)
    data["v_dim"] = c.count("v_head_dim", data["head_dim"])
    data["biases"] = biases(qkv=bias, router=True)
    data["moe"] = _moe(c, data)
    pattern, every = c.items("hybrid_layer_pattern"), c.count("hybrid_block_size", 0, least=0)
    if not pattern and every:
        pattern = [1 if (layer + 1) % every else 0 for layer in range(layers)]
    if len(pattern) != layers or set(pattern) - {0, 1}:
        c.wrong("hybrid_layer_pattern", f"must have 0 or 1 for each of the {layers} layers")
    count, tokens = pattern.count(1), c.count("sliding_window")
    window = {
        "layers": count,
        "local_layers": count,
        "heads": c.count("swa_num_attention_heads", data["heads"]),
        "kv_heads": c.count("swa_num_key_value_heads", data["kv_heads"]),
        "head_dim": c.count("swa_head_dim", data["head_dim"]),
        "v_dim": c.count("swa_v_head_dim", data["v_dim"]),
    }
    sinks = c.flag("add_swa_attention_sink_bias", False)
    if count:
        data["other_attention"] = [window]
        data["local"] = {"kind": "sliding", "tokens": tokens, "layers": count, "sinks": sinks}
    return data


def _moe(c: ConfigReader, data: Data) -> Data:
    layers, freq = data["layers"], c.items("moe_layer_freq")
    if len(freq) != layers:
        c.wrong("moe_layer_freq", f"lists {len(freq)} layers of {layers}")
    count, width = sum(map(bool, freq)), c.count("moe_intermediate_size")
    if count < layers:
        data["ffn_hidden"] = c.count("intermediate_size")
    return {
        "experts": c.count("n_routed_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": width,
        "shared_hidden": c.count("n_shared_experts", 0, least=0) * width,
        "layers": max(1, count),
    }


ARCHITECTURES: Architectures = {
    "mimo": _mimo,
    "mimo_v2": _mimo_v2,
    "mimo_v2_flash": _mimo_v2,
}
