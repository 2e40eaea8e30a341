"""An operator family of an engine step: tables over what the step consists of, and what they are
computed from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Family:
    """Seconds of one operator family, as tables and slopes over what a step consists of.

    ``tokens_s`` by tokens in the step, ``sequences_s`` by sequences in the batch, ``decodes_s`` by
    decoding sequences (None: nothing); ``context_s`` per token of context that decode attention
    reads and ``local_context_s`` per token inside the window of local layers; ``prefill_floor_s``
    once per step with a prompt, and ``prompts`` if the seconds of prompt attention belong here;
    ``swap_s`` per token moved to or from the host; ``shared_s`` by tokens of all batches of the
    replica; ``filling_s`` by decoding sequences, in steps without prompts. All over all layers.

    A decoding sequence has ``decode_tokens`` tokens in a step: its own and those drafted for it.

    ``use`` has amounts instead of seconds in tables of the same form: bytes that a device sends, or
    of work bound by arithmetic the seconds that its bytes take at the full rate of the memory.
    """

    name: str
    provenance: str
    tokens_s: FloatArray | None = None
    sequences_s: FloatArray | None = None
    decodes_s: FloatArray | None = None
    context_s: float = 0.0
    local_context_s: float = 0.0
    prefill_floor_s: float = 0.0
    prompts: bool = False
    swap_s: float = 0.0
    shared_s: FloatArray | None = None
    filling_s: FloatArray | None = None
    decode_tokens: int = 1
    use: Family | None = None


class Batch(NamedTuple):
    """What one step of one batch consists of: decoding sequences, the context that they read and
    the part of it in local layers, prompt tokens, prompts, seconds of their attention, tokens moved
    to or from the host.
    """

    decodes: int
    context: int
    local_context: int
    prefill_tokens: int
    prompts: int
    prefill_s: float
    swapped: int


NOTHING = Batch(0, 0, 0, 0, 0, 0.0, 0)


def family_s(family: Family, steps: Any, all_tokens: Any) -> Any:
    """Seconds of an operator family in a step; ``steps`` is a Batch, or has arrays of its fields,
    ``all_tokens`` are those of all batches.

    Model: the terms of StepPrice.step_s and round_s that belong to the family.
    """
    seconds = family.context_s * steps.context + family.local_context_s * steps.local_context
    for table, count in (
        (family.tokens_s, steps.decodes * family.decode_tokens + steps.prefill_tokens),
        (family.sequences_s, steps.decodes + steps.prompts),
        (family.decodes_s, steps.decodes),
        (family.shared_s, all_tokens),
    ):
        if table is not None:
            seconds = seconds + table[count]
    if family.filling_s is not None:
        seconds = seconds + (steps.prefill_tokens == 0) * family.filling_s[steps.decodes]
    if family.prefill_floor_s or family.prompts:
        prompt_s = family.prefill_floor_s + (steps.prefill_s if family.prompts else 0.0)
        seconds = seconds + (steps.prefill_tokens > 0) * prompt_s
    return seconds + family.swap_s * steps.swapped


@dataclass(frozen=True, slots=True)
class FamilyCase:
    """What all families are computed from, and the counts that their tables run over."""

    machine: TopologyInput
    model: Model
    software: Software
    layout: Layout
    recipe: Recipe
    together: int | None = None

    @property
    def width(self) -> int:
        """Tokens of a decoding sequence in a step: the next one and those drafted."""
        return 1 + self.software.draft_tokens

    @property
    def tokens(self) -> FloatArray:
        """Tokens of a step, from none to the most."""
        most = self.software.max_num_batched_tokens + self.software.max_num_seqs * self.width
        return np.arange(most + 1, dtype=float)

    @property
    def sequences(self) -> FloatArray:
        """Sequences of a batch, from none to the most."""
        return np.arange(self.software.max_num_seqs + 1, dtype=float)

    def shares(self, part: str, layers: int) -> tuple[tuple[str, float], ...]:
        """The dtypes of a part, each with its number of layers."""
        return self.recipe.shares(self.model, part, layers)

    @property
    def all_tokens(self) -> FloatArray:
        """Tokens of all batches together: as many as the limits allow, ``together`` at most."""
        most = (len(self.tokens) - 1) * self.layout.attn_dp
        return np.arange(min(most, self.together or most) + 1, dtype=float)
