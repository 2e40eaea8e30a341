"""Gemma to Gemma 4. Source: gemma3 and gemma4 in transformers, whose defaults stand for absent keys
of the last two.
"""

from __future__ import annotations

from cluster_sim.specs.architectures.common import (
    Architectures,
    base,
    biases,
    layer_types,
    sliding,
)
from cluster_sim.specs.config_reader import ConfigReader, Data

FULL, SLIDING = "full_attention", "sliding_attention"
_GEMMA_3 = {
    **{"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216},
    **{"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4},
    **{"head_dim": 256, "max_position_embeddings": 131072, "sliding_window": 4096},
}
_GEMMA_4 = {
    **_GEMMA_3,
    **{"vocab_size": 262144, "num_hidden_layers": 30, "sliding_window": 512},
    **{"global_head_dim": 512, "hidden_size_per_layer_input": 256},
}


def _gemma(c: ConfigReader, *, second: bool = False) -> Data:
    data = base(c, tied=True)
    bias = c.flag("attention_bias", False)
    data["biases"] = biases(qkv=bias, attention_output=bias)
    if second:
        c.read.add("sliding_window_size")  # the same number under an older name
        data["norms"] = 4
        data["local"] = sliding(c, data, lambda layer: layer % 2 == 0)
    return data


def _gemma3(c: ConfigReader) -> Data:
    c.defaults(**_GEMMA_3)
    c.read |= {"rope_local_base_freq", "use_bidirectional_attention", "cache_implementation"}
    data = base(c, tied=True)
    every, bias = c.count("sliding_window_pattern", 6), c.flag("attention_bias", False)
    data["biases"] = biases(qkv=bias, attention_output=bias)
    data |= {"norms": 4, "qk_norm": True}
    data["local"] = sliding(c, data, lambda layer: (layer + 1) % every > 0)
    return data


def _gemma4(c: ConfigReader) -> Data:
    c.defaults(**_GEMMA_4)
    c.read |= {"use_bidirectional_attention", "expert_intermediate_size"}
    data = base(c, tied=True, dense=False)
    layers, bias = data["layers"], c.flag("attention_bias", False)
    experts, width = c.flag("enable_moe_block", False), c.count("intermediate_size")
    embedding = c.count("hidden_size_per_layer_input", least=0)
    if embedding:
        c.must_be("vocab_size_per_layer_input", data["vocab"])
    c.read |= {"vocab_size_per_layer_input", "num_experts", "top_k_experts"}
    c.read.add("moe_intermediate_size")
    if experts:
        data["moe"] = {
            "experts": c.count("num_experts"),
            "top_k": c.count("top_k_experts"),
            "expert_hidden": c.count("moe_intermediate_size"),
            "shared_hidden": width,  # the dense MLP runs beside the experts
            "layers": layers,
        }
    shared = c.count("num_kv_shared_layers", 0, least=0)
    wide = c.flag("use_double_wide_mlp", False)
    if not experts and wide and 0 < shared < layers:
        data["mlps"] = [
            {"hidden": width, "layers": layers - shared},
            {"hidden": 2 * width, "layers": shared},
        ]
    elif not experts:
        data["ffn_hidden"] = width
    norms = 4 + (3 if experts else 0) + (1 if embedding else 0)
    data |= {"norms": norms, "qk_norm": True, "layer_embedding": embedding}
    data["biases"] = biases(qkv=bias, attention_output=bias)
    return data | _kinds(c, data, shared)


def _kinds(c: ConfigReader, data: Data, shared: int) -> Data:
    """Layers that see everything have heads of their own and may take keys for values; the last
    ``shared`` layers read the keys and values of the last one before of their type.
    """
    layers = data["layers"]
    types = layer_types(c, layers, lambda at: SLIDING if (at + 1) % 6 else FULL, FULL, SLIDING)
    same = c.flag("attention_k_eq_v", False)
    wide, tokens = c.count("global_head_dim"), c.count("sliding_window")
    kv_heads = c.count("num_global_key_value_heads", data["kv_heads"]) if same else data["kv_heads"]
    c.read.add("num_global_key_value_heads")
    whole = {"heads": data["heads"], "kv_heads": kv_heads, "head_dim": wide}
    near = {key: data[key] for key in ("heads", "kv_heads", "head_dim")}
    if types and types[-1] != FULL:
        types[-1] = FULL  # as transformers does
    own = types[: max(0, layers - shared)]
    if FULL not in own or (SLIDING in types and SLIDING not in own):
        c.wrong("num_kv_shared_layers", f"{shared} leaves no layer of a type to read from")
    local = types.count(SLIDING) if tokens < data["max_context"] else 0
    found = []
    for kind, cache, count in (
        (FULL, False, types.count(FULL) - own.count(FULL)),
        (SLIDING, True, own.count(SLIDING)),
        (SLIDING, False, types.count(SLIDING) - own.count(SLIDING)),
    ):
        if not count:
            continue
        seen = {"local_layers": count if local and kind == SLIDING else 0}
        shape = near if kind == SLIDING else {**whole, "value_projection": not same}
        found.append({"layers": count, "cache": cache, **seen, **shape})
    windows = {"kind": "sliding", "tokens": tokens, "layers": local}
    return {
        **whole,
        "value_projection": not same,
        "other_attention": found,
        "local": windows if local else None,
    }


ARCHITECTURES: Architectures = {
    "gemma": _gemma,
    "gemma2": lambda c: _gemma(c, second=True),
    "gemma3": _gemma3,
    "gemma3_text": _gemma3,
    "gemma4": _gemma4,
    "gemma4_text": _gemma4,
}
