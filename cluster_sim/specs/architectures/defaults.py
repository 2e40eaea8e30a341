"""Keys that the config of a decoder inside another leaves out have the values of its class in
transformers: such configs are saved as what differs from it.

Source: configuration classes of transformers (models/llama, mistral, qwen2, qwen3, qwen2_vl,
qwen3_vl, cohere2), as at version 4.57.
"""

from __future__ import annotations

from cluster_sim.specs.config_reader import ConfigReader

_SHAPES = {  # vocabulary, hidden size, MLP, layers, heads, heads of keys and values, context
    "llama": (32000, 4096, 11008, 32, 32, 32, 2048),
    "mistral": (32000, 4096, 14336, 32, 32, 8, 131072),
    "qwen2": (151936, 4096, 22016, 32, 32, 32, 32768),
    "qwen3": (151936, 4096, 22016, 32, 32, 32, 32768),
    "qwen2_vl_text": (152064, 8192, 29568, 80, 64, 8, 32768),
    "qwen2_5_vl_text": (152064, 8192, 29568, 80, 64, 8, 32768),
    "qwen3_vl_text": (151936, 4096, 22016, 32, 32, 32, 128000),
    "cohere2": (256000, 8192, 22528, 40, 64, 64, 8192),
}
_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
)
_MORE: dict[str, dict[str, int]] = {
    "mistral": {"sliding_window": 4096},
    "qwen3": {"head_dim": 128},
    "qwen3_vl_text": {"head_dim": 128},
}


def fill_in(c: ConfigReader, kind: str) -> list[str]:
    """Take absent keys of a decoder inside another for those of its class; what to note of it."""
    if kind not in _SHAPES:
        return []
    values = dict(zip(_KEYS, _SHAPES[kind], strict=True)) | _MORE.get(kind, {})
    absent = [key for key in values if key not in c.data]
    for key in absent:
        c.imply(key, values[key])
    if not absent:
        return []
    said = ", ".join(f"{key} {values[key]}" for key in absent)
    return [f"{c.prefix.rstrip('.')} leaves out {said}: those of the class of {kind} count"]
