"""MiniMax-01 and M1, M2 and M3. Source: minimax, minimax_m2 and minimax_m3_vl in transformers."""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases
from cluster_sim.specs.config_reader import ConfigReader, Data

_IDLE = {"shared_moe_mode", "use_gemma_norm", "moe_intermediate_size", "swiglu_alpha"}


def _minimax(c: ConfigReader) -> Data:
    c.read |= _IDLE
    data = base(c, dense=False)
    c.must_be("attention_bias", False)
    data["qk_norm"] = c.flag("use_qk_norm", False)
    data["biases"] = biases(router=c.flag("use_routing_bias", False))
    data["moe"] = {
        "experts": c.count("num_local_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": c.count("intermediate_size"),
        "shared_hidden": c.count("shared_intermediate_size", 0, least=0),
        "layers": data["layers"],
    }
    return data


def _minimax_01(c: ConfigReader) -> Data:
    """Most layers have lightning attention: a state a head without a convolution, and a gate."""
    c.read |= {key for key in c.data if key.startswith("layernorm_") or key.endswith("_factor")}
    c.read |= {"postnorm", "block_size"}
    c.named(max_position_embeddings="max_model_len")
    data = _minimax(c)
    listed, types = c.items("attn_type_list"), c.items("layer_types")
    whole = listed.count(1) if listed else types.count("full_attention")
    for key, values in (("attn_type_list", listed), ("layer_types", types)):
        if values and len(values) != data["layers"]:
            c.wrong(key, f"lists {len(values)} layers of {data['layers']}")
    if not whole:
        c.wrong("attn_type_list", "names no layer with softmax attention (1)")
    heads, dim = data["heads"], data["head_dim"]
    return data | {
        "linear": {
            "layers": max(1, data["layers"] - whole),
            **{"key_heads": heads, "key_dim": dim, "value_heads": heads, "value_dim": dim},
            "conv": 1,
        }
    }


def _minimax_m2(c: ConfigReader) -> Data:
    data = _minimax(c)
    c.must_be("mtp_transformer_layers", 1)
    if any(kind != 1 for kind in c.items("attn_type_list")):
        c.wrong("attn_type_list", "lightning attention (0) is not supported, only 1")
    modules = c.count("num_mtp_modules", 0, least=0)
    data["mtp_layers"] = modules if c.flag("use_mtp", modules > 0) else 0
    return data


def _minimax_m3(c: ConfigReader) -> Data:
    """Layers choose blocks of keys by an index; the first ones read everything and are dense."""
    c.defaults(use_qk_norm=True, use_routing_bias=True)
    data = _minimax(c)
    layers = data["layers"]
    data["output_gate"] = c.flag("attention_output_gate", False)
    data["moe"]["shared_hidden"] *= c.count("n_shared_experts", 1, least=0)
    with_experts = _where(c, c, "mlp_layer_types", "moe_layer_freq", "sparse", layers)
    data["moe"]["layers"] = max(1, with_experts)
    first = c.count("first_k_dense_replace", layers - with_experts, least=0)
    if first != layers - with_experts:
        c.wrong("first_k_dense_replace", f"{first} is not the {layers - with_experts} dense layers")
    if with_experts < layers:
        data["ffn_hidden"] = c.count("dense_intermediate_size")
    c.read.add("dense_intermediate_size")
    modules = c.count("num_mtp_modules", 0, least=0)
    data["mtp_layers"] = c.count("num_nextn_predict_layers", modules, least=0)
    return data | {"local": _chosen(c, layers)}


def _where(c: ConfigReader, inner: ConfigReader, types: str, flags: str, kind: str, n: int) -> int:
    """How many layers are of a kind: by their types, or by flags of an older config; all if
    neither is there.
    """
    listed, marks = c.items(types), inner.items(flags)
    for key, values in ((types, listed), (flags, marks)):
        if values and len(values) != n:
            c.wrong(key, f"lists {len(values)} layers of {n}")
    if listed:
        return listed.count(kind)
    return sum(map(bool, marks)) if marks else n


def _chosen(c: ConfigReader, layers: int) -> Data | None:
    inner = c.inner("sparse_attention_config")
    names = {
        "index_n_heads": "sparse_num_index_heads",
        "index_head_dim": "sparse_index_dim",
        "index_block_size": "sparse_block_size",
        "index_topk_blocks": "sparse_topk_blocks",
    }
    c.read |= {"index_local_blocks"}
    flags = "sparse_attention_freq"
    if not c.items("layer_types") and not inner.items(flags):
        return None
    count = _where(c, inner, "layer_types", flags, "minimax_m3_sparse", layers)
    values = zip(inner.items(flags), inner.items("sparse_disable_index_value"), strict=False)
    if any(sparse and not without for sparse, without in values):
        inner.wrong("sparse_disable_index_value", "an index with values is not supported, only 1")
    if not inner.flag("use_sparse_attention", True) or not count:
        return None
    found = {
        key: c.count(key) if c.has(key) else inner.count(older) for key, older in names.items()
    }
    return {
        "kind": "sparse",
        "tokens": found["index_topk_blocks"] * found["index_block_size"],
        "layers": count,
        "index_heads": found["index_n_heads"],
        "index_dim": found["index_head_dim"],
    }


ARCHITECTURES: Architectures = {
    "minimax": _minimax_01,
    "minimax_text_01": _minimax_01,
    "minimax_m1": _minimax_01,
    "minimax_m2": _minimax_m2,
    "minimax_m3": _minimax_m3,
    "minimax_m3_vl": _minimax_m3,
    "minimax_m3_vl_text": _minimax_m3,
}
