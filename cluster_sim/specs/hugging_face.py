"""A Hugging Face ``config.json`` as the mapping that a model file would hold.

Model: each architecture's function reads the keys that it knows; what is left over and may change
the cost is refused by name. Weights of vision and audio towers are left out. Source: configuration
classes of transformers (recalled) and config.json files of published models.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster_sim.errors import SpecError, nearest
from cluster_sim.specs.config_reader import ConfigReader, Data, json_object, native_dtype

BIASES = ("qkv", "attention_output", "mlp", "router", "norms", "head")


def parse(text: str, shown: str, name: str) -> Data:
    """The mapping of a model file; raises SpecError with every problem of the config."""
    outer = json_object(text, shown)
    inner = outer.get("text_config")
    nested = isinstance(inner, dict)
    config = ConfigReader(outer, shown)
    if isinstance(inner, dict):
        config = ConfigReader(inner, shown, "text_config.")
    kind = config.text("model_type") or (str(outer.get("model_type", "")) if nested else "")
    if kind not in ARCHITECTURES:
        raise SpecError(config.problems or _unknown(shown, kind))
    data = {"title": name, **ARCHITECTURES[kind](config)}
    outer_tie = outer.get("tie_word_embeddings")
    if isinstance(outer_tie, bool) and not config.has("tie_word_embeddings"):
        data["tied_embeddings"] = outer_tie
    scheme = config.mapping("quantization_config") or outer.get("quantization_config")
    data["native_dtype"] = native_dtype(config, scheme)
    config.refuse_left_overs()
    if config.problems:
        raise SpecError(config.problems)
    data["sources"] = {"dimensions": shown}
    return {key: value for key, value in data.items() if value is not None}


def _unknown(shown: str, kind: str) -> str:
    if not kind:
        return f"{shown}: model_type: missing; this is not a Hugging Face config of a model"
    near = nearest(kind, ARCHITECTURES)
    hint = f"; the nearest known are {', '.join(near)}" if near else ""
    known = ", ".join(ARCHITECTURES)
    return f"{shown}: model_type: '{kind}' is not known{hint}. Known: {known}"


def _base(c: ConfigReader, *, tied: bool = False, dense: bool = True) -> Data:
    """What nearly all configs name alike."""
    hidden, heads = c.count("hidden_size"), c.count("num_attention_heads")
    if not c.problems and not c.has("head_dim") and hidden % heads:
        c.wrong("hidden_size", f"{hidden} is no multiple of {heads} heads; head_dim is missing")
    return {
        "layers": c.count("num_hidden_layers"),
        "hidden": hidden,
        "ffn_hidden": c.count("intermediate_size") if dense else None,
        "heads": heads,
        "kv_heads": c.count("num_key_value_heads", heads),
        "head_dim": c.count("head_dim", max(1, hidden // heads)),
        "vocab": c.count("vocab_size"),
        "tied_embeddings": c.flag("tie_word_embeddings", tied),
        "max_context": c.count("max_position_embeddings"),
    }


def _biases(**present: bool) -> list[str]:
    return [name for name in BIASES if present.get(name)]


def _layer_types(
    c: ConfigReader, layers: int, default: Callable[[int], str], *known: str
) -> list[str]:
    """The kind of attention of each layer, as listed or by the architecture's rule."""
    kinds = c.items("layer_types")
    if not kinds:
        return [default(layer) for layer in range(layers)]
    if len(kinds) != layers:
        c.wrong("layer_types", f"lists {len(kinds)} layers of {layers}")
    for kind in dict.fromkeys(map(str, kinds)):
        if kind not in known:
            c.wrong("layer_types", f"'{kind}' is not supported here, only {', '.join(known)}")
    return [str(kind) for kind in kinds]


def _sliding(
    c: ConfigReader, data: Data, window: Callable[[int], bool], *, sinks: bool = False
) -> Data | None:
    """Layers with a sliding window; a window as long as the longest context is none."""
    layers = data["layers"]
    c.read.add("sliding_window")
    kinds = _layer_types(
        c,
        layers,
        lambda layer: "sliding_attention" if window(layer) else "full_attention",
        "full_attention",
        "sliding_attention",
    )
    count = kinds.count("sliding_attention")
    tokens = c.count("sliding_window") if count else 0
    if not count or tokens >= data["max_context"]:
        return None
    return {"kind": "sliding", "tokens": tokens, "layers": min(count, layers), "sinks": sinks}


