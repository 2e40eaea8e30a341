"""Kimi Linear and Kimi K3: layers of Kimi delta attention beside attention over latents.

Source: kimi_linear and kda in vLLM; the latent experts, gates and attention residuals of K3 in
vllm-ascend.
"""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, biases, moe_after_dense
from cluster_sim.specs.architectures.deepseek import latent_attention, latent_base
from cluster_sim.specs.config_reader import ConfigReader, Data


def _kimi_linear(c: ConfigReader) -> Data:
    c.named(
        max_position_embeddings="model_max_length",
        n_routed_experts="num_experts",
        num_experts_per_tok="num_experts_per_token",
        n_shared_experts="num_shared_experts",
    )
    c.read |= {"moe_renormalize", "moe_router_activation_func", "num_expert_group"}
    c.read |= {"use_grouped_topk", "mla_use_nope", "latent_moe_use_norm"}
    mla = latent_attention(c)
    data = latent_base(c, mla, dense=not c.has("n_routed_experts"))
    data["output_gate"] = c.flag("mla_use_output_gate", False)
    data["residual_kept_every"] = c.count("attn_res_block_size", 0, least=0)
    if c.has("n_routed_experts"):
        latent = c.count("routed_expert_hidden_size", 0, least=0)
        data["moe"] = {**moe_after_dense(c, data), "latent": latent}
        data["biases"] = biases(router=True)
    data["linear"] = _delta(c, data["layers"])
    data["mtp_layers"] = c.count("num_nextn_predict_layers", 0, least=0)
    return data


def _delta(c: ConfigReader, layers: int) -> Data:
    """Kimi delta attention: as many heads of keys as of values, a decay for each element of keys
    through as many elements as a head has, and a gate through as many or through none.
    """
    inner = c.inner("linear_attn_config")
    heads, dim = inner.count("num_heads"), inner.count("head_dim")
    linear, whole = inner.items("kda_layers"), inner.items("full_attn_layers")
    if len(linear) + len(whole) != layers:
        inner.wrong("kda_layers", f"with full_attn_layers not all of the {layers} layers")
    return {
        "layers": max(1, len(linear)),
        "key_heads": heads,
        "key_dim": dim,
        "value_heads": heads,
        "value_dim": dim,
        "conv": inner.count("short_conv_kernel_size"),
        "decay_rank": dim,
        "gate_rank": 0 if inner.flag("use_full_rank_gate", False) else dim,
    }


ARCHITECTURES: Architectures = {"kimi_linear": _kimi_linear, "kimi_k3": _kimi_linear}
