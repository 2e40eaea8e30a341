"""The band of a whole run: draws of failures and the doubt in its step, together.

Model: the step is off by one log-normal factor for the whole run, exp(sigma z). Runs with the step
at z = -1.28 and 1.28 are played on the same draws as the run itself; what they change of a figure,
the logarithm of the ratio of sums, is taken as linear in z on either side of 0. Every replication
stands for all z: low, middle and high are quantiles over replications times z. Limits: watts and
prices are as stated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster_sim.training.campaign_schedule import StepFacts

BAND = (0.1, 0.5, 0.9)
BANDED = (
    "days",
    "chip_hours",
    "energy_kwh",
    "usd",
    "ettr",
    "goodput",
    "tokens_per_s",
    "interruptions",
    "mtbf_h",
    "interruption_h",
    "lost_steps",
    "checkpoints",
)
SIDE = 1.2816  # z of the runs beside: the tenth and the ninetieth percentile of the step
MOST_BESIDE = 16  # replications that are played beside, each way
POINTS = 99  # of z, at equal chance
Price = Callable[[int, int], StepFacts]
Band = dict[str, tuple[float, float, float]]


def with_step(price: Price, factor: float) -> Price:
    """The prices of steps that take so many times as long, at the same watts."""

    def priced(global_batch: int, seq_len: int) -> StepFacts:
        facts = price(global_batch, seq_len)
        return replace(facts, step_s=facts.step_s * factor, energy_j=facts.energy_j * factor)

    return priced


def band_of(outcomes: Sequence[Any], low: Sequence[Any], high: Sequence[Any]) -> Band:
    """The 10th, 50th and 90th percentile of each figure; ``low`` and ``high`` are outcomes beside
    the first ones, with shorter and longer steps (none: the step is certain).
    """
    found: Band = {}
    for name in BANDED:
        values = np.array([v for one in outcomes if (v := getattr(one, name)) is not None], float)
        if not len(values):
            continue
        if low or high:
            down, up = _change(name, outcomes, low), _change(name, outcomes, high)
            values = np.outer(values, _factors(down, up)).ravel()
        first, middle, last = np.quantile(values, BAND).tolist()
        found[name] = (first, middle, last)
    return found


def _change(name: str, outcomes: Sequence[Any], beside: Sequence[Any]) -> float:
    """What a step at one side does to the logarithm of a figure; 0 where it cannot be told."""
    pairs = [
        (getattr(one, name), getattr(other, name))
        for one, other in zip(outcomes, beside, strict=False)
    ]
    known = [(own, other) for own, other in pairs if own is not None and other is not None]
    own, other = (math.fsum(pair[side] for pair in known) for side in (0, 1))
    return math.log(other / own) if own > 0 and other > 0 else 0.0


def _factors(down: float, up: float) -> NDArray[np.float64]:
    """What the step does to a figure at points of equal chance."""
    normal = NormalDist()
    z = np.array([normal.inv_cdf((place + 0.5) / POINTS) for place in range(POINTS)])
    return np.asarray(np.exp(np.where(z < 0, -down, up) * z / SIDE))
