"""How far a collective is from the timings that its curve was fitted to, and what that costs.

Model: ``sigma = 0.10 r + 0.05 b``; r are the doublings (or halvings) of ranks or of scale-up
domains, whichever are more, b those of bytes, from the nearest series of timings; 0 inside one.
Errors of one form point the same way, so they add up. Source: collectives of A100, H100, H200 and
B200 in ai-dynamo/aiconfigurator @095f58a. Ranks: short messages (below 1 MiB) on 8 ranks by the
straight line through 2 and 4 are off by 5.7 % (median) and 15.5 % (90th percentile) of 165. Bytes:
messages 2, 4, 8 and 16 times as long as those that a straight line was drawn through by 2.2, 4.1,
7.6 and 11 % (median) of 366. Both over 0.6745, or over 1.645 for the percentile. That further
doublings are off by as much again, ranks as many times as domains: assumed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cluster_sim.specs.seen import Seen

FloatArray = NDArray[np.float64]
PER_DOUBLING_OF_RANKS, PER_DOUBLING_OF_BYTES = 0.10, 0.05
# What distance turns into extrapolated; an assumed curve stays what it is.
WITHIN_REACH = ("measured", "datasheet", "transferred")


def reach_sigma(
    seen: tuple[Seen, ...], ranks: int, domains: int = 1, message: FloatArray | None = None
) -> FloatArray:
    """Sigma of the logarithm of the time that distance adds, by message; without messages of the
    ranks alone, and 0 where no range is stated.
    """
    sizes = np.ones(1) if message is None else np.asarray(message, dtype=np.float64)
    if not seen:
        return np.zeros_like(sizes)
    found = []
    for one in seen:
        group = max(_doublings(one.ranks, ranks), _doublings(one.domains, domains))
        sigma = np.full_like(sizes, PER_DOUBLING_OF_RANKS * float(group))
        if message is not None and one.bytes is not None:
            sigma = sigma + PER_DOUBLING_OF_BYTES * _doublings(one.bytes, sizes)
        found.append(sigma)
    return np.asarray(np.min(found, axis=0), dtype=np.float64)


def word_of(provenance: str, sigma: float) -> str:
    """The provenance of a timing at a distance."""
    return "extrapolated" if sigma > 0 and provenance in WITHIN_REACH else provenance


def _doublings(ends: tuple[float, float], value: FloatArray | int) -> FloatArray:
    """Doublings above the larger end, or halvings below the smaller."""
    size = np.maximum(np.asarray(value, dtype=np.float64), 1.0)
    above, below = np.log2(size / ends[1]), np.log2(ends[0] / size)
    return np.asarray(np.maximum(np.maximum(above, below), 0.0))
