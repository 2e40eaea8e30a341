"""What an engine step costs: tables over integers, compiled once per model, plan and chip.

The formula of a step is ``StepPrice.step_s``; how the tables come about is ``compile_step_price``
and ``perf.transformer``. At run time there is only look-up, addition and multiplication, so that
pricing one step and pricing a stretch of steps give the same floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.perf.collectives import all_reduce_provenance, all_reduce_s
from cluster_sim.perf.memory import kv_bytes_per_token
from cluster_sim.perf.operators import attention_curves, gemm_s, worst_provenance
from cluster_sim.perf.transformer import glue_bytes, layer_gemms, lm_head
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

FloatArray = NDArray[np.float64]
ACTIVATION_BYTES = 2  # activations travel between kernels in bf16


@dataclass(frozen=True, slots=True)
class Family:
    """Seconds of one operator family, as tables and slopes over what a step consists of.

    ``tokens_s`` by tokens in the step, ``sequences_s`` by sequences in the batch, ``decodes_s`` by
    decoding sequences (None: nothing); ``context_s`` per token of context that decode attention
    reads, ``prefill_floor_s`` once per step with a prompt, ``prefill_work_s`` per unit of prompt
    attention. All over all layers.
    """

    name: str
    provenance: str
    tokens_s: FloatArray | None = None
    sequences_s: FloatArray | None = None
    decodes_s: FloatArray | None = None
    context_s: float = 0.0
    prefill_floor_s: float = 0.0
    prefill_work_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepPrice:
    """The price list of one replica; see Family for the meaning of the tables."""

    families: tuple[Family, ...]
    tokens_s: list[float]
    sequences_s: list[float]
    decodes_s: list[float]
    decode_base_s: list[float]
    context_s: float
    prefill_floor_s: float
    prefill_work_s: float
    half_length: float

    def step_s(
        self,
        decodes: int,
        context: int,
        prefill_tokens: int,
        prefill_sequences: int,
        prefill_work: float,
    ) -> float:
        """Seconds of one engine step: THE formula.

        Model: T = decodes + prompt tokens pass all GEMMs, glue kernels and all-reduces; R = decodes
        + prompts pass the LM head and the host; B decodes read ``context`` cached tokens; prompt
        attention adds its floor and its work. ``prefill_work`` is the sum of ``prefill_work()``
        over the chunks.
        """
        if prefill_tokens == 0:
            return self.decode_base_s[decodes] + self.context_s * context
        linear = self.tokens_s[decodes + prefill_tokens]
        rows = self.sequences_s[decodes + prefill_sequences]
        decode = self.decodes_s[decodes] + self.context_s * context
        prefill = self.prefill_floor_s + self.prefill_work_s * prefill_work
        return linear + rows + decode + prefill

    def decode_stretch_s(self, decodes: int, context: int, steps: int) -> FloatArray:
        """Seconds of consecutive decode-only steps, each reading ``decodes`` more tokens; shape
        (steps,).
        """
        contexts = context + decodes * np.arange(steps, dtype=np.float64)
        return np.asarray(self.decode_base_s[decodes] + self.context_s * contexts, np.float64)

    def prefill_work(self, start: int, end: int) -> float:
        """Units of attention when a sequence's computed tokens go from ``start`` to ``end``.

        Model: (end^2 - start^2) (1 + half_length / end): causal pairs, slower while the context is
        short.
        """
        return (end * end - start * start) * (1 + self.half_length / end)


def compile_step_price(
    machine: TopologyInput,
    model: Model,
    software: Software,
    tp: int,
    weights_dtype: str,
    kv_dtype: str,
) -> StepPrice:
    """Tables for every batch that the engine's limits allow, in seconds on one replica of TP
    devices.

    Raises SpecError when the chip has no curve for a dtype.
    """
    families = (
        *_gemm_families(machine, model, software, tp, weights_dtype),
        _prefill_family(machine, model, software, tp, kv_dtype),
        _decode_family(machine, model, software, tp, kv_dtype),
        _glue_family(machine, model, software, tp),
        _all_reduce_family(machine, model, software, tp),
        _host_family(software),
    )
    tokens = _total([family.tokens_s for family in families])
    sequences = _total([family.sequences_s for family in families])
    decodes = _total([family.decodes_s for family in families])
    most = len(sequences)
    curve, _ = attention_curves(machine, kv_dtype)
    return StepPrice(
        families=families,
        tokens_s=tokens.tolist(),
        sequences_s=sequences.tolist(),
        decodes_s=decodes.tolist(),
        decode_base_s=(tokens[:most] + sequences + decodes).tolist(),
        context_s=sum(family.context_s for family in families),
        prefill_floor_s=sum(family.prefill_floor_s for family in families),
        prefill_work_s=sum(family.prefill_work_s for family in families),
        half_length=float(curve.half_length),
    )


def _total(tables: list[FloatArray | None]) -> FloatArray:
    present = [table for table in tables if table is not None]
    total: FloatArray = np.sum(present, axis=0, dtype=np.float64)
    return total


def _token_counts(software: Software) -> FloatArray:
    return np.arange(software.max_num_batched_tokens + software.max_num_seqs + 1, dtype=float)


def _sequence_counts(software: Software) -> FloatArray:
    return np.arange(software.max_num_seqs + 1, dtype=float)


def _gemm_families(
    machine: TopologyInput, model: Model, software: Software, tp: int, dtype: str
) -> tuple[Family, Family]:
    """GEMM time, split by which side of the roofline binds; the LM head runs in bf16 on one row a
    sequence.
    """
    tokens, rows = _token_counts(software), _sequence_counts(software)
    math, weights = np.zeros_like(tokens), np.zeros_like(tokens)
    for shape in layer_gemms(model, tp):
        seconds, bound = gemm_s(machine, dtype, tokens, shape.n, shape.k)
        math += model.layers * np.where(bound, seconds, 0.0)
        weights += model.layers * np.where(bound, 0.0, seconds)
    head = lm_head(model, tp)
    head_s, head_bound = gemm_s(machine, "bf16", rows, head.n, head.k)
    for table in (math, weights, head_s):
        table[0] = 0.0
    provenance = worst_provenance(machine, dtype)
    return (
        Family("gemm_math", provenance, math, np.where(head_bound, head_s, 0.0)),
        Family("gemm_weights", provenance, weights, np.where(head_bound, 0.0, head_s)),
    )


def _prefill_family(
    machine: TopologyInput, model: Model, software: Software, tp: int, kv_dtype: str
) -> Family:
    """Causal prompt attention: floor + 2 heads head_dim work / (bf16 peak u_c) a layer.

    FLOP of a prompt of S tokens: 4 heads head_dim S^2 / 2 (scores and values, causal half).
    """
    curve, _ = attention_curves(machine, kv_dtype)
    flop_per_unit = 2 * (model.heads // tp) * model.head_dim
    peak = machine.chip.peak["bf16"] * curve.compute
    floor = curve.floor * software.in_situ.attention_floor_factor
    return Family(
        "attention_prefill",
        curve.provenance,
        prefill_floor_s=model.layers * floor,
        prefill_work_s=model.layers * flop_per_unit / peak,
    )


def _decode_family(
    machine: TopologyInput, model: Model, software: Software, tp: int, kv_dtype: str
) -> Family:
    """Decode attention: floor + (queries and outputs + KV bytes) / (bandwidth u_m) a layer.

    With 8 or 16 query heads a KV head the FLOP side stays below the bytes on all chips here, so
    that bytes decide.
    """
    _, curve = attention_curves(machine, kv_dtype)
    bandwidth = machine.chip.memory.bandwidth * curve.memory
    query_bytes = 2 * (model.heads // tp) * model.head_dim * ACTIVATION_BYTES
    floor = curve.floor * software.in_situ.attention_floor_factor
    decodes = model.layers * (floor + _sequence_counts(software) * query_bytes / bandwidth)
    decodes[0] = 0.0
    return Family(
        "attention_decode",
        curve.provenance,
        decodes_s=decodes,
        context_s=kv_bytes_per_token(model, tp, kv_dtype) / bandwidth,
    )


def _glue_family(machine: TopologyInput, model: Model, software: Software, tp: int) -> Family:
    """Norms, rotary embedding, KV write, activation, residual: kernels x floor + bytes / (bandwidth
    u_m) a layer.
    """
    curve = machine.fits.glue
    bandwidth = machine.chip.memory.bandwidth * curve.memory
    floors = software.in_situ.glue_kernels_per_layer * curve.floor
    moved = _token_counts(software) * glue_bytes(model, tp)
    tokens = model.layers * (floors + moved / bandwidth)
    tokens[0] = 0.0
    return Family("glue", curve.provenance, tokens)


def _all_reduce_family(machine: TopologyInput, model: Model, software: Software, tp: int) -> Family:
    """Two all-reduces of T x hidden activations a layer; none without tensor parallelism."""
    counts = _token_counts(software)
    provenance = all_reduce_provenance(machine, software.all_reduce, tp)
    if tp == 1:
        return Family("all_reduce", provenance, np.zeros_like(counts))
    message = counts * (model.hidden * ACTIVATION_BYTES)
    alone = all_reduce_s(machine, software.all_reduce, message, tp)
    in_situ = software.in_situ
    tokens = 2 * model.layers * (alone * in_situ.all_reduce_factor + in_situ.all_reduce_skew)
    tokens[0] = 0.0
    return Family("all_reduce", provenance, tokens)


def _host_family(software: Software) -> Family:
    """CPU time that delays the next step: per step and per sequence."""
    host = software.host
    sequences = host.per_step + _sequence_counts(software) * host.per_sequence
    sequences[0] = 0.0
    return Family("host", "measured", sequences_s=sequences)
