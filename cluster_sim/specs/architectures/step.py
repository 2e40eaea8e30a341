"""Step 3, Step 3.5 and 3.7: queries through a latent, then windows with heads of their own.

Source: step3_text and step3p5 in vLLM.
"""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases
from cluster_sim.specs.config_reader import ConfigReader, Data

# Keys that say nothing about sizes: rotary embeddings, clipping, routing, names of implementations.
_IDLE = {
    *("attention_dropout", "moe_router_activation", "moe_router_scaling_factor", "need_fp32_gate"),
    *("norm_expert_weight", "partial_rotary_factors", "swiglu_limits", "swiglu_limits_shared"),
    *("use_moe", "use_rope_layers", "yarn_only_types", "max_seq_len", "use_im_start_end"),
    *("moe_dynamic_exp_p", "use_mfa", "sliding_window_pattern", "moe_layer_offset"),
    *("moe_every_n_layer", "zero_centered", "sink", "rope_theta", "use_qk_norm", "scoring_func"),
}


def _names(c: ConfigReader) -> None:
    c.named(
        num_key_value_heads="num_attention_groups",
        num_experts="moe_num_experts",
        num_experts_per_tok="moe_top_k",
        max_position_embeddings=("max_position_embedding", "max_seq_len"),
    )
    c.read |= _IDLE
    c.must_be("att_impl_type", "GQA", "MFA")


def _moe(c: ConfigReader, data: Data) -> Data:
    """Experts in the listed layers, or in all behind the first dense ones."""
    layers, listed = data["layers"], c.data.get("moe_layers_enum")
    c.read |= {"moe_layers_enum", "intermediate_size"}
    first = c.count("first_k_dense_replace", 1, least=0)
    count = layers - first
    if isinstance(listed, str):
        count = sum(int(word) < layers for word in listed.split(",") if word.strip().isdigit())
    elif isinstance(listed, list):
        count = len(listed)
    if count < layers:
        data["ffn_hidden"] = c.count("intermediate_size")
    width = c.count("moe_intermediate_size")
    shared = c.count("n_shared_experts", 1, least=0) * c.count("share_expert_dim", width)
    return {
        "experts": c.count("num_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": width,
        "shared_hidden": shared,
        "layers": max(1, count),
    }


def _step3(c: ConfigReader) -> Data:
    _names(c)
    c.defaults(num_key_value_heads=1)
    data = base(c, dense=False, context=65536)
    data["q_rank"] = c.count("share_q_dim", 0, least=0)
    data["moe"] = _moe(c, data)
    return data


def _step3p5(c: ConfigReader) -> Data:
    _names(c)
    data = base(c, dense=False)
    layers, bias = data["layers"], c.flag("attention_bias", False)
    data["qk_norm"] = True
    data["head_gate"] = c.flag("use_head_wise_attn_gate", False)
    data["moe"] = _moe(c, data)
    data["biases"] = biases(qkv=bias, router=c.flag("use_moe_router_bias", False))
    data["mtp_layers"] = c.count("num_nextn_predict_layers", 0, least=0)
    data["mtp_dense"] = "ffn_hidden" in data and data["ffn_hidden"] is not None
    kinds = [str(kind) for kind in c.items("layer_types")][:layers]  # behind: layers for drafts
    if len(kinds) < layers:
        c.wrong("layer_types", f"lists {len(kinds)} layers of {layers}")
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        c.wrong("layer_types", f"not known: {', '.join(sorted(unknown))}")
    return data | _windows(c, data, kinds.count("sliding_attention"))


def _windows(c: ConfigReader, data: Data, count: int) -> Data:
    """The layers with a window, and their heads where these are others."""
    other = c.inner("attention_other_setting")
    if not count or not c.has("sliding_window"):
        return {}
    other.must_be("attention_type", "sliding_attention")
    window = {
        "layers": count,
        "local_layers": count,
        "heads": other.count("num_attention_heads", data["heads"]),
        "kv_heads": other.count("num_attention_groups", data["kv_heads"]),
        "head_dim": other.count("head_dim", data["head_dim"]),
    }
    local = {"kind": "sliding", "tokens": c.count("sliding_window"), "layers": count}
    alike = all(window[key] == data[key] for key in ("heads", "kv_heads", "head_dim"))
    return {"local": local, "other_attention": [] if alike else [window]}


ARCHITECTURES: Architectures = {
    "step3_text": _step3,
    "step3_vl": _step3,
    "step3p5": _step3p5,
    "step3p7": _step3p5,
}
