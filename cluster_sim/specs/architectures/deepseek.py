"""DeepSeek and what is built like it: Kimi-K2, GLM-4.5 and GLM-5."""

from __future__ import annotations

from cluster_sim.specs.architectures.common import (
    Architectures,
    base,
    biases,
    layer_types,
    moe_after_dense,
)
from cluster_sim.specs.config_reader import ConfigReader, Data


def _deepseek(c: ConfigReader, *, router_bias: bool = True, index: bool = False) -> Data:
    c.read |= {"head_dim", "qk_head_dim"}
    mla = {
        "q_rank": c.count("q_lora_rank", 0, least=0),
        "kv_rank": c.count("kv_lora_rank"),
        "nope_dim": c.count("qk_nope_head_dim"),
        "rope_dim": c.count("qk_rope_head_dim"),
        "v_dim": c.count("v_head_dim"),
    }
    has_experts = c.has("n_routed_experts")
    c.must_be("attention_bias", False)
    data = base(c, dense=not has_experts)
    data |= {"kv_heads": data["heads"], "head_dim": mla["nope_dim"] + mla["rope_dim"], "mla": mla}
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
        if any(kind != "full" for kind in c.items("indexer_types")):
            c.wrong("indexer_types", "layers that share an index are not supported, only 'full'")
        sparse = "deepseek_sparse_attention"
        layer_types(c, data["layers"], lambda _: sparse, sparse)
    data["mtp_layers"] = c.count("num_nextn_predict_layers", 0, least=0)
    return data


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
    "glm4_moe": _glm4_moe,
    "glm_moe_dsa": lambda c: _deepseek(c, index=True),
}
