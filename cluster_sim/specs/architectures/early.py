"""Families under keys of their own from before Llama's became usual: OPT, BLOOM, MPT, StarCoder,
Qwen's first, InternLM's first, DBRX.

Source: configuration classes of transformers and of the models' repositories (recalled); their
defaults stand for absent keys.
"""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases
from cluster_sim.specs.config_reader import ConfigReader, Data

_EVERY = biases(qkv=True, attention_output=True, mlp=True, norms=True)


def _opt(c: ConfigReader) -> Data:
    """Positions are learned, two more than the longest context has."""
    c.named(intermediate_size="ffn_dim")
    c.must_be("do_layer_norm_before", True)
    data = base(c, tied=True, context=2048)
    c.must_be("word_embed_proj_dim", data["hidden"])
    c.must_be("enable_bias", True)
    c.read |= {"layerdrop", "layer_norm_elementwise_affine"}
    return data | {
        "gated": False,
        "learned_positions": data["max_context"] + 2,
        "biases": _EVERY,
    }


def _bloom(c: ConfigReader) -> Data:
    c.named(
        num_hidden_layers="n_layer",
        num_attention_heads="n_head",
        hidden_size="n_embed",
        max_position_embeddings="seq_length",
    )
    c.read |= {"offset_alibi", "slow_but_exact", "skip_bias_add", "skip_bias_add_qkv"}
    c.read |= {"apply_residual_connection_post_layernorm", "masked_softmax_fusion"}
    c.read |= {"attention_softmax_in_fp32", "bias_dropout_fusion", "unk_token_id"}
    c.imply("intermediate_size", 4 * c.count("hidden_size"))
    data = base(c, tied=True, context=2048)
    return data | {"gated": False, "biases": _EVERY}


def _shape_of_mosaic(c: ConfigReader) -> None:
    """The names of MPT and DBRX."""
    c.named(
        num_hidden_layers="n_layers",
        num_attention_heads="n_heads",
        hidden_size="d_model",
        max_position_embeddings="max_seq_len",
    )
    heads = c.inner("attn_config").count("kv_n_heads", 0, least=0)
    if heads:
        c.imply("num_key_value_heads", heads)


def _mpt(c: ConfigReader) -> Data:
    _shape_of_mosaic(c)
    c.imply("intermediate_size", c.count("expansion_ratio", 4) * c.count("hidden_size"))
    c.read |= {"learned_pos_emb", "init_config", "emb_pdrop", "embedding_fraction"}
    bare = c.flag("no_bias", True)
    data = base(c, tied=True, context=2048)
    return data | {"gated": False, "biases": [] if bare else _EVERY}


def _dbrx(c: ConfigReader) -> Data:
    _shape_of_mosaic(c)
    experts = c.inner("ffn_config")
    data = base(c, dense=False, context=2048)
    return data | {
        "moe": {
            "experts": experts.count("moe_num_experts", 4),
            "top_k": experts.count("moe_top_k", 1),
            "expert_hidden": experts.count("ffn_hidden_size", 3584),
            "layers": data["layers"],
        }
    }


def _starcoder(c: ConfigReader) -> Data:
    """GPT-2 with one head of keys and values."""
    c.named(
        num_hidden_layers="n_layer",
        num_attention_heads="n_head",
        hidden_size="n_embd",
        intermediate_size="n_inner",
        max_position_embeddings="n_positions",
    )
    if not c.has("intermediate_size"):
        c.imply("intermediate_size", 4 * c.count("hidden_size"))
    data = base(c, tied=True, context=1024)
    c.read |= {"inference_runner", "max_batch_size", "max_sequence_length", "pre_allocate_kv_cache"}
    c.read |= {"validate_runner_input", "activation_function", "attention_softmax_in_fp32"}
    c.read |= {"scale_attention_softmax_in_fp32", "summary_proj_to_labels"}
    return data | {
        "gated": False,
        "kv_heads": 1 if c.flag("multi_query", True) else data["heads"],
        "learned_positions": data["max_context"],
        "biases": _EVERY,
    }


def _qwen(c: ConfigReader) -> Data:
    """Qwen's first: the key of the MLP is twice its width."""
    c.named(max_position_embeddings="seq_length", head_dim="kv_channels")
    data = base(c, context=8192)
    c.must_be("no_bias", True)
    c.read |= {"use_dynamic_ntk", "use_logn_attn", "use_flash_attn", "use_cache_kernel"}
    c.read |= {"use_cache_quantization", "softmax_in_fp32", "emb_dropout_prob", "attn_dropout_prob"}
    return data | {"ffn_hidden": max(1, data["ffn_hidden"] // 2), "biases": biases(qkv=True)}


def _internlm(c: ConfigReader) -> Data:
    bias = c.flag("bias", True)
    c.read.add("rotary")
    data = base(c, context=2048)
    return data | {"biases": biases(qkv=bias, attention_output=bias)}


ARCHITECTURES: Architectures = {
    "opt": _opt,
    "bloom": _bloom,
    "mpt": _mpt,
    "dbrx": _dbrx,
    "gpt_bigcode": _starcoder,
    "qwen": _qwen,
    "internlm": _internlm,
}