def _llama(c: ConfigReader) -> Data:
    attention, mlp = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    data = _base(c)
    data["biases"] = _biases(qkv=attention, attention_output=attention, mlp=mlp)
    data["local"] = _sliding(c, data, lambda _: c.has("sliding_window"))
    return data


def _mixtral(c: ConfigReader) -> Data:
    data = _base(c, dense=False)
    data["local"] = _sliding(c, data, lambda _: c.has("sliding_window"))
    data["moe"] = {
        "experts": c.count("num_local_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": c.count("intermediate_size"),
        "layers": data["layers"],
    }
    return data


def _qwen(c: ConfigReader, *, norm: bool, dense: bool = True) -> Data:
    """Qwen2 has biases on queries, keys and values, Qwen3 norms on queries and keys."""
    data = _base(c, dense=dense)
    bias = c.flag("attention_bias", False) if norm else True
    data["qk_norm"] = norm
    data["biases"] = _biases(qkv=bias, attention_output=bias and norm)
    wanted = c.has("sliding_window") and c.flag("use_sliding_window", False)
    c.read.add("use_sliding_window")
    first = c.count("max_window_layers", 28, least=0)  # transformers' default
    data["local"] = _sliding(c, data, lambda layer: wanted and layer >= first)
    return data


def _qwen_moe(c: ConfigReader, data: Data, *, shared: bool) -> Data:
    layers = data["layers"]
    step = c.count("decoder_sparse_step", 1)
    dense = c.items("mlp_only_layers")
    count = sum((layer + 1) % step == 0 and layer not in dense for layer in range(layers))
    width = c.count("shared_expert_intermediate_size", least=0) if shared else 0
    if count < layers:
        data["ffn_hidden"] = c.count("intermediate_size")
    c.read.add("intermediate_size")
    return {
        "experts": c.count("num_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": c.count("moe_intermediate_size"),
        "shared_hidden": width,
        "shared_gate": width > 0,
        "layers": count,
    }


def _qwen2_moe(c: ConfigReader) -> Data:
    data = _qwen(c, norm=False, dense=False)
    data["moe"] = _qwen_moe(c, data, shared=True)
    return data


def _qwen3_moe(c: ConfigReader) -> Data:
    data = _qwen(c, norm=True, dense=False)
    data["moe"] = _qwen_moe(c, data, shared=False)
    return data


def _qwen_linear(c: ConfigReader) -> Data:
    """Qwen3-Next and Qwen3.5: gated-delta layers, every fourth is full attention with a gate."""
    has_experts = c.has("num_experts")
    data = _base(c, dense=not has_experts)
    every = c.count("full_attention_interval", 4)
    kinds = _layer_types(
        c,
        data["layers"],
        lambda layer: "linear_attention" if (layer + 1) % every else "full_attention",
        "full_attention",
        "linear_attention",
    )
    c.must_be("attention_bias", False)
    c.must_be("mtp_use_dedicated_embeddings", False)
    data["qk_norm"] = True
    data["output_gate"] = c.flag("attn_output_gate", True)
    if has_experts:
        data["moe"] = _qwen_moe(c, data, shared=True)
    data["linear"] = {
        "layers": kinds.count("linear_attention"),
        "key_heads": c.count("linear_num_key_heads"),
        "key_dim": c.count("linear_key_head_dim"),
        "value_heads": c.count("linear_num_value_heads"),
        "value_dim": c.count("linear_value_head_dim"),
        "conv": c.count("linear_conv_kernel_dim"),
    }
    data["mtp_layers"] = c.count("mtp_num_hidden_layers", 0, least=0)
    return data


def _moe_after_dense(c: ConfigReader, data: Data) -> Data:
    """DeepSeek's keys for experts: the first layers are dense, then every n-th has experts."""
    layers = data["layers"]
    first = c.count("first_k_dense_replace", 0, least=0)
    every = c.count("moe_layer_freq", 1)
    count = sum(layer >= first and layer % every == 0 for layer in range(layers))
    kinds = c.items("mlp_layer_types")
    if kinds and (set(kinds) - {"dense", "sparse"} or kinds.count("sparse") != count):
        c.wrong("mlp_layer_types", f"does not match the {count} layers with experts of other keys")
    if count < layers:
        data["ffn_hidden"] = c.count("intermediate_size")
    c.read.add("intermediate_size")
    width = c.count("moe_intermediate_size")
    return {
        "experts": c.count("n_routed_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": width,
        "shared_hidden": c.count("n_shared_experts", 0, least=0) * width,
        "layers": count,
    }


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
    data = _base(c, dense=not has_experts)
    data |= {"kv_heads": data["heads"], "head_dim": mla["nope_dim"] + mla["rope_dim"], "mla": mla}
    if has_experts:
        data["moe"] = _moe_after_dense(c, data)
        data["biases"] = _biases(router=router_bias)
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
        _layer_types(c, data["layers"], lambda _: sparse, sparse)
    data["mtp_layers"] = c.count("num_nextn_predict_layers", 0, least=0)
    return data


def _glm4_moe(c: ConfigReader) -> Data:
    data = _base(c, dense=False)
    data["qk_norm"] = c.flag("use_qk_norm", False)
    data["biases"] = _biases(qkv=c.flag("attention_bias", False), router=True)
    data["moe"] = _moe_after_dense(c, data)
    data["mtp_layers"] = c.count("num_nextn_predict_layers", 0, least=0)
    return data


def _gpt_oss(c: ConfigReader) -> Data:
    data = _base(c, dense=False)
    bias = c.flag("attention_bias", True)
    data["biases"] = _biases(qkv=bias, attention_output=bias, mlp=True, router=True)
    data["local"] = _sliding(c, data, lambda layer: layer % 2 == 0, sinks=True)
    c.read.add("experts_per_token")  # the same number under an older name
    data["moe"] = {
        "experts": c.count("num_local_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": c.count("intermediate_size"),
        "layers": data["layers"],
    }
    return data


def _minimax_m2(c: ConfigReader) -> Data:
    data = _base(c, dense=False)
    c.must_be("attention_bias", False)
    c.must_be("mtp_transformer_layers", 1)
    if any(kind != 1 for kind in c.items("attn_type_list")):
        c.wrong("attn_type_list", "lightning attention (0) is not supported, only 1")
    data["qk_norm"] = c.flag("use_qk_norm", False)
    data["biases"] = _biases(router=c.flag("use_routing_bias", False))
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


def _llama4(c: ConfigReader) -> Data:
    """Layers with rotary positions see their chunk, the others everything."""
    data = _base(c, dense=False)
    layers, step = data["layers"], c.count("interleave_moe_layer_step", 1)
    c.must_be("attention_bias", False)
    listed = c.items("moe_layers")
    experts = len(listed) if listed else len(range(step - 1, layers, step))
    if experts < layers:
        data["ffn_hidden"] = c.count("intermediate_size_mlp")
    c.read |= {"intermediate_size_mlp", "use_qk_norm"}
    width = c.count("intermediate_size")
    data["moe"] = {
        "experts": c.count("num_local_experts"),
        "top_k": c.count("num_experts_per_tok"),
        "expert_hidden": width,
        "shared_hidden": width,
        "layers": experts,
    }
    every, rotary = c.count("no_rope_layer_interval", 4), c.items("no_rope_layers")
    kinds = _layer_types(
        c,
        layers,
        lambda layer: (
            "chunked_attention"
            if (rotary[layer] if len(rotary) == layers else (layer + 1) % every)
            else "full_attention"
        ),
        "full_attention",
        "chunked_attention",
    )
    count = kinds.count("chunked_attention")
    if count and c.has("attention_chunk_size"):
        tokens = c.count("attention_chunk_size")
        data["local"] = {"kind": "chunked", "tokens": tokens, "layers": count}
    return data


def _gemma(c: ConfigReader, *, second: bool = False) -> Data:
    data = _base(c, tied=True)
    bias = c.flag("attention_bias", False)
    data["biases"] = _biases(qkv=bias, attention_output=bias)
    if second:
        c.read.add("sliding_window_size")  # the same number under an older name
        data["norms"] = 4
        data["local"] = _sliding(c, data, lambda layer: layer % 2 == 0)
    return data


def _nemotron(c: ConfigReader) -> Data:
    attention, mlp = c.flag("attention_bias", False), c.flag("mlp_bias", False)
    present = {"qkv": attention, "attention_output": attention, "mlp": mlp, "norms": True}
    return _base(c) | {"gated": False, "biases": _biases(**present)}


def _gpt_neox(c: ConfigReader) -> Data:
    bias = c.flag("attention_bias", True)
    data = _base(c) | {"gated": False, "parallel_block": c.flag("use_parallel_residual", True)}
    data["biases"] = _biases(qkv=bias, attention_output=bias, mlp=True, norms=True)
    return data


def _gpt2(c: ConfigReader, *, gpt_j: bool = False) -> Data:
    hidden, heads = c.count("n_embd"), c.count("n_head")
    data = {
        "layers": c.count("n_layer"),
        "hidden": hidden,
        "ffn_hidden": c.count("n_inner", 4 * hidden),
        "gated": False,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": max(1, hidden // heads),
        "vocab": c.count("vocab_size"),
        "tied_embeddings": c.flag("tie_word_embeddings", not gpt_j),
        "max_context": c.count("n_positions"),
    }
    c.read |= {"n_ctx", "activation_function"}
    if gpt_j:
        biases = _biases(mlp=True, norms=True, head=True)
        return data | {"norms": 1, "parallel_block": True, "biases": biases}
    biases = _biases(qkv=True, attention_output=True, mlp=True, norms=True)
    return data | {"learned_positions": data["max_context"], "biases": biases}


def _falcon(c: ConfigReader) -> Data:
    new, parallel = c.flag("new_decoder_architecture", False), c.flag("parallel_attn", True)
    bias, one = c.flag("bias", False), c.flag("multi_query", True)
    data = _base(c, tied=True, dense=False)
    kv_heads = c.count("num_kv_heads", data["heads"])
    norms = c.count("num_ln_in_parallel_attn", 2 if new else 1) if new or parallel else 2
    return data | {
        "ffn_hidden": c.count("ffn_hidden_size", 4 * data["hidden"]),
        "gated": False,
        "kv_heads": kv_heads if new else 1 if one else data["heads"],
        "norms": norms,
        "parallel_block": parallel or new,
        "biases": _biases(qkv=bias, attention_output=bias, mlp=bias, norms=True),
    }


ARCHITECTURES: dict[str, Callable[[ConfigReader], Data]] = {
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _mixtral,
    "phi3": _llama,
    "qwen2": lambda c: _qwen(c, norm=False),
    "qwen2_moe": _qwen2_moe,
    "qwen3": lambda c: _qwen(c, norm=True),
    "qwen3_moe": _qwen3_moe,
    "qwen3_vl_moe_text": _qwen3_moe,
    "qwen3_next": _qwen_linear,
    "qwen3_5": _qwen_linear,
    "qwen3_5_text": _qwen_linear,
    "qwen3_5_moe": _qwen_linear,
    "qwen3_5_moe_text": _qwen_linear,
    "deepseek_v2": lambda c: _deepseek(c, router_bias=False),
    "deepseek_v3": _deepseek,
    "deepseek_v32": lambda c: _deepseek(c, index=True),
    "kimi_k2": _deepseek,
    "glm4_moe": _glm4_moe,
    "glm_moe_dsa": lambda c: _deepseek(c, index=True),
    "gpt_oss": _gpt_oss,
    "minimax_m2": _minimax_m2,
    "llama4": _llama4,
    "llama4_text": _llama4,
    "gemma": _gemma,
    "gemma2": lambda c: _gemma(c, second=True),
    "nemotron": _nemotron,
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
    "gptj": lambda c: _gpt2(c, gpt_j=True),
    "falcon": _falcon,
}
