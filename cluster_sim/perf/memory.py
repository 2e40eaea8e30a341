"""How much device memory becomes KV blocks, by the rule of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.errors import DoesNotFitError
from cluster_sim.perf.transformer import kv_heads_per_device, weight_bytes_per_device
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, Chip
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

GIB = 2**30


@dataclass(frozen=True, slots=True)
class KvCache:
    """The cache of one replica; bytes are per device, every device of the replica holds its share
    of each block.
    """

    blocks: int
    block_tokens: int
    bytes_per_token: float
    weights_bytes: float
    reserve_bytes: float
    capacity_bytes: float

    @property
    def tokens(self) -> int:
        """Tokens that the cache of a replica holds."""
        return self.blocks * self.block_tokens


def kv_bytes_per_token(model: Model, tp: int, dtype: str) -> float:
    """Bytes of keys and values that one token leaves on one device: 2 layers kv_heads/TP head_dim x
    width.
    """
    heads = kv_heads_per_device(model, tp)
    return float(2 * model.layers * heads * model.head_dim * BYTES_PER_ELEMENT[dtype])


def kv_cache(
    chip: Chip, model: Model, software: Software, tp: int, weights_dtype: str, kv_dtype: str
) -> KvCache:
    """Exact number of KV blocks of one replica.

    Model: reserve = overhead + coefficient x max_num_batched_tokens x hidden / TP bytes;
    ``of_total``: fraction x capacity - weights - reserve; ``of_free``: fraction x (capacity -
    weights - reserve). Whole blocks only. Raises DoesNotFitError when not even one block is left.
    """
    rule = software.memory
    weights = weight_bytes_per_device(model, tp, BYTES_PER_ELEMENT[weights_dtype])
    tokens = software.max_num_batched_tokens
    activations = rule.activation_bytes_per_token_hidden * tokens * model.hidden / tp
    reserve = rule.overhead + activations
    capacity = chip.memory.capacity / chip.devices_per_chip
    if rule.rule == "of_total":
        usable = rule.fraction * capacity
        room = usable - weights - reserve
    else:
        usable = capacity
        room = rule.fraction * (usable - weights - reserve)
    per_token = kv_bytes_per_token(model, tp, kv_dtype)
    blocks = int(room // (per_token * rule.block_tokens))
    if blocks < 1:
        raise DoesNotFitError(
            f"{model.name} does not fit: weights need {weights / GIB:.1f} GiB per {chip.title} at "
            f"tp={tp} in {weights_dtype} and the engine {reserve / GIB:.1f} GiB, "
            f"it may use {usable / GIB:.1f} of {capacity / GIB:.1f} GiB."
        )
    return KvCache(blocks, rule.block_tokens, per_token, weights, reserve, capacity)
