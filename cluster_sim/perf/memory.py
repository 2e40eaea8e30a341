"""Does it fit, and how many KV blocks are left: the memory rules of the engines."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import (
    kv_bytes_per_token,
    layer_gemms,
    recurrent_state_bytes,
    stage_share,
    state_bytes,
)
from cluster_sim.perf.checkpoint import loaded_bytes_per_device
from cluster_sim.perf.drafts import with_mtp_layers
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, Chip
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Reserve, Software

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Where the bytes of one device go, whether an engine starts with them or not.

    ``capacity`` is what a process sees, ``usable`` the part that the engine fills with weights,
    cache and ``counted`` (what it takes besides, as far as its rule counts that before the cache:
    the ``base`` of every process, and more); ``room`` is left for the cache, below 0 where the rest
    is too much already. ``outside`` has to find place in what is not usable. ``batches``: the
    micro-batches of a pipeline, each of which has its part of the cache; tokens are those of one.
    """

    capacity: float
    usable: float
    weights: float
    base: float
    counted: float
    outside: float
    room: float
    bytes_per_token: float
    state_bytes: float
    block_tokens: int
    batches: int = 1

    @property
    def block_bytes(self) -> float:
        """Bytes of a block."""
        return self.bytes_per_token * self.block_tokens

    @property
    def blocks(self) -> int:
        """Whole blocks that the room holds."""
        return max(0, int(self.room // self.block_bytes))

    @property
    def state_blocks(self) -> int:
        """Blocks that a sequence keeps whatever its length."""
        return math.ceil(self.state_bytes / self.block_bytes)

    @property
    def tokens(self) -> int:
        """Tokens of one sequence after another that the room holds."""
        return self.blocks * self.block_tokens

    def shifted(self, bytes_: float) -> DeviceMemory:
        """The same with so many bytes more (or fewer) of room."""
        return replace(self, room=self.room + bytes_)

    @property
    def longest(self) -> int:
        """The longest single sequence that the room holds, that of all micro-batches together."""
        return max(0, self.blocks - self.state_blocks) * self.block_tokens * self.batches


def device_memory(
    chip: Chip, model: Model, software: Software, layout: Layout, recipe: Recipe
) -> DeviceMemory:
    """Weights, what the engine takes and what it leaves, on the device that decides.

    Model: see MemoryRule and Overhead. The micro-batches of a pipeline share the cache of their
    stages in equal parts. Drafts take the weights and the cache of their MTP layers, and a state of
    linear attention or Mamba each (vLLM, recalled).
    """
    rule, visible = software.memory, chip.visible_memory
    drafts = software.draft_tokens
    weights = loaded_bytes_per_device(model, layout, recipe, drafts)
    model = with_mtp_layers(model, drafts)
    weights += _padding_bytes(model, software, layout, recipe)
    base, work = _base_bytes(software, layout), _work_bytes(model, software, layout)
    graphs = graph_bytes(model, software, layout)
    fraction, counted, outside = rule.fraction or 1.0, base + work, graphs
    if rule.rule == "of_free":
        usable = visible - (1 - fraction) * max(0.0, visible - weights - counted)
    elif rule.reserve is None:
        usable = fraction * visible
    else:
        if rule.fraction is None:
            kept = reserve_bytes(rule.reserve, software, layout, chip.device_memory)
            fraction = 1 - kept / chip.device_memory
        counted, outside = base, work + graphs
        usable = fraction * (visible - base) + base
    # A device of a pipeline holds a part of the layers of pp micro-batches; in equal stages both
    # factors cancel.
    held = stage_share(model, layout) * layout.pp
    state = state_bytes(model, layout.tp, recipe.kv)
    return DeviceMemory(
        capacity=visible,
        usable=usable,
        weights=weights,
        base=base,
        counted=counted,
        outside=outside,
        room=usable - weights - counted,
        bytes_per_token=held * kv_bytes_per_token(model, layout.tp, recipe.kv),
        state_bytes=held * (state + drafts * recurrent_state_bytes(model, layout.tp)),
        block_tokens=rule.block_tokens,
        batches=layout.pp,
    )


def reserve_bytes(kept: Reserve, software: Software, layout: Layout, capacity: float) -> float:
    """What rule ``reserved`` keeps free of weights and cache where no fraction is set."""
    tokens, devices = software.max_num_batched_tokens, layout.tp * layout.pp
    wanted = kept.base + kept.per_batched_token * tokens + kept.per_device * devices + kept.graphs
    return max(wanted, kept.minimum) if capacity > kept.minimum_above else wanted


def graph_bytes(model: Model, software: Software, layout: Layout) -> float:
    """Captured graphs of the decode batches: so many bytes for each layer and size."""
    sizes = sum(size <= software.max_num_seqs for size in software.cuda_graph_sizes)
    return software.memory.overhead.graphs * sizes * model.layers * stage_share(model, layout)


def _base_bytes(software: Software, layout: Layout) -> float:
    """What is taken before the first weight is loaded, whatever the batch."""
    taken = software.memory.overhead
    return taken.context + (taken.peers if layout.devices > 1 else 0.0)


def _work_bytes(model: Model, software: Software, layout: Layout) -> float:
    """Activations of the profile run and workspaces of experts.

    Model: residual and normed state of all tokens, and the larger of what the widest layer makes of
    them and of the logits of all sequences.
    """
    taken = software.memory.overhead
    tokens, sequences = software.max_num_batched_tokens, software.max_num_seqs
    held, widest = 2 * model.hidden * tokens, tokens * _token_elements(model, layout)
    experts = 0.0
    if model.moe is not None:
        experts = taken.experts
        all_tokens = tokens * layout.attn_dp
        more = 2 * model.hidden * (all_tokens - tokens)
        rows = min(all_tokens, taken.expert_tokens) * _row_elements(model, layout)
        widest = max(widest, more + rows)
    sampling = taken.sampling * min(sequences, tokens) * model.vocab
    return taken.forward * held + max(taken.forward * widest, sampling) + experts


def _token_elements(model: Model, layout: Layout) -> float:
    """Elements that a token has on a device in its widest layer but those with experts: the outputs
    of the products of attention, or gate, up and activation of the MLP.
    """
    gemms = layer_gemms(model, layout)
    attention = sum(gemm.n for gemm in gemms if gemm.part == "attention")
    halves = 2 if model.gated else 1
    widest = max((g.n for g in gemms if g.part in ("dense", "shared")), default=0)
    return max(float(attention), widest * (halves + 1) / halves)


def _row_elements(model: Model, layout: Layout) -> float:
    """Elements that a token has in the kernels of its ``top_k`` experts: the inputs of the
    activation share their place with the outputs of the second product.
    """
    assert model.moe is not None
    width = model.moe.expert_hidden / layout.expert_slices
    return model.moe.top_k * (max((2 if model.gated else 1) * width, model.expert_input) + width)


def _padding_bytes(model: Model, software: Software, layout: Layout, recipe: Recipe) -> float:
    """What experts grow by where their kernel wants multiples of a width."""
    stored = "mxfp4" if recipe.weight_only else recipe.experts
    padding = software.memory.padding.get(stored)  # type: ignore[call-overload]
    if model.moe is None or padding is None:
        return 0.0
    moe, width = model.moe, -(-model.moe.expert_hidden // layout.expert_slices)
    padded = _up(model.expert_input, padding.hidden) * _up(width, padding.width)
    more = (padded - model.expert_input * width) * (3 if model.gated else 2)
    held = moe.layers * (moe.experts // layout.ep) * stage_share(model, layout)
    return held * more * BYTES_PER_ELEMENT[stored]


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
