"""What attention costs on a device: per unit of a prompt, and per layer of a decode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cluster_sim.kernels.counts import head_dims, read_share
from cluster_sim.kernels.curves import attention_curves, kind_curves, mla_curves
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import ACTIVATION_BYTES, cached_bytes, kv_heads_per_device
from cluster_sim.specs.chip import weakest
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Attention, LocalAttention, Model


@dataclass(frozen=True, slots=True)
class PromptAttention:
    """Seconds per unit of prompt attention, in layers that see everything and in local ones (of a
    window or chunk ``local``); a pair that sparse attention chose costs ``chosen_factor`` units, a
    token in windows that are beside the rest ``token_s`` seconds; contexts of ``half_length`` run
    at half the speed of long ones.
    """

    all_s: float
    local_s: float
    token_s: float
    chosen_factor: float
    half_length: float
    floor_s: float
    provenance: str
    local: LocalAttention | None = None

    def seconds(self, start: int, end: int) -> float:
        """Seconds, without floors, when a sequence's computed tokens go from ``start`` to ``end``.

        Model: (end^2 - start^2) (1 + half_length / end) causal pairs, slower while the context is
        short; in layers with local attention only the pairs inside window or chunk, at the speed of
        a context of that length and never slower than all pairs. Windows beside compressed entries
        cost each token the same.
        """
        pairs = (end * end - start * start) * (1 + self.half_length / end)
        windows_s = self.token_s * (end - start)
        if self.local is None:
            return self.all_s * pairs + windows_s
        seen = min(end, self.local.tokens)
        factor = self.chosen_factor
        near = local_pairs(self.local, end, factor) - local_pairs(self.local, start, factor)
        near_pairs = min(pairs, near * (1 + self.half_length / seen))
        return self.all_s * pairs + self.local_s * near_pairs + windows_s

    def times(self, factor: float) -> PromptAttention:
        """The same so many times as slow, floors aside."""
        return replace(
            self,
            all_s=self.all_s * factor,
            local_s=self.local_s * factor,
            token_s=self.token_s * factor,
        )


def local_pairs(local: LocalAttention, length: int, factor: float = 1.0) -> float:
    """Twice the causal pairs of a prompt of ``length`` tokens that local attention computes, those
    beyond the first ``local.tokens`` tokens of sparse attention times a factor.
    """
    window = local.tokens
    if local.kind == "chunked":
        whole, rest = divmod(length, window)
        return whole * window * window + rest * rest
    if length <= window:
        return length * length
    beyond = 2 * window * (length - window)
    return window * window + (beyond * factor if local.kind == "sparse" else beyond)


def prompt_attention(
    machine: TopologyInput, model: Model, layout: Layout, recipe: Recipe
) -> PromptAttention:
    """Causal prompt attention: FLOP / (bf16 peak u_c) a unit of end^2 - start^2, and the floor.

    FLOP of a prompt of S tokens: heads (key dim + value dim) S^2, the causal half of scores and
    values. Sparse layers compute the chosen tokens, and their index all of them. Chosen latents are
    not expanded, since each query has others: 2 kv_rank + rope_dim instead of the expanded
    dimensions a head (FlashMLA, recalled). Compressed entries are one for ``ratio`` tokens, beside
    a window that each token reads whole.
    """
    all_s = local_s = token_s = floor_s = 0.0
    for kind in model.kinds:
        curve, _ = kind_curves(machine, kind, recipe.kv)
        rate = machine.chip.device_peak("bf16") * curve.compute
        flop, local = _pair_flop(kind, layout), kind.local_layers
        all_s += ((kind.layers - local) * flop + _index_flop(model, kind)) / rate
        local_s += local * flop / rate
        floor_s += kind.layers * curve.floor
        if kind.compressed is not None:
            heads = kind.heads // layout.tp
            pairs = 2 * heads * head_dims(kind, absorbed=True) * kind.compressed.window
            token_s += kind.layers * pairs / rate
    own, _ = kind_curves(machine, model.kinds[0], recipe.kv)
    return PromptAttention(
        all_s=all_s,
        local_s=local_s,
        token_s=token_s,
        chosen_factor=_chosen_factor(model),
        half_length=float(own.half_length),
        floor_s=floor_s,
        provenance=provenance(
            model, (kind_curves(machine, kind, recipe.kv)[0].provenance for kind in model.kinds)
        ),
        local=model.local,
    )


def recurrent_s(machine: TopologyInput, flop: float, kv_dtype: str) -> float:
    """Seconds of so many FLOP of layers with a state instead of a cache: those of linear attention
    in its chunked form, and of Mamba.

    Model: at the rate of prompt attention. Limits: assumed, no timings of such kernels.
    """
    prompt, _ = attention_curves(machine, kv_dtype)
    return flop / (machine.chip.device_peak("bf16") * prompt.compute)


def _pair_flop(kind: Attention, layout: Layout) -> float:
    """Half the FLOP of a query and a token of context on one device, in one layer."""
    return kind.heads // layout.tp * head_dims(kind, absorbed=False) * read_share(kind)


def _index_flop(model: Model, kind: Attention) -> float:
    """Half the FLOP of the index of a query and a token of context, in all layers of a kind; every
    device computes the whole index.
    """
    local = model.local
    if local is None or kind != model.indexed:
        return 0
    return local.indexed_layers * local.index_heads * local.index_dim * read_share(kind)


def _chosen_factor(model: Model) -> float:
    """What a chosen pair of sparse attention costs beside one of a context that is read whole."""
    kind = model.indexed or model.kinds[0]
    return head_dims(kind, absorbed=True) / head_dims(kind, absorbed=False)


def provenance(model: Model, curves: Iterable[str]) -> str:
    """The weakest of the curves' provenances; ``assumed`` where kernels have no timings."""
    return "assumed" if untimed(model) else weakest(curves)


