"""Which layers of a config have a part, where it names them one by one.

Model: each family lists its layers in a way of its own; the first reading counts that gives as many
layers as the dimensions have. Without one the last layers have experts and indices, and the first
ones the other parts. Source: configuration classes of transformers and vLLM (recalled).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cluster_sim.specs.config_reader import Data

LINEAR = ("M", "mamba", "mamba2", "linear_attention", "kda")
ATTENTION = ("*", "attention", "full_attention", "sliding_attention", "chunked_attention")
DENSE, EXPERTS = ("-", "mlp", "dense"), ("E", "moe", "sparse")
_LISTS = ("layers_block_type", "layer_types", "hybrid_override_pattern", "mlp_layer_types")


def layers_of(config: Data, data: Data, part: str) -> list[int]:
    """The layers that have a part, of a model with dimensions ``data``."""
    every, count = list(range(data["layers"])), _count(data, part)
    if part in ("shared", "experts", "router"):
        return _first(_experts(config, every), count) or every[len(every) - count :]
    if part == "linear":
        return _first(_linear(config, every), count) or every[:count]
    if part == "index":
        return every[len(every) - count :]
    if part == "dense":
        others = _without(every, layers_of(config, data, "experts"))
        return _first((*_dense(config), others), count) or every[:count]
    others = _without(every, layers_of(config, data, "linear"))
    return _first((*_attention(config), others, every), count) or every[:count]


def _first(readings: Iterable[list[int]], count: int) -> list[int]:
    """The first reading of so many layers."""
    return next((found for found in readings if len(found) == count), [])


def _count(data: Data, part: str) -> int:
    """How many layers have a part."""
    layers = data["layers"]
    experts = (data.get("moe") or {}).get("layers", 0)
    space = data.get("state_space") or {}
    linear = (data.get("linear") or {}).get("layers", 0) + space.get("layers", 0)
    local = data.get("local") or {}
    mlps = data.get("mlps")
    found = {
        "linear": linear,
        "index": (local.get("index_layers") or local.get("layers", 0)),
        "dense": layers - experts if mlps is None else sum(mlp["layers"] for mlp in mlps),
        "attention": data.get("attention_layers")
        or (layers if space.get("beside_attention") else layers - linear),
    }
    found["output"] = found["attention"]
    return int(found.get(part, experts))


def _without(every: list[int], some: list[int]) -> list[int]:
    gone = set(some)
    return [layer for layer in every if layer not in gone]


def _listed(config: Data, words: tuple[str, ...]) -> Iterator[list[int]]:
    """Layers whose word, or letter, in a list of all layers is one of some."""
    for key in _LISTS:
        kinds = config.get(key)
        if isinstance(kinds, list | str):
            yield [layer for layer, kind in enumerate(kinds) if kind in words]


def _linear(config: Data, every: list[int]) -> Iterator[list[int]]:
    yield from _listed(config, LINEAR)
    kimi = config.get("linear_attn_config")
    if isinstance(kimi, dict) and isinstance(kimi.get("kda_layers"), list):
        yield [layer - 1 for layer in _numbers(kimi["kda_layers"])]
    if isinstance(config.get("attn_layer_indices"), list):
        yield _without(every, _numbers(config["attn_layer_indices"]))
    if "attn_layer_period" in config:
        yield _without(every, _period(config, "attn_layer", every))
    step = _whole(config.get("full_attention_interval"), 4)
    yield [layer for layer in every if (layer + 1) % step]


def _attention(config: Data) -> Iterator[list[int]]:
    yield from _listed(config, ATTENTION)
    yield _blocks(config, "attention")


def _dense(config: Data) -> Iterator[list[int]]:
    yield from _listed(config, DENSE)
    yield _blocks(config, "ffn")


def _experts(config: Data, every: list[int]) -> Iterator[list[int]]:
    yield from _listed(config, EXPERTS)
    for key in ("moe_layers", "moe_layers_enum"):
        listed = config.get(key)
        if isinstance(listed, str):
            listed = [int(word) for word in listed.split(",") if word.strip().isdigit()]
        if isinstance(listed, list):
            yield _numbers(listed)
    if isinstance(config.get("moe_layer_freq"), list):
        yield [layer for layer, kind in enumerate(config["moe_layer_freq"]) if kind]
    if "expert_layer_period" in config:
        yield _period(config, "expert_layer", every)
    if "interleave_moe_layer_step" in config:
        step = _whole(config["interleave_moe_layer_step"], 1)
        yield every[step - 1 :: step]
    dense = config.get("mlp_only_layers")
    step = _whole(config.get("decoder_sparse_step"), 1)
    stepped = every[step - 1 :: step]
    yield _without(stepped, _numbers(dense)) if isinstance(dense, list) else stepped
    first = config.get("first_k_dense_replace", config.get("moe_layer_start_index", 0))
    step = _whole(config.get("moe_layer_freq", config.get("moe_layer_interval")), 1)
    yield [n for n in every if n % step == 0 and n >= (first if isinstance(first, int) else 0)]


def _period(config: Data, key: str, every: list[int]) -> list[int]:
    offset = config.get(f"{key}_offset")
    start = offset if isinstance(offset, int) and offset >= 0 else 0
    return every[start :: _whole(config.get(f"{key}_period"), 1)]


def _blocks(config: Data, name: str) -> list[int]:
    """Layers of a searched model whose part of a name is there."""
    blocks = config.get("block_configs")
    parts = [block.get(name) for block in blocks or () if isinstance(block, dict)]
    return [
        layer
        for layer, part in enumerate(parts)
        if isinstance(part, dict) and not part.get("no_op") and not part.get("replace_with_linear")
    ]


def _numbers(listed: list[Any]) -> list[int]:
    return [layer for layer in listed if isinstance(layer, int)]


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default
