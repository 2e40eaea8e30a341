"""Dense families near to Llama: OLMo 2 and 3, Seed-OSS, GLM-4, Command R, Ernie 4.5, SmolLM3,
EXAONE, InternLM, Baichuan, StarCoder2, Phi, Granite, Arcee, MiniCPM and StableLM.

Source: configuration and modeling classes of transformers or of the model's own repository
(InternLM, Baichuan, ChatGLM, EXAONE 3; recalled); their defaults stand for absent keys.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster_sim.specs.architectures.common import Architectures, base, biases, sliding
from cluster_sim.specs.config_reader import ConfigReader, Data


def _olmo(c: ConfigReader, *, windows: bool) -> Data:
    """Norms behind attention and MLP instead of before them, and over queries and keys (here over
    a head; the model's span all heads).
    """
    data = base(c, context=2048)
    bias = c.flag("attention_bias", False)
    data |= {"qk_norm": True, "biases": biases(qkv=bias, attention_output=bias)}
    if windows:
        data["local"] = sliding(c, data, lambda layer: (layer + 1) % 4 != 0)
    return data


def _seed_oss(c: ConfigReader) -> Data:
    data = base(c, context=524288, head_dim=128)
    data["biases"] = biases(
        qkv=c.flag("attention_bias", True),
        attention_output=c.flag("attention_out_bias", False),
        mlp=c.flag("mlp_bias", False),
    )
    return data


def _glm(c: ConfigReader, *, norms: int) -> Data:
    data = base(c, context=131072, head_dim=128)
    return data | {"norms": norms, "biases": biases(qkv=c.flag("attention_bias", True))}


def _chatglm(c: ConfigReader) -> Data:
    """ChatGLM2, ChatGLM3 and GLM-4-9B under their older keys."""
    c.named(
        num_hidden_layers="num_layers",
        intermediate_size="ffn_hidden_size",
        head_dim="kv_channels",
        vocab_size="padded_vocab_size",
        max_position_embeddings="seq_length",
    )
    data = base(c)
    groups = c.count("multi_query_group_num", 1)
    c.must_be("apply_residual_connection_post_layernorm", False)
    c.must_be("rmsnorm", True)
    c.must_be("post_layer_norm", True)
    c.must_be("pre_seq_len", None)
    c.read |= {"prefix_projection", "attention_softmax_in_fp32", "apply_query_key_layer_scaling"}
    bias = c.flag("add_bias_linear", False)
    qkv = c.flag("add_qkv_bias", False) or bias
    return data | {
        "kv_heads": groups if c.flag("multi_query_attention", False) else data["heads"],
        "biases": biases(qkv=qkv, attention_output=bias, mlp=bias),
    }


def _cohere(c: ConfigReader, *, windows: bool) -> Data:
    """Attention and MLP side by side behind one norm; the LM head is the embedding."""
    data = base(c, tied=True, context=8192)
    bias = c.flag("attention_bias", False)
    data |= {
        "norms": 1,
        "parallel_block": True,
        "qk_norm": c.flag("use_qk_norm", False),
        "biases": biases(qkv=bias, attention_output=bias),
    }
    c.must_be("use_parallel_block", True)
    c.must_be("use_gated_activation", True)
    c.read |= {"layer_switch", "use_parallel_embedding", "use_embedding_sharing", "max_seq_len"}
    if windows:
        every = c.count("sliding_window_pattern", 4)
        c.read |= {"order_of_interleaved_layers", "cache_implementation", "rope_parameters"}
        if "sliding_window" not in c.data:
            c.imply("sliding_window", 4096)
        data["local"] = sliding(c, data, lambda layer: (layer + 1) % every != 0)
    return data


def _ernie(c: ConfigReader) -> Data:
    data = base(c, tied=True, context=131072, head_dim=128)
    bias = c.flag("use_bias", False)
    c.read |= {"compression_ratio", "fuse_rms_norm", "weight_share_add_bias"}
    return data | {"biases": biases(qkv=bias, attention_output=bias, mlp=bias)}


def _smollm3(c: ConfigReader) -> Data:
    data = base(c, tied=True, context=32768)
    bias = c.flag("attention_bias", False)
    data["biases"] = biases(qkv=bias, attention_output=bias, mlp=c.flag("mlp_bias", False))
    wanted = c.flag("use_sliding_window", False)
    c.read |= {"max_window_layers", "no_rope_layers", "no_rope_layer_interval", "layer_types"}
    data["local"] = sliding(c, data, lambda _: True) if wanted else None
    return data


def _exaone(c: ConfigReader) -> Data:
    """EXAONE 3 under its own names."""
    c.named(num_hidden_layers="num_layers")
    return base(c, context=2048)


def exaone4(c: ConfigReader, *, dense: bool = True) -> Data:
    """Norms behind attention and MLP and over queries and keys; windows by a pattern."""
    data = base(c, dense=dense, context=2048)
    pattern = c.data.get("sliding_window_pattern", 4)
    c.read.add("sliding_window_pattern")
    wanted = c.has("sliding_window")
    if isinstance(pattern, str) and pattern and not set(pattern) - {"L", "G"}:
        last = data["layers"] - 1

        def window(layer: int) -> bool:
            return wanted and layer != last and pattern[layer % len(pattern)] == "L"
    else:
        every = c.count("sliding_window_pattern", 4, least=0) if wanted else 0

        def window(layer: int) -> bool:
            return every > 0 and (layer + 1) % every != 0

    data |= {"qk_norm": True, "local": sliding(c, data, window) if wanted else None}
    c.read |= {"sliding_window", "layer_types"}
    return data


def _internlm(c: ConfigReader, qkv: str) -> Data:
    bias = c.flag("bias", False)
    data = base(c, context=32768)
    c.read |= {"attn_implementation", "pretraining_tp"}
    return data | {
        "biases": biases(
            qkv=c.flag(qkv, bias), attention_output=bias, mlp=bias and qkv == "qkv_bias"
        )
    }


def _baichuan(c: ConfigReader) -> Data:
    c.named(max_position_embeddings="model_max_length")
    c.read.add("gradient_checkpointing")
    return base(c)


def _starcoder2(c: ConfigReader) -> Data:
    data = base(c, tied=True, context=4096)
    bias = c.flag("use_bias", True)
    c.must_be("mlp_type", "default")
    c.must_be("norm_type", "layer_norm")
    data |= {
        "gated": False,
        "biases": biases(qkv=bias, attention_output=bias, mlp=bias, norms=True),
        "local": sliding(c, data, lambda _: c.has("sliding_window")),
    }
    return data


def _phi(c: ConfigReader) -> Data:
    """Phi-1 and Phi-2: attention and MLP side by side behind one norm, biases everywhere."""
    every = biases(qkv=True, attention_output=True, mlp=True, norms=True, head=True)
    data = base(c, context=2048)
    return data | {
        "gated": False,
        "norms": 1,
        "parallel_block": True,
        "qk_norm": c.flag("qk_layernorm", False),
        "biases": every,
    }


def _granite(c: ConfigReader) -> Data:
    c.read |= {"attention_multiplier", "embedding_multiplier"}
    attention, mlp = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    data = base(c, context=2048)
    return data | {"biases": biases(qkv=attention, attention_output=attention, mlp=mlp)}


def _arcee(c: ConfigReader) -> Data:
    return _granite(c) | {"gated": False}


def _apertus(c: ConfigReader) -> Data:
    return _granite(c) | {"gated": False, "qk_norm": True}


def _minicpm3(c: ConfigReader) -> Data:
    """Latents of keys and values; values as wide as the hidden size over the heads."""
    c.read |= {"scale_emb", "dim_model_base", "scale_depth", "head_dim", "qk_head_dim"}
    c.read.add("num_key_value_heads")
    data = base(c, context=2048)
    mla = {
        "q_rank": c.count("q_lora_rank", 0, least=0),
        "kv_rank": c.count("kv_lora_rank"),
        "nope_dim": c.count("qk_nope_head_dim"),
        "rope_dim": c.count("qk_rope_head_dim"),
        "v_dim": c.count("v_head_dim", max(1, data["hidden"] // data["heads"])),
    }
    key_dim = mla["nope_dim"] + mla["rope_dim"]
    c.must_be("attention_bias", False)
    return data | {"kv_heads": data["heads"], "head_dim": key_dim, "mla": mla}


def _minicpm(c: ConfigReader) -> Data:
    c.read |= {"scale_emb", "dim_model_base", "scale_depth", "mup_denominator"}
    c.must_be("sparse_config", None)
    return _granite(c)


def _stablelm(c: ConfigReader) -> Data:
    parallel = c.flag("use_parallel_residual", False)
    data = base(c, context=4096)
    return data | {
        "parallel_block": parallel,
        "norms": 1 if parallel else 2,
        "qk_norm": c.flag("qk_layernorm", False),
        "biases": biases(qkv=c.flag("use_qkv_bias", False), norms=True),
    }


def _with(reader: Callable[..., Data], **given: object) -> Callable[[ConfigReader], Data]:
    return lambda c: reader(c, **given)


ARCHITECTURES: Architectures = {
    "olmo2": _with(_olmo, windows=False),
    "olmo3": _with(_olmo, windows=True),
    "seed_oss": _seed_oss,
    "glm": _with(_glm, norms=2),
    "glm4": _with(_glm, norms=4),
    "glm4v": _with(_glm, norms=4),
    "glm4v_text": _with(_glm, norms=4),
    "chatglm": _chatglm,
    "cohere": _with(_cohere, windows=False),
    "cohere2": _with(_cohere, windows=True),
    "ernie4_5": _ernie,
    "smollm3": _smollm3,
    "exaone": _exaone,
    "exaone4": exaone4,
    "exaone4_5_text": exaone4,
    "internlm2": _with(_internlm, qkv="bias"),
    "internlm3": _with(_internlm, qkv="qkv_bias"),
    "baichuan": _baichuan,
    "starcoder2": _starcoder2,
    "phi": _phi,
    "granite": _granite,
    "arcee": _arcee,
    "apertus": _apertus,
    "minicpm": _minicpm,
    "minicpm3": _minicpm3,
    "stablelm": _stablelm,
}
