"""DeepSeek up to V3.2 and what is built like it: Kimi-K2, GLM-4.5 and GLM-5."""

from __future__ import annotations

from cluster_sim.specs.architectures.common import (
    Architectures,
    base,
    biases,
    layer_types,
    moe_after_dense,
)
from cluster_sim.specs.config_reader import ConfigReader, Data


def latent_attention(c: ConfigReader) -> Data:
    """Dimensions of attention over latents, in DeepSeek's keys."""
    c.read |= {"head_dim", "qk_head_dim"}
    return {
        "q_rank": c.count("q_lora_rank", 0, least=0),
        "kv_rank": c.count("kv_lora_rank"),
        "nope_dim": c.count("qk_nope_head_dim"),
        "rope_dim": c.count("qk_rope_head_dim"),
        "v_dim": c.count("v_head_dim"),
    }


def latent_base(c: ConfigReader, mla: Data, *, dense: bool) -> Data:
    """What nearly all configs name alike, of a model with attention over latents."""
    head_dim = mla["nope_dim"] + mla["rope_dim"]
    data = base(c, dense=dense, head_dim=head_dim)
    return data | {"kv_heads": data["heads"], "head_dim": head_dim, "mla": mla}


def _deepseek(c: ConfigReader, *, router_bias: bool = True, index: bool = False) -> Data:
    mla = latent_attention(c)
    c.named(n_routed_experts="num_experts")
    has_experts = c.has("n_routed_experts")
    c.must_be("attention_bias", False)
    data = latent_base(c, mla, dense=not has_experts)
    if has_experts:
        data["moe"] = moe_after_dense(c, data)
        data["biases"] = biases(router=router_bias)
    if index:
        data["local"] = {
            "kind": "sparse",
            "tokens": c.count("index_topk"),
            "layers": data["layers"],
            "index_heads": c.count("index_n_heads"),
            "index_dim": c.count("index_head_dim"),
        }
        indexed = _indexed(c, data["layers"])
        if indexed < data["layers"]:
            data["local"]["index_layers"] = indexed
        sparse = "deepseek_sparse_attention"
        layer_types(c, data["layers"], lambda _: sparse, sparse)
    data["mtp_layers"] = c.count("num_nextn_predict_layers", 0, least=0)
    return data


def _indexed(c: ConfigReader, layers: int) -> int:
    """Layers with an index of their own; the others take the choice of one before.

    Listed, or a pattern of F and S (shared), or every ``index_topk_freq``-th from the layer before
    ``index_skip_topk_offset`` on and all up to there. Source: glm_moe_dsa in transformers.
    """
    c.read |= {"index_share_for_mtp_iteration"}
    listed, pattern = c.items("indexer_types"), c.data.get("index_topk_pattern")
    c.read.add("index_topk_pattern")
    every, offset = c.count("index_topk_freq", 1), c.count("index_skip_topk_offset", 2, least=0)
    if listed:
        if set(listed) - {"full", "shared"} or len(listed) != layers:
            c.wrong("indexer_types", f"must name each of the {layers} layers full or shared")
        return listed.count("full") or 1
    if isinstance(pattern, str | list):
        return max(1, len(pattern) - list(pattern).count("S"))
    return sum(max(layer - offset + 1, 0) % every == 0 for layer in range(layers))


def _glm4_moe(c: ConfigReader) -> Data:
    data = base(c, dense=False)
    data["qk_norm"] = c.flag("use_qk_norm", False)
    data["biases"] = biases(qkv=c.flag("attention_bias", False), router=True)
    data["moe"] = moe_after_dense(c, data)
    data["mtp_layers"] = c.count("num_nextn_predict_layers", 0, least=0)
    return data


ARCHITECTURES: Architectures = {
    "deepseek_v2": lambda c: _deepseek(c, router_bias=False),
    "deepseek_v3": _deepseek,
    "deepseek_v32": lambda c: _deepseek(c, index=True),
    "kimi_k2": _deepseek,
    "kimi_k25": _deepseek,
    "glm4_moe": _glm4_moe,
    "glm4_moe_lite": _deepseek,
    "glm_moe_dsa": lambda c: _deepseek(c, index=True),
}
