"""What configs of several families name alike, and how they list kinds of layers."""

from __future__ import annotations

from collections.abc import Callable

from cluster_sim.specs.config_reader import ConfigReader, Data

Architectures = dict[str, Callable[[ConfigReader], Data]]  # by model_type
BIASES = ("qkv", "attention_output", "mlp", "router", "norms", "head")


def base(
    c: ConfigReader,
    *,
    tied: bool = False,
    dense: bool = True,
    context: int | None = None,
    head_dim: int | None = None,
) -> Data:
    """What nearly all configs name alike; ``tied``, ``context`` and ``head_dim`` are what the
    family's configuration class says where a config does not.
    """
    hidden, heads = c.count("hidden_size"), c.count("num_attention_heads")
    if not c.problems and not head_dim and not c.has("head_dim") and hidden % heads:
        c.wrong("hidden_size", f"{hidden} is no multiple of {heads} heads; head_dim is missing")
    return {
        "layers": c.count("num_hidden_layers"),
        "hidden": hidden,
        "ffn_hidden": c.count("intermediate_size") if dense else None,
        "heads": heads,
        "kv_heads": c.count("num_key_value_heads", heads),
        "head_dim": c.count("head_dim", head_dim or max(1, hidden // heads)),
        "vocab": c.count("vocab_size"),
        "tied_embeddings": c.flag("tie_word_embeddings", tied),
        "max_context": c.count("max_position_embeddings", context),
    }


def biases(**present: bool) -> list[str]:
    """The names of those that are present, in their order."""
    return [name for name in BIASES if present.get(name)]


def layer_types(
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


def sliding(
    c: ConfigReader, data: Data, window: Callable[[int], bool], *, sinks: bool = False
) -> Data | None:
    """Layers with a sliding window; a window as long as the longest context is none."""
    layers = data["layers"]
    c.read.add("sliding_window")
    kinds = layer_types(
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


def moe_after_dense(c: ConfigReader, data: Data) -> Data:
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
