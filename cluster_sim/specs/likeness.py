"""A config of an unknown family: the known one whose keys it has, and a reading as if it were one.

Limits: a likeness counts what keys say. What an unknown family does beyond them is left out, so
its keys that nobody understood are named wherever the model is.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.specs.architectures.common import Architectures
from cluster_sim.specs.config_reader import ConfigReader, Data

# What families call the same number, from config.json files of published models.
_SYNONYMS = (
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    ("hidden_size", "n_embd", "d_model", "dim", "model_dim"),
    ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    (
        *("num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_head_kv", "num_query_groups"),
        *("multi_query_group_num", "num_attention_groups"),
    ),
    ("intermediate_size", "n_inner", "ffn_hidden_size", "d_ff", "ffn_dim", "feed_forward_size"),
    ("vocab_size", "padded_vocab_size", "n_vocab"),
    (
        *("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"),
        *("max_sequence_length", "model_max_length", "max_seq_length"),
    ),
    ("head_dim", "attention_head_dim", "kv_channels", "head_size", "d_head"),
    (
        *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
        *("num_routed_experts", "n_experts"),
    ),
    (
        *("num_experts_per_tok", "moe_topk", "moe_k", "moe_top_k", "num_experts_per_token"),
        *("experts_per_token", "n_experts_per_tok", "router_top_k"),
    ),
    (
        *("moe_intermediate_size", "expert_intermediate_size", "moe_ffn_hidden_size"),
        *("expert_hidden_size", "expert_ffn_hidden_size"),
    ),
    ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts"),
)
_CORE = (0, 1, 2, 5)  # what a config must say itself: layers, hidden size, heads, vocabulary
_EXPERTS = _SYNONYMS[8]
_LATENTS = ("kv_lora_rank",)
_USUAL = "llama"


@dataclass(frozen=True, slots=True)
class Likeness:
    """A config read as one of a family: what it lacks for that, what nobody understood."""

    family: str
    data: Data
    problems: tuple[str, ...]
    left_over: tuple[str, ...]


def read_like(config: ConfigReader, family: str, architectures: Architectures) -> Likeness:
    """A config read as one of a known family, under the usual names of its keys.

    What would be far off is a problem: experts or latents of keys and values that the family has
    not.
    """
    alike = ConfigReader(_under_all_names(config.data), config.shown, config.prefix)
    data = architectures[family](alike)
    for keys, part, words in ((_EXPERTS, "moe", "experts"), (_LATENTS, "mla", "latents")):
        key = next((key for key in keys if _many(config.data.get(key))), None)
        if key is not None and not data.get(part):
            alike.wrong(key, f"says {words}, which '{family}' has not; choose a family that has")
    for names in _SYNONYMS:
        if alike.read.intersection(names):
            alike.read.update(names)
    left = [key for key in alike.left_overs() if config.data.get(key) is not None]
    return Likeness(family, data, tuple(alike.problems), tuple(left))


def nearest_family(config: ConfigReader, architectures: Architectures) -> Likeness:
    """The known family that a config can be read as with the fewest keys left over, the earlier of
    equals; Llama with what is missing where it can be read as none.
    """
    found = [read_like(config, family, architectures) for family in architectures]
    whole = [like for like in found if not like.problems]
    stated = all(any(config.has(name) for name in _SYNONYMS[group]) for group in _CORE)
    if not whole or not stated:
        return read_like(config, _USUAL, architectures)
    return min(whole, key=lambda like: len(like.left_over))


def _many(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, int) and value > 1)


def _under_all_names(data: Data) -> Data:
    """The mapping with each number under all names of it that are absent."""
    filled = dict(data)
    for names in _SYNONYMS:
        value = next((data[name] for name in names if data.get(name) is not None), None)
        if value is not None:
            filled |= {name: value for name in names if data.get(name) is None}
    return filled
