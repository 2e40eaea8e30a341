"""Llama and its relatives: Mistral, Mixtral, Phi-3, Llama 4."""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases, layer_types, sliding
from cluster_sim.specs.config_reader import ConfigReader, Data


def _llama(c: ConfigReader) -> Data:
    attention, mlp = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    data = base(c)
    data["biases"] = biases(qkv=attention, attention_output=attention, mlp=mlp)
    data["local"] = sliding(c, data, lambda _: c.has("sliding_window"))
    return data


def _mixtral(c: ConfigReader) -> Data:
    data = base(c, dense=False)
    data["local"] = sliding(c, data, lambda _: c.has("sliding_window"))
    data["moe"] = {
        "experts": c.count("num_local_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": c.count("intermediate_size"),
        "layers": data["layers"],
    }
    return data


def _llama4(c: ConfigReader) -> Data:
    """Layers with rotary positions see their chunk, the others everything."""
    data = base(c, dense=False)
    layers, step = data["layers"], c.count("interleave_moe_layer_step", 1)
    c.must_be("attention_bias", False)
    listed = c.items("moe_layers")
    experts = len(listed) if listed else len(range(step - 1, layers, step))
    if experts < layers:
        data["ffn_hidden"] = c.count("intermediate_size_mlp")
    c.read |= {"intermediate_size_mlp", "use_qk_norm"}
    width = c.count("intermediate_size")
    data["moe"] = {
        "experts": c.count("num_local_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": width,
        "shared_hidden": width,
        "layers": experts,
    }
    every, rotary = c.count("no_rope_layer_interval", 4), c.items("no_rope_layers")
    kinds = layer_types(
        c,
        layers,
        lambda layer: (
            "chunked_attention"
            if (rotary[layer] if len(rotary) == layers else (layer + 1) % every)
            else "full_attention"
        ),
        "full_attention",
        "chunked_attention",
    )
    count = kinds.count("chunked_attention")
    if count and c.has("attention_chunk_size"):
        tokens = c.count("attention_chunk_size")
        data["local"] = {"kind": "chunked", "tokens": tokens, "layers": count}
    return data


ARCHITECTURES: Architectures = {
    "llama": _llama,
    "mistral": _llama,
    "ministral": _llama,
    "ministral3": _llama,
    "mixtral": _mixtral,
    "phi3": _llama,
    "llama4": _llama4,
    "llama4_text": _llama4,
}
