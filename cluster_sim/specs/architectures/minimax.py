"""MiniMax."""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases
from cluster_sim.specs.config_reader import ConfigReader, Data


def _minimax_m2(c: ConfigReader) -> Data:
    data = base(c, dense=False)
    c.must_be("attention_bias", False)
    c.must_be("mtp_transformer_layers", 1)
    if any(kind != 1 for kind in c.items("attn_type_list")):
        c.wrong("attn_type_list", "lightning attention (0) is not supported, only 1")
    data["qk_norm"] = c.flag("use_qk_norm", False)
    data["biases"] = biases(router=c.flag("use_routing_bias", False))
    data["moe"] = {
        "experts": c.count("num_local_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": c.count("intermediate_size"),
        "shared_hidden": c.count("shared_intermediate_size", 0, least=0),
        "layers": data["layers"],
    }
    c.read.add("shared_moe_mode")
    modules = c.count("num_mtp_modules", 0, least=0)
    data["mtp_layers"] = modules if c.flag("use_mtp", modules > 0) else 0
    return data


ARCHITECTURES: Architectures = {
    "minimax_m2": _minimax_m2,
}