def untimed(model: Model) -> str:
    """The attention that is priced by bytes and FLOP on the nearest curve, in words; empty if none.

    Compressed entries take the curves over latents; an index over keys that are no latents, and
    what it chooses, those of attention over all of them.
    """
    if any(kind.compressed is not None for kind in model.kinds):
        return "attention over compressed entries"
    if model.indexed is not None and model.indexed.mla is None:
        return "attention over chosen blocks of keys"
    return ""


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """Decode attention of one layer of a kind: seconds of its launch, of each sequence, of each
    entry that it reads; bytes/s of its reads.
    """

    floor_s: float
    sequence_s: float
    token_s: float
    bytes_per_s: float
    provenance: str


def decode_attention(
    machine: TopologyInput, kind: Attention, layout: Layout, recipe: Recipe, queries: int = 1
) -> DecodeAttention:
    """Decode attention: floor + (queries and outputs + cache bytes) / (bandwidth u_m) a layer, plus
    the curve's ``row`` for each sequence and KV head; over latents queries at a rate of their own.

    A token of context costs the larger of its bytes and its FLOP: 2 (key dim + value dim) a head at
    the rate of prompt attention, which binds where many queries share a KV head; over latents 2 (2
    kv_rank + rope_dim) a head. Several ``queries`` of a sequence read its cache together.
    Compressed attention reads a window of entries besides, with each sequence.
    """
    heads = kind.heads // layout.tp
    layer_bytes = cached_bytes(kind, layout.tp, recipe.kv)
    reach = head_dims(kind, absorbed=True)
    moved = heads * reach * ACTIVATION_BYTES * queries
    if kind.latent:
        _, grouped = mla_curves(machine, recipe.kv)
        word, floor, share = grouped.provenance, grouped.floor, grouped.memory
        rate = machine.chip.device_peak("bf16") * grouped.compute
        query_s = moved / (machine.chip.device_bandwidth * (grouped.queries or share))
    else:
        prompt, stream = attention_curves(machine, recipe.kv)
        word, floor, share = stream.provenance, stream.floor, stream.memory
        rate = machine.chip.device_peak("bf16") * prompt.compute
        query_s = moved / (machine.chip.device_bandwidth * share)
        query_s += kv_heads_per_device(kind, layout.tp) * stream.row
    token_s = max(
        layer_bytes / (machine.chip.device_bandwidth * share),
        2 * heads * reach * queries / rate,
    )
    if kind.compressed is not None:
        query_s += kind.compressed.window * token_s
    bandwidth = machine.chip.device_bandwidth * share
    return DecodeAttention(floor, query_s, token_s, bandwidth, word)
