"""The share of requests that miss the SLO as a line over the rate, and where it crosses a level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.window import student_t

FloatArray = NDArray[np.float64]
# d ln(missed share) / d ln(rate) near 1 %: 5 to 60 in the packaged workloads, lower where TPOT
# decides and higher where a queue does. It only guides the fit as long as the tries say little.
SLOPE, SPREAD = 8.0, 20.0
FLATTEST = 1.0
ROUNDS = 25  # of Newton's method; it ends when nothing moves any more
LEAST_MISSES = 0.5  # in a try without any


@dataclass(frozen=True, slots=True)
class Trial:
    """A try at a rate: requests and those that missed, by batch."""

    log_rate: float
    missed: FloatArray
    counted: FloatArray

    @property
    def share(self) -> float:
        """Share of all that missed."""
        total = float(self.counted.sum())
        return float(self.missed.sum()) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """ln(missed share) = ``level`` + ``slope`` x (ln rate - ``at``)."""

    at: float
    level: float
    slope: float

    def root(self, allowed: float) -> float:
        """ln of the rate at which the missed share is the allowed one."""
        return self.at + (math.log(allowed) - self.level) / self.slope


def bracket(trials: Sequence[Trial], allowed: float) -> tuple[float, float]:
    """ln of the highest rate that keeps a level and of the lowest that does not, once the shares
    are made to rise with the rate; infinite where there is none.

    Model: isotonic regression: neighbours in the wrong order are pooled.
    """
    blocks: list[list[float]] = []  # missed, counted, first and last ln rate
    for trial in sorted(trials, key=lambda trial: trial.log_rate):
        x = trial.log_rate
        blocks.append([float(trial.missed.sum()), float(trial.counted.sum()), x, x])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            missed, counted, _, last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + missed, blocks[-1][1] + counted, blocks[-1][2], last]
    low = [last for missed, counted, _, last in blocks if missed <= allowed * counted]
    high = [first for missed, counted, first, _ in blocks if missed > allowed * counted]
    return max(low, default=-math.inf), min(high, default=math.inf)


def near(trials: Sequence[Trial], allowed: float, width: float) -> list[Trial]:
    """The tries within ``width`` (of ln rate) of where a level is crossed; the nearest two if they
    are fewer.
    """
    edges = [edge for edge in bracket(trials, allowed) if math.isfinite(edge)]
    centre = sum(edges) / len(edges)
    ranked = sorted(trials, key=lambda trial: abs(trial.log_rate - centre))
    close = [trial for trial in ranked if abs(trial.log_rate - centre) <= width]
    return close if len(close) >= 2 else ranked[:2]


def crossing(trials: Sequence[Trial], allowed: float, line: Line, slack: float) -> float:
    """ln of the rate at which a line crosses a level, at most ``slack`` outside the bracket."""
    low, high = bracket(trials, allowed)
    return min(max(line.root(allowed), low - slack), high + slack)


def fit_line(trials: Sequence[Trial], allowed: float) -> Line:
    """Poisson regression of the misses on the rate.

    Model: misses of a try ~ Poisson(requests x exp(level + slope x (ln rate - at))), slope normal
    around ``SLOPE`` by ``SPREAD`` before anything is seen; Newton's method.
    """
    x = np.array([trial.log_rate for trial in trials])
    counted = np.array([float(trial.counted.sum()) for trial in trials])
    missed = np.array([float(trial.missed.sum()) for trial in trials])
    return _fit(x, counted, missed, allowed, None)


def _fit(
    x: FloatArray, counted: FloatArray, missed: FloatArray, allowed: float, start: Line | None
) -> Line:
    at = float(np.average(x, weights=np.maximum(counted, 1e-9)))
    off = x - at
    # Half a miss at the allowed level keeps a try without misses finite.
    counted = counted + LEAST_MISSES / allowed
    missed = missed + LEAST_MISSES
    level = math.log(float(missed.sum()) / float(counted.sum()))
    slope = SLOPE
    if start is not None:
        level, slope = start.level + start.slope * (at - start.at), start.slope
    for _ in range(ROUNDS):
        mean = counted * np.exp(np.clip(level + slope * off, -40.0, 2.0))
        gradient = np.array([(missed - mean).sum(), ((missed - mean) * off).sum()])
        gradient[1] -= (slope - SLOPE) / SPREAD**2
        a, b = float(mean.sum()), float((mean * off).sum())
        c = float((mean * off * off).sum()) + 1 / SPREAD**2
        determinant = a * c - b * b
        step = np.array([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]])
        step = np.clip(step / determinant, -3.0, 3.0)
        level, slope = level + float(step[0]), max(FLATTEST, slope + float(step[1]))
        if float(np.abs(step).max()) < 1e-9:
            break
    return Line(at, level, slope)


def root_error(trials: Sequence[Trial], allowed: float, line: Line) -> float:
    """Half of the 95 % interval of ln(root), by leaving out one batch after the other.

    Model: jackknife: variance = (n - 1) / n x sum (root without batch i - mean)^2.
    """
    x = np.array([trial.log_rate for trial in trials])
    counted = np.array([float(trial.counted.sum()) for trial in trials])
    missed = np.array([float(trial.missed.sum()) for trial in trials])
    roots = []
    for i, trial in enumerate(trials):
        for n, m in zip(trial.counted.tolist(), trial.missed.tolist(), strict=True):
            if not n:
                continue
            counted[i] -= n
            missed[i] -= m
            roots.append(_fit(x, counted, missed, allowed, line).root(allowed))
            counted[i] += n
            missed[i] += m
    n = len(roots)
    if n < 2:
        return math.inf
    spread = float(np.var(roots)) * (n - 1)
    return student_t(n - 1) * math.sqrt(spread)
