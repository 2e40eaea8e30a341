"""Experts that a timed grouped GEMM touched, and the tokens that it had: of the rank that was
timed.
"""

from __future__ import annotations

import numpy as np

from cluster_sim.studies.calibrate_rows import Timing

EXPONENT = 1.2  # of the power law that the flag of such rows names
POWER_LAW, BALANCED = "routing_power_law_1.2", "routing_balanced"
DRAWS, SEED = 40, 0
ROUNDS = 20  # in which shares above one token per expert are spread over the others


def expert_load(row: Timing) -> tuple[float, float]:
    """Touched experts and picks (token, expert) of the timed rank.

    Model: balanced routing spreads picks evenly; the power law draws the loads of all experts,
    places them in order and takes the rank with the most picks, as the collector of
    ai-dynamo/aiconfigurator does (recalled), the mean of DRAWS draws; without a flag every token
    chooses evenly at random.
    """
    names = ("tokens", "top_k", "experts", "ep")
    tokens, top_k, experts, ranks = (row.shape[name] for name in names)
    picks = max(tokens * top_k / ranks, 1.0)
    if BALANCED in row.flags:
        return min(experts / ranks, picks), picks
    if POWER_LAW not in row.flags:
        return experts / ranks * (1 - (1 - top_k / experts) ** tokens), picks
    rng = np.random.default_rng(SEED)
    drawn = [_heaviest(tokens, top_k, experts, ranks, rng) for _ in range(DRAWS)]
    touched, heaviest = np.mean(drawn, axis=0)
    return float(touched), float(heaviest)


def _heaviest(
    tokens: int, top_k: int, experts: int, ranks: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Touched experts and picks of the fullest rank in one draw of loads."""
    total = tokens * top_k
    low, high = (1.0, tokens * 0.8) if total > experts else (0.01, 2.0)
    slope = 1 - EXPONENT
    loads = ((high**slope - low**slope) * rng.random(experts) + low**slope) ** (1 / slope)
    wanted = loads / loads.sum() * total
    for _ in range(ROUNDS):
        over = wanted >= tokens
        if not over.any() or over.all():
            break
        free = wanted[~over].sum()
        factor = (total - tokens * over.sum()) / free if free > 0 else 0.0
        spread = np.where(over, tokens, wanted * factor)
        if np.allclose(spread, wanted):
            break
        wanted = spread
    counts = np.minimum(np.rint(wanted), tokens).astype(int)
    order = rng.permutation(experts)
    order = order[np.argsort(-counts[order], kind="stable")]
    _settle(counts, order, total, tokens)
    by_rank = counts.reshape(ranks, -1)
    fullest = int(by_rank.sum(axis=1).argmax())
    return int((by_rank[fullest] > 0).sum()), int(by_rank[fullest].sum())


def _settle(counts: np.ndarray, order: np.ndarray, total: int, most: int) -> None:
    """Make rounded counts add up: add from the fullest on, take from the emptiest on."""
    short, place = total - int(counts.sum()), 0
    while short > 0:
        expert = order[place % len(order)]
        place += 1
        if counts[expert] < most:
            counts[expert] += 1
            short -= 1
    place = 0
    while short < 0:
        expert = order[-(place % len(order)) - 1]
        place += 1
        if counts[expert] > 0:
            counts[expert] -= 1
            short += 1
