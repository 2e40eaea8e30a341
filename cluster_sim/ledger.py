"""The ledger of a run: each second of a rank belongs to an operator family, is bubble or idle."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.errors import SimulationError
from cluster_sim.perf.family import Family
from cluster_sim.perf.step_price import StepPrice
from cluster_sim.serving.records import StepCounts
from cluster_sim.serving.service import Run

TOLERANCE = 1e-6  # relative: seconds priced by family against seconds on the clock


@dataclass(frozen=True, slots=True)
class Ledger:
    """Seconds of all ranks by operator family, waiting for slower ranks (bubble), idle, and lost to
    others on the same machine; ``provenance`` shares out those in families by source of the curve.
    """

    families_s: dict[str, float]
    bubble_s: float
    idle_s: float
    provenance: dict[str, float]
    lost_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """Rank-seconds inside engine steps."""
        return sum(self.families_s.values()) + self.bubble_s + self.lost_s

    @property
    def total_s(self) -> float:
        """All rank-seconds of the run."""
        return self.busy_s + self.idle_s

    def share(self, *families: str) -> float:
        """Share of all rank-seconds that some families own; ``bubble``, ``idle`` and ``lost`` count
        as families.
        """
        if not self.total_s:
            return 0.0
        named = {**self.families_s, "bubble": self.bubble_s, "idle": self.idle_s}
        named["lost"] = self.lost_s
        return sum(named.get(family, 0.0) for family in families) / self.total_s


def close_ledger(price: StepPrice, run: Run) -> Ledger:
    """Price the counted steps family by family; what steps took longer than alone is lost, the rest
    of their time bubble, the rest of the run idle.

    Raises SimulationError if the families of single-rank replicas do not add up to the time that
    the steps took on the clock.
    """
    replicas = max(1, len(run.logs))
    ranks = len(run.counts) // replicas
    families_s = {family.name: 0.0 for family in price.families}
    for family in price.families:
        for counts in run.counts:
            families_s[family.name] += family_seconds(family, counts)
        for shared in run.shared:
            families_s[family.name] += ranks * shared_seconds(family, shared)
    priced_s = sum(families_s.values())
    ends_s = [log.end_s[-1] if log.end_s else 0.0 for log in run.logs]
    clock_s = ranks * sum(max(0.0, e - i) for e, i in zip(ends_s, run.idle_s, strict=True))
    lost_s = ranks * sum(run.visits.lost_s) if run.visits is not None else 0.0
    bubble_s = clock_s - priced_s - lost_s
    if not run.interrupted:
        slack_s = TOLERANCE * max(clock_s, 1e-9) + ranks * _rounded_s(run)
        if bubble_s < -slack_s or (ranks == 1 and bubble_s > slack_s):
            raise SimulationError(f"steps took {clock_s} s, operators {priced_s} s", run.end_s)
    sources: dict[str, float] = {}
    for family in price.families:
        sources[family.provenance] = sources.get(family.provenance, 0.0) + families_s[family.name]
    provenance = {name: value / priced_s for name, value in sources.items()} if priced_s else {}
    bubble_s = max(0.0, bubble_s) if ranks > 1 else 0.0
    idle_s = max(0.0, len(run.counts) * run.end_s - priced_s - bubble_s - lost_s)
    return Ledger(families_s, bubble_s, idle_s, provenance, lost_s)


def family_seconds(family: Family, counts: StepCounts) -> float:
    """Seconds of a family in counted steps of one batch, without what batches share."""
    pure = family.tokens_s
    if pure is not None:
        pure = pure[:: family.decode_tokens]
    tokens = _dot(counts.pure, pure) + _dot(counts.pure, family.filling_s)
    tokens += _dot(counts.mixed_tokens, family.tokens_s)
    sequences = _dot(counts.pure, family.sequences_s) + _dot(
        counts.mixed_sequences, family.sequences_s
    )
    decodes = _dot(counts.pure, family.decodes_s) + _dot(counts.mixed_decodes, family.decodes_s)
    read = family.context_s * counts.context + family.local_context_s * counts.local_context
    prompts = family.prefill_floor_s * counts.prefill_steps
    prompts += counts.prefill_s if family.prompts else 0.0
    return tokens + sequences + decodes + read + prompts + family.swap_s * counts.swapped


def shared_seconds(family: Family, steps: Counter[int]) -> float:
    """Seconds of what the batches of a replica share in its counted steps."""
    return _dot(steps, family.shared_s)


def _dot(counted: Counter[int], table: NDArray[np.float64] | None) -> float:
    """Sum of count x table entry, in the order of the entries so that the sum is the same for equal
    counts.
    """
    if table is None or not counted:
        return 0.0
    keys = sorted(counted)
    return float(np.dot(np.array([counted[key] for key in keys], dtype=float), table[keys]))


def _rounded_s(run: Run) -> float:
    """What may be lost where the ends of steps are rounded to the floats that a late clock has."""
    return sum(2 * len(log.end_s) * math.ulp(log.end_s[-1]) for log in run.logs if log.end_s)
