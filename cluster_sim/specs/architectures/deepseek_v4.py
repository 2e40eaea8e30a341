"""DeepSeek-V4: attention over entries that stand for several tokens each, beside a window.

Source: deepseek_v4 in transformers; layers that compress 4 tokens overlap and choose by an index.
"""

from __future__ import annotations

from typing import Any

from cluster_sim.specs.architectures.common import Architectures, base, biases
from cluster_sim.specs.config_reader import ConfigReader, Data

INDEXED = 4  # the ratio of the layers whose entries overlap and are chosen by an index
RATIOS = {
    "sliding_attention": 0,
    "compressed_sparse_attention": INDEXED,
    "heavily_compressed_attention": 128,
}


def _deepseek_v4(c: ConfigReader) -> Data:
    c.read |= {"compress_rope_theta", "num_hash_layers", "hc_sinkhorn_iters"}
    c.defaults(num_key_value_heads=1)
    c.must_be("attention_bias", False)
    c.must_be("num_key_value_heads", 1)
    data = base(c, dense=False)
    width = c.count("moe_intermediate_size")
    data["moe"] = {
        "experts": c.count("n_routed_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": width,
        "shared_hidden": c.count("n_shared_experts", 1, least=0) * width,
        "layers": data["layers"],
    }
    data["biases"] = biases(router=True)
    data["residual_streams"] = c.count("hc_mult", 4)
    data["mtp_layers"] = c.count("num_nextn_predict_layers", 0, least=0)
    return data | _kinds(c, data)


def _kinds(c: ConfigReader, data: Data) -> Data:
    """The layers by ratio; those without an index that compress most are the model's own."""
    ratios = _ratios(c, data["layers"])
    shape = {
        "q_rank": c.count("q_lora_rank"),
        "rope_dim": c.count("qk_rope_head_dim", 64),
        "window": c.count("sliding_window"),
        "output_groups": c.count("o_groups"),
        "output_rank": c.count("o_lora_rank"),
    }
    heads, chosen = c.count("index_n_heads"), c.count("index_topk")
    index_dim, found = c.count("index_head_dim"), []
    for ratio in sorted(set(ratios), key=lambda ratio: (ratio == INDEXED, -ratio)):
        indexed, count = ratio == INDEXED, ratios.count(ratio)
        found.append(
            {
                "layers": count,
                "local_layers": count if indexed else 0,
                **{key: data[key] for key in ("heads", "kv_heads", "head_dim")},
                "compressed": {**shape, "ratio": ratio, "overlap": indexed},
            }
        )
    local = {
        "kind": "sparse",
        "tokens": chosen * INDEXED,
        "layers": ratios.count(INDEXED),
        "sinks": True,
        "index_heads": heads,
        "index_dim": index_dim,
    }
    return {
        "compressed": found[0]["compressed"],
        "other_attention": found[1:],
        "local": local if local["layers"] else None,
    }


def _ratios(c: ConfigReader, layers: int) -> list[int]:
    """How many tokens an entry of each layer stands for; behind the layers come those of MTP."""
    listed: list[Any] = c.items("compress_ratios")
    kinds, rates = c.items("layer_types"), c.mapping("compress_rates")
    if not listed and kinds:
        if unknown := set(map(str, kinds)) - set(RATIOS):
            c.wrong("layer_types", f"not known: {', '.join(sorted(unknown))}")
        listed = [rates.get(kind, RATIOS.get(str(kind), 0)) for kind in kinds]
    if not listed:
        c.wrong("compress_ratios", "missing; it says how each layer compresses its context")
    if listed and len(listed) < layers:
        c.wrong("compress_ratios", f"lists {len(listed)} layers of {layers}")
    ratios = listed[:layers]
    if not all(isinstance(ratio, int) and ratio >= 0 for ratio in ratios):
        c.wrong("compress_ratios", "must be whole numbers from 0")
        return [0] * layers
    return ratios or [0] * layers


def _deepseek_ref(c: ConfigReader) -> Data:
    """The name that FP8 files of DeepSeek-V4 have; other models are not told apart by it."""
    if not c.has("compress_ratios"):
        c.wrong("model_type", "'deepseek_ref' is known as DeepSeek-V4 only, with compress_ratios")
    return _deepseek_v4(c)


ARCHITECTURES: Architectures = {"deepseek_v4": _deepseek_v4, "deepseek_ref": _deepseek_ref}
