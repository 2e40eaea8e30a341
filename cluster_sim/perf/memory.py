"""Does it fit, and how many KV blocks are left: the memory rules of the engines."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster_sim.errors import DoesNotFitError
from cluster_sim.perf.checkpoint import loaded_bytes_per_device
from cluster_sim.perf.drafts import with_mtp_layers
from cluster_sim.perf.layout import Layout, Recipe
from cluster_sim.perf.transformer import (
    kv_bytes_per_token,
    recurrent_state_bytes,
    stage_share,
    state_bytes,
)
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

GIB = 2**30


@dataclass(frozen=True, slots=True)
class KvCache:
    """The cache of one rank: blocks of ``block_tokens`` tokens; ``state_blocks`` of them are taken
    by what a sequence keeps whatever its length. The bytes are those of one device.
    """

    blocks: int
    block_tokens: int
    bytes_per_token: float
    weights_bytes: float
    reserve_bytes: float
    capacity_bytes: float
    state_blocks: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that the cache of one rank holds."""
        return self.blocks * self.block_tokens


def kv_cache(
    chip: Chip, model: Model, software: Software, layout: Layout, recipe: Recipe
) -> KvCache:
    """Blocks left after weights and reserve by the engine's rule, on the device that decides.

    Model: see MemoryRule; memory as software reports it. The micro-batches of a pipeline share the
    cache of their stages in equal parts. Drafts take the weights and the cache of their MTP layers,
    and a state of linear attention or Mamba each (vLLM, recalled). Raises DoesNotFitError when
    weights and reserve leave nothing: needed, available and what would help.
    """
    rule, capacity = software.memory, chip.device_memory
    drafts = software.draft_tokens
    weights = loaded_bytes_per_device(model, layout, recipe, drafts)
    model = with_mtp_layers(model, drafts)
    reserve = _reserve_bytes(model, software, layout, capacity)
    usable, share = capacity, 1.0
    if rule.rule == "of_free":
        share = rule.fraction or 1.0
    elif rule.fraction is not None:
        usable = rule.fraction * capacity
    room = share * (usable - weights - reserve)
    # A device of a pipeline holds a part of the layers of pp micro-batches; in equal stages both
    # factors cancel.
    held = stage_share(model, layout) * layout.pp
    per_token = held * kv_bytes_per_token(model, layout.tp, recipe.kv)
    state = state_bytes(model, layout.tp, recipe.kv)
    state = held * (state + drafts * recurrent_state_bytes(model, layout.tp))
    per_block = per_token * rule.block_tokens
    blocks = int(room // per_block)
    state_blocks = math.ceil(state / per_block)
    if blocks < 1 + state_blocks:
        raise DoesNotFitError(
            f"{model.name} does not fit: weights need {weights / GIB:.1f} GiB per {chip.title} at "
            f"{_degrees(layout)} in {recipe.name} and the engine {reserve / GIB:.1f} GiB, "
            f"it may use {usable / GIB:.1f} of {capacity / GIB:.1f} GiB."
        )
    return KvCache(blocks, rule.block_tokens, per_token, weights, reserve, capacity, state_blocks)


def _reserve_bytes(model: Model, software: Software, layout: Layout, capacity: float) -> float:
    """What a device keeps free of weights and cache.

    A fraction given to rule ``reserved`` stands for its reserve. Activations of a TP degree between
    two powers of two are those of the lower one.
    """
    rule, tokens = software.memory, software.max_num_batched_tokens
    if rule.activations is not None:
        table = rule.activations.moe if model.moe is not None else rule.activations.dense
        step = min(layout.tp.bit_length(), len(table)) - 1
        return rule.overhead + table[step] * tokens * model.hidden
    if rule.reserve is None or rule.fraction is not None:
        return rule.overhead
    kept, devices = rule.reserve, layout.tp * layout.pp
    wanted = kept.base + kept.per_batched_token * tokens + kept.per_device * devices + kept.graphs
    return max(wanted, kept.minimum) if capacity > kept.minimum_above else wanted


def _degrees(layout: Layout) -> str:
    named = (("tp", layout.tp), ("pp", layout.pp), ("ep", layout.ep), ("attn_dp", layout.attn_dp))
    return ", ".join(f"{name}={degree}" for name, degree in named if degree > 1 or name == "tp")
