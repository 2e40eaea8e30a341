"""What an engine step costs: tables over integers, compiled once per model, layout and chip.

The formulas are ``StepPrice.step_s`` for one batch and ``StepPrice.round_s`` for the batches that a
replica works on side by side; how the tables come about is in ``perf.families``. At run time there
is only look-up, addition, multiplication and the larger of two, so that pricing one step and
pricing a stretch of steps give the same floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster_sim.kernels.attention import PromptAttention, prompt_attention
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.perf.cuda_graphs import with_graphs
from cluster_sim.perf.drafts import with_mtp_layers
from cluster_sim.perf.families import operator_families
from cluster_sim.perf.family import Family
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import LocalAttention, Model
from cluster_sim.specs.software import Software

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepPrice:
    """The price list of one replica; see Family for the meaning of the tables.

    ``prompt`` prices prompt attention. A decoding sequence has ``decode_tokens`` tokens in a step.
    """

    families: tuple[Family, ...]
    tokens_s: list[float]
    sequences_s: list[float]
    decodes_s: list[float]
    decode_base_s: list[float]
    context_s: float
    local_context_s: float
    prefill_floor_s: float
    prompt: PromptAttention
    swap_s: float
    shared_s: FloatArray | None
    decode_tokens: int = 1

    def step_s(
        self,
        decodes: int,
        context: int,
        local_context: int,
        prefill_tokens: int,
        prefill_sequences: int,
        prefill_s: float,
    ) -> float:
        """Seconds of one engine step of one batch: THE formula.

        Model: T = decodes + prompt tokens (with k drafts k + 1 a decode) pass all products, small
        kernels and all-reduces; R = decodes + prompts pass the LM head and the host; B decodes read
        ``context`` cached tokens, ``local_context`` of them in layers with local attention; prompt
        attention adds its floor and ``prefill_s``, the sum of ``prefill_attention_s()`` over the
        chunks. Without prompts the batch may be filled up to a captured size (``decode_base_s``).
        """
        if prefill_tokens == 0:
            base = self.decode_base_s[decodes] + self.context_s * context
            return base + self.local_context_s * local_context
        linear = self.tokens_s[decodes * self.decode_tokens + prefill_tokens]
        rows = self.sequences_s[decodes + prefill_sequences]
        decode = self.decodes_s[decodes] + self.context_s * context
        decode = decode + self.local_context_s * local_context
        return linear + rows + decode + (self.prefill_floor_s + prefill_s)

    def round_s(self, steps_s: Sequence[float], tokens: int) -> float:
        """Seconds until the batches of a replica have all done their step: the slowest decides,
        then ``tokens`` tokens of all batches pass what they share.
        """
        slowest = max(steps_s)
        return slowest if self.shared_s is None else slowest + float(self.shared_s[tokens])

    def decode_stretch_s(
        self,
        decodes: int,
        context: int,
        local_context: int,
        growing: int,
        steps: int,
        gained: FloatArray | None = None,
    ) -> FloatArray:
        """Seconds of consecutive decode-only steps of one batch; shape (steps,).

        For each token that a sequence has gained before a step, that reads ``decodes`` more tokens,
        ``growing`` more in layers with local attention; without ``gained`` it is one a step.
        """
        count = np.arange(steps, dtype=np.float64) if gained is None else gained
        base = self.decode_base_s[decodes] + self.context_s * (context + decodes * count)
        if self.local is not None:
            base += self.local_context_s * (local_context + growing * count)
        return np.asarray(base)

    def prefill_attention_s(self, start: int, end: int) -> float:
        """Seconds of attention when a sequence's computed tokens go from ``start`` to ``end``; see
        ``PromptAttention.seconds``.
        """
        return self.prompt.seconds(start, end)

    @property
    def local(self) -> LocalAttention | None:
        """The local attention of the model."""
        return self.prompt.local


def local_tokens(local: LocalAttention | None, context: int) -> int:
    """Tokens of a context that a layer with local attention reads."""
    if local is None:
        return 0
    if local.kind == "chunked":
        return (context - 1) % local.tokens + 1
    return min(context, local.tokens)


def local_change(local: LocalAttention | None, context: int) -> int | None:
    """Decode steps after which the local part of a context stops growing or starts anew; None:
    never.
    """
    if local is None:
        return None
    if local.kind == "chunked":
        return local.tokens - (context - 1) % local.tokens
    return local.tokens - context if context < local.tokens else None


def compile_step_price(
    machine: TopologyInput,
    model: Model,
    software: Software,
    layout: Layout,
    recipe: Recipe,
    together: int | None = None,
) -> StepPrice:
    """Tables for every batch that the engine's limits allow, in seconds on one replica; those by
    the tokens of all batches up to ``together``, if that is given.

    Raises SpecError when the chip has no curve for a dtype.
    """
    model = with_mtp_layers(model, software.draft_tokens)
    families = operator_families(machine, model, software, layout, recipe, together)
    families = with_graphs(families, software.cuda_graph_sizes, software.max_num_seqs)
    return StepPrice(
        **_tables(families),
        prompt=prompt_attention(machine, model, layout, recipe),
        decode_tokens=1 + software.draft_tokens,
    )


def scaled_price(price: StepPrice, factors: Mapping[str, float]) -> StepPrice:
    """The price list with the seconds of operator families times factors, by name (1 if absent)."""

    def times(family: Family) -> Family:
        factor = factors.get(family.name, 1.0)
        changed = {
            entry.name: value * factor
            for entry in fields(family)
            if entry.name.endswith("_s") and (value := getattr(family, entry.name)) is not None
        }
        return replace(family, **changed)

    factor = factors.get("attention_prefill", 1.0)
    families = tuple(times(family) for family in price.families)
    return replace(
        price,
        **_tables(families),
        prompt=price.prompt.times(factor),
    )


def _tables(families: tuple[Family, ...]) -> dict[str, Any]:
    """The families, and what all of them add up to."""
    tokens = _total([family.tokens_s for family in families])
    sequences = _total([family.sequences_s for family in families])
    decodes = _total([family.decodes_s for family in families])
    shared = [family.shared_s for family in families if family.shared_s is not None]
    most, width = len(sequences), families[0].decode_tokens
    decode_base = tokens[::width][:most] + sequences + decodes
    filling = [family.filling_s for family in families if family.filling_s is not None]
    if filling:
        decode_base += np.sum(filling, axis=0)
    return {
        "families": families,
        "tokens_s": tokens.tolist(),
        "sequences_s": sequences.tolist(),
        "decodes_s": decodes.tolist(),
        "decode_base_s": decode_base.tolist(),
        "context_s": sum(family.context_s for family in families),
        "local_context_s": sum(family.local_context_s for family in families),
        "prefill_floor_s": sum(family.prefill_floor_s for family in families),
        "swap_s": sum(family.swap_s for family in families),
        "shared_s": np.sum(shared, axis=0) if shared else None,
    }


def _total(tables: list[FloatArray | None]) -> FloatArray:
    present = [table for table in tables if table is not None]
    total: FloatArray = np.sum(present, axis=0, dtype=np.float64)
    return total
