"""Hybrids of attention and Mamba or short convolutions in layers with an MLP each: Jamba, Bamba,
Granite 4.0 H, Falcon H1, LFM2.

Source: configuration and modeling classes of transformers, whose defaults stand for absent keys.
States are kept in the dtype of activations unless a config says otherwise (vLLM's mamba_utils).
"""

from __future__ import annotations

from cluster_sim.specs.architectures.common import Architectures, base, biases
from cluster_sim.specs.config_reader import ConfigReader, Data

_STATE_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16", "auto": "bf16"}


def state_dtype(c: ConfigReader, default: str) -> str:
    """The dtype that states are kept in."""
    word = c.text("mamba_ssm_cache_dtype") or default
    if word not in _STATE_DTYPES:
        c.wrong("mamba_ssm_cache_dtype", f"'{word}' is not known, only {', '.join(_STATE_DTYPES)}")
    return _STATE_DTYPES.get(word, "bf16")


def _jamba(c: ConfigReader) -> Data:
    """Mamba-1, attention every eighth layer, experts every other."""
    data = base(c, context=262144)
    layers, hidden = data["layers"], data["hidden"]
    attention = _every(c, layers, "attn_layer", (8, 4))
    c.must_be("sliding_window", None)
    c.read |= {"use_mamba_kernels", "layers_block_type"}
    experts = c.count("num_experts", 16)
    sparse = _every(c, layers, "expert_layer", (2, 1))
    data["state_space"] = {
        "kind": "mamba1",
        "layers": layers - attention,
        "inner": c.count("mamba_expand", 2) * hidden,
        "state": c.count("mamba_d_state", 16),
        "conv": c.count("mamba_d_conv", 4),
        "dt_rank": c.count_or_auto("mamba_dt_rank", -(-hidden // 16)),
        "inner_norms": c.flag("mamba_inner_layernorms", True),
        "conv_bias": c.flag("mamba_conv_bias", True),
        "projection_bias": c.flag("mamba_proj_bias", False),
        "state_dtype": state_dtype(c, "auto"),
    }
    c.read.add("num_experts_per_tok")
    if sparse and experts > 1:
        data["moe"] = {
            "experts": experts,
            "top_k": c.count("num_experts_per_tok", 2),
            "expert_hidden": data["ffn_hidden"],
            "layers": sparse,
        }
    return data


def _every(c: ConfigReader, layers: int, key: str, default: tuple[int, int]) -> int:
    """How many layers a period and an offset name."""
    period = c.count(f"{key}_period", default[0])
    offset = c.count(f"{key}_offset", default[1], least=0)
    if offset >= period:
        c.wrong(f"{key}_offset", f"{offset} must be below the period {period}")
    return len(range(offset, layers, period))


def _mamba2(c: ConfigReader, layers: int, inner: int, *, state: int, gated_norm: bool) -> Data:
    """Mamba-2 as Bamba and its relatives name it."""
    heads = c.count("mamba_n_heads", 128)
    width = c.count_or_auto("mamba_d_head", max(1, inner // heads))
    if heads * width != inner and not c.problems:
        c.wrong("mamba_d_head", f"{heads} heads of {width} are not the inner width of {inner}")
    c.read |= {"mamba_chunk_size", "mamba_expand", "use_mamba_kernels"}
    return {
        "kind": "mamba2",
        "layers": layers,
        "inner": inner,
        "heads": heads,
        "groups": c.count("mamba_n_groups", 1),
        "state": c.count("mamba_d_state", state),
        "conv": c.count("mamba_d_conv", 4),
        "gated_norm": gated_norm,
        "conv_bias": c.flag("mamba_conv_bias", True),
        "projection_bias": c.flag("mamba_proj_bias", False),
        "state_dtype": state_dtype(c, "auto"),
    }


def _bamba(c: ConfigReader) -> Data:
    data = base(c, context=262144)
    c.must_be("attention_bias", False)
    c.must_be("mlp_bias", False)
    c.read |= {"attn_rotary_emb", "layers_block_type"}
    attention = len(c.items("attn_layer_indices"))
    inner = c.count("mamba_expand", 2) * data["hidden"]
    data["state_space"] = _mamba2(c, data["layers"] - attention, inner, state=256, gated_norm=True)
    return data


def _granite_hybrid(c: ConfigReader) -> Data:
    """A mixer and a shared MLP in every layer, experts beside it unless there are none."""
    data = base(c, dense=False, context=2048)
    layers, bias = data["layers"], c.flag("attention_bias", False)
    data["biases"] = biases(qkv=bias, attention_output=bias)
    kinds = c.items("layer_types") or c.items("layers_block_type") or ["mamba"] * layers
    attention = kinds.count("attention")
    if len(kinds) != layers or attention + kinds.count("mamba") != layers:
        c.wrong("layer_types", f"must list mamba or attention for each of the {layers} layers")
    c.read |= {"layers_block_type", "intermediate_size", "num_experts_per_tok"}
    c.read |= {"attention_multiplier", "embedding_multiplier"}
    shared, experts = c.count("shared_intermediate_size", 1024), c.count("num_local_experts", 8, 0)
    if experts:
        data["moe"] = {
            "experts": experts,
            "top_k": c.count("num_experts_per_tok", 2),
            "expert_hidden": c.count("intermediate_size"),
            "shared_hidden": shared,
            "layers": layers,
        }
    else:
        data["ffn_hidden"] = shared
    inner = c.count("mamba_expand", 2) * data["hidden"]
    mamba = _mamba2(c, layers - attention, inner, state=256, gated_norm=True)
    data["state_space"] = mamba if attention < layers else None
    return data


def _falcon_h1(c: ConfigReader) -> Data:
    """Attention and Mamba-2 side by side in every layer."""
    data = base(c, context=8192)
    qkv, mlp = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    data["biases"] = biases(qkv=qkv, attention_output=qkv, mlp=mlp)
    c.must_be("projectors_bias", False)
    expanded = c.count("mamba_expand", 2) * data["hidden"]
    norm = c.flag("mamba_rms_norm", False)
    c.read |= {"mamba_norm_before_gate", "mamba_use_mlp", "attn_layer_indices"}
    c.read.add("mlp_expansion_factor")  # intermediate_size says the width
    c.read |= {key for key in c.data if key.endswith(("_multiplier", "_multipliers"))}
    data["state_space"] = _mamba2(
        c, data["layers"], c.count("mamba_d_ssm", expanded), state=256, gated_norm=norm
    )
    data["state_space"]["beside_attention"] = True
    return data


def _lfm2(c: ConfigReader, *, experts: bool) -> Data:
    """Attention in some layers, a short convolution between gates in the others."""
    c.named(intermediate_size="block_ff_dim", tie_word_embeddings="tie_embedding")
    data = base(c, tied=True, context=128000)
    layers = data["layers"]
    listed = c.items("full_attn_idxs")
    kinds = c.items("layer_types") or [
        "full_attention" if not listed or layer in listed else "conv" for layer in range(layers)
    ]
    attention = kinds.count("full_attention")
    if len(kinds) != layers or attention + kinds.count("conv") != layers:
        c.wrong("layer_types", f"must list conv or full_attention for each of the {layers} layers")
    c.read |= {"conv_dim", "conv_dim_out", "conv_use_xavier_init", "block_dim", "num_heads"}
    c.read |= {"block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_swiglu"}
    c.read |= {"block_use_xavier_init", "block_ff_dim"}
    bias = c.flag("conv_bias", False)
    conv = {
        "kind": "short_conv",
        "layers": layers - attention,
        "inner": data["hidden"],
        "state": 0,
        "conv": c.count("conv_L_cache", 3),
        "conv_bias": bias,
        "projection_bias": bias,
    }
    data |= {"qk_norm": True, "state_space": conv if attention < layers else None}
    if not experts:
        return data | {"ffn_hidden": _adjusted(c, data["ffn_hidden"])}
    dense = min(c.count("num_dense_layers", 2, least=0), layers)
    data["biases"] = biases(router=c.flag("use_expert_bias", True))
    data["moe"] = {
        "experts": c.count("num_experts", 32),
        "top_k": c.count("num_experts_per_tok", 4),
        "expert_hidden": c.count("moe_intermediate_size", 1792),
        "layers": max(1, layers - dense),
    }
    return data


def _adjusted(c: ConfigReader, width: int) -> int:
    """2/3 of the width times a factor, rounded up to a multiple, unless a config says not to."""
    multiple = c.count("block_multiple_of", 256)
    c.must_be("block_ffn_dim_multiplier", 1.0)
    if not c.flag("block_auto_adjust_ff_dim", True):
        return width
    return -(-int(2 * width / 3) // multiple) * multiple


ARCHITECTURES: Architectures = {
    "jamba": _jamba,
    "bamba": _bamba,
    "granitemoehybrid": _granite_hybrid,
    "falcon_h1": _falcon_h1,
    "lfm2": lambda c: _lfm2(c, experts=False),
    "lfm2_moe": lambda c: _lfm2(c, experts=True),
}
