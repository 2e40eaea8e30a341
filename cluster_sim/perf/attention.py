"""What attention costs on a device: per unit of a prompt, and per layer of a decode."""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.perf.layout import Layout, Recipe
from cluster_sim.perf.operators import attention_curves, mla_curves
from cluster_sim.perf.transformer import (
    ACTIVATION_BYTES,
    kv_elements_per_layer,
    kv_heads_per_device,
)
from cluster_sim.specs.chip import BYTES_PER_ELEMENT
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model


@dataclass(frozen=True, slots=True)
class PromptAttention:
    """Seconds per unit of prompt attention, in layers that see everything and in local ones; a pair
    that sparse attention chose costs ``chosen_factor`` units.
    """

    all_s: float
    local_s: float
    chosen_factor: float
    half_length: float
    floor_s: float
    provenance: str


def prompt_attention(
    machine: TopologyInput, model: Model, layout: Layout, recipe: Recipe
) -> PromptAttention:
    """Causal prompt attention: FLOP / (bf16 peak u_c) a unit of end^2 - start^2, and the floor.

    FLOP of a prompt of S tokens: heads (key dim + value dim) S^2, the causal half of scores and
    values. Sparse layers compute the chosen tokens, and their index all of them. Chosen latents are
    not expanded, since each query has others: 2 kv_rank + rope_dim instead of the expanded
    dimensions a head (FlashMLA, recalled).
    """
    heads, dims, factor = model.heads // layout.tp, 2 * model.head_dim, 1.0
    if model.mla is not None:
        dims = model.mla.nope_dim + model.mla.rope_dim + model.mla.v_dim
        factor = (2 * model.mla.kv_rank + model.mla.rope_dim) / dims
        curve, _ = mla_curves(machine, recipe.kv)
    else:
        curve, _ = attention_curves(machine, recipe.kv)
    rate = machine.chip.device_peak("bf16") * curve.compute
    flop, local = heads * dims, model.local_layers
    index = 0
    if model.local is not None and model.local.kind == "sparse":
        index = local * model.local.index_heads * model.local.index_dim
    return PromptAttention(
        all_s=((model.cached_layers - local) * flop + index) / rate,
        local_s=local * flop / rate,
        chosen_factor=factor,
        half_length=float(curve.half_length),
        floor_s=model.cached_layers * curve.floor,
        provenance=curve.provenance,
    )


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """Decode attention of one layer: seconds of its launch, of each sequence, of each token of
    context; bytes/s of its reads.
    """

    floor_s: float
    sequence_s: float
    token_s: float
    bytes_per_s: float
    provenance: str


def decode_attention(
    machine: TopologyInput, model: Model, layout: Layout, recipe: Recipe, queries: int = 1
) -> DecodeAttention:
    """Decode attention: floor + (queries and outputs + cache bytes) / (bandwidth u_m) a layer, plus
    the curve's ``row`` for each sequence and KV head; over latents queries at a rate of their own.

    A token of context costs the larger of its bytes and its FLOP: 4 head_dim a head at the rate of
    prompt attention, which binds where many queries share a KV head; over latents 2 (2 kv_rank +
    rope_dim) a head. Several ``queries`` of a sequence read its cache together.
    """
    heads = model.heads // layout.tp
    width = BYTES_PER_ELEMENT[recipe.kv]
    layer_bytes = kv_elements_per_layer(model, layout.tp) * width
    if model.mla is not None:
        _, grouped = mla_curves(machine, recipe.kv)
        provenance, floor, share = grouped.provenance, grouped.floor, grouped.memory
        reach = 2 * model.mla.kv_rank + model.mla.rope_dim
        rate = machine.chip.device_peak("bf16") * grouped.compute
        token_s = max(
            layer_bytes / (machine.chip.device_bandwidth * share),
            2 * heads * reach * queries / rate,
        )
        moved = heads * reach * ACTIVATION_BYTES * queries
        query_s = moved / (machine.chip.device_bandwidth * (grouped.queries or share))
    else:
        prompt, stream = attention_curves(machine, recipe.kv)
        provenance, floor, share = stream.provenance, stream.floor, stream.memory
        rate = machine.chip.device_peak("bf16") * prompt.compute
        token_s = max(
            layer_bytes / (machine.chip.device_bandwidth * share),
            4 * heads * model.head_dim * queries / rate,
        )
        moved = 2 * heads * model.head_dim * ACTIVATION_BYTES * queries
        query_s = moved / (machine.chip.device_bandwidth * share)
        query_s += kv_heads_per_device(model, layout.tp) * stream.row
    bandwidth = machine.chip.device_bandwidth * share
    return DecodeAttention(floor, query_s, token_s, bandwidth, provenance)
