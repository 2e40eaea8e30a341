"""A step of which every pass of every replica takes a little more or less: who waits for whom.

Model: passes are drawn independently, normal around their time with a standard deviation of
``sigma`` of it, not below a tenth; each replica plays its own pipeline (max-plus, all replicas at
once); the gradients of a stage are reduced when the last replica has them. Limits: nothing
contends; ranks of one replica share their luck.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cluster_sim.training.closed import times_of
from cluster_sim.training.pipeline import Times, play
from cluster_sim.training.priced import Priced, player_of

LEAST = 0.1  # of its mean that a pass takes at least


def straggler_s(priced: Priced, sigma: float, seed: int) -> float:
    """Seconds by which the slowest replica is later than one without jitter."""
    laid_out = player_of(priced.job)
    plan, ranks = laid_out.plan, priced.job.dp
    even = times_of(priced, plan)
    rng = np.random.default_rng([seed, ranks])
    shape = (plan.virtual_stages, plan.micro_batches, ranks)

    def drawn(seconds: object) -> NDArray[np.float64]:
        base = np.asarray(seconds, dtype=np.float64)[:, None, None]
        return base * np.maximum(1.0 + sigma * rng.standard_normal(shape), LEAST)

    uneven = Times(
        forward_s=drawn(even.forward_s),
        backward_s=drawn(even.backward_s),
        weight_s=drawn(even.weight_s),
        send_forward_s=even.send_forward_s,
        send_backward_s=even.send_backward_s,
    )
    slowest = float(play(laid_out, uneven).last_end_s.max())
    return slowest - float(play(laid_out, even).step_s)
