"""The ledger of a run: each replica-second belongs to an operator family or is idle."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.errors import SimulationError
from cluster_sim.perf.step_price import Family, StepPrice
from cluster_sim.serving.records import StepCounts
from cluster_sim.serving.service import Run

TOLERANCE = 1e-6  # relative: seconds priced by family against seconds on the clock


@dataclass(frozen=True, slots=True)
class Ledger:
    """Replica-seconds by operator family and idle; ``provenance`` shares out the busy ones by
    source of the curve.
    """

    families_s: dict[str, float]
    idle_s: float
    provenance: dict[str, float]

    @property
    def busy_s(self) -> float:
        """Replica-seconds inside engine steps."""
        return sum(self.families_s.values())

    @property
    def total_s(self) -> float:
        """All replica-seconds of the run."""
        return self.busy_s + self.idle_s

    def share(self, *families: str) -> float:
        """Share of all replica-seconds that some families own; ``idle`` counts as one."""
        if not self.total_s:
            return 0.0
        named = {**self.families_s, "idle": self.idle_s}
        return sum(named.get(family, 0.0) for family in families) / self.total_s


def close_ledger(price: StepPrice, run: Run) -> Ledger:
    """Price the counted steps family by family; what is left of the run is idle.

    Raises SimulationError if families do not add up to the time that the steps took on the clock.
    """
    families_s = {family.name: 0.0 for family in price.families}
    busy_s = 0.0
    for counts in run.counts:
        busy_s += counts.busy_s
        for family in price.families:
            families_s[family.name] += _seconds(family, counts)
    priced_s = sum(families_s.values())
    if not run.interrupted and abs(priced_s - busy_s) > TOLERANCE * max(busy_s, 1e-9):
        raise SimulationError(f"steps took {busy_s} s, their operators {priced_s} s", run.end_s)
    sources: dict[str, float] = {}
    for family in price.families:
        sources[family.provenance] = sources.get(family.provenance, 0.0) + families_s[family.name]
    provenance = {name: value / priced_s for name, value in sources.items()} if priced_s else {}
    # From the priced seconds: sums of clock differences depend on how steps were grouped.
    idle_s = max(0.0, len(run.counts) * run.end_s - priced_s)
    return Ledger(families_s, idle_s, provenance)


def _seconds(family: Family, counts: StepCounts) -> float:
    tokens = _dot(counts.pure, family.tokens_s) + _dot(counts.mixed_tokens, family.tokens_s)
    sequences = _dot(counts.pure, family.sequences_s) + _dot(
        counts.mixed_sequences, family.sequences_s
    )
    decodes = _dot(counts.pure, family.decodes_s) + _dot(counts.mixed_decodes, family.decodes_s)
    prompts = family.prefill_floor_s * counts.prefill_steps
    prompts += family.prefill_work_s * counts.prefill_work
    return tokens + sequences + decodes + family.context_s * counts.context + prompts


def _dot(counted: Counter[int], table: NDArray[np.float64] | None) -> float:
    """Sum of count x table entry, in the order of the entries so that the sum is the same for equal
    counts.
    """
    if table is None or not counted:
        return 0.0
    keys = sorted(counted)
    return float(np.dot(np.array([counted[key] for key in keys], dtype=float), table[keys]))
