"""Least squares of the logarithm of time, in logarithms of named parameters within bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Values = Mapping[str, float]
# Errors beyond a tenth count less than by their square: tables have points of kernels that a curve
# does not describe.
SOFT = 0.1
STEPS, TRIALS, DIFFERENCE, STILL = 200, 25, 1e-6, 1e-9
MOST_FOLDS = 30


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named value of a curve with where to begin, and its bounds."""

    name: str
    start: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Points:
    """Measured seconds, the group (shape) of each, and the seconds that values give for some."""

    measured_s: FloatArray
    groups: Sequence[tuple[int, ...]]
    seconds: Callable[[Values, IntArray], FloatArray]


def fit(points: Points, parameters: Sequence[Parameter], chosen: IntArray) -> dict[str, float]:
    """The values that describe the chosen points best.

    Model: Levenberg-Marquardt on log(seconds / measured) under a loss that grows like the error
    beyond ``SOFT``; parameters stay within their bounds.
    """
    names = [parameter.name for parameter in parameters]
    low, high = (
        np.log([getattr(parameter, side) for parameter in parameters]) for side in ("low", "high")
    )
    measured = np.log(points.measured_s[chosen])

    def residual(x: FloatArray) -> FloatArray:
        values = dict(zip(names, np.exp(x).tolist(), strict=True))
        return np.log(points.seconds(values, chosen)) - measured

    x = np.clip(np.log([parameter.start for parameter in parameters]), low, high)
    damping, now = 1e-2, residual(x)
    for _ in range(STEPS):
        moved = _step(residual, x, now, low, high, damping)
        if moved is None:
            break
        still = float(np.abs(moved[0] - x).max()) < STILL
        x, now, damping = moved
        if still:
            break
    return dict(zip(names, np.exp(x).tolist(), strict=True))


def _loss(residual: FloatArray) -> float:
    return float((np.sqrt(1 + (residual / SOFT) ** 2) - 1).sum())


def _step(
    residual: Callable[[FloatArray], FloatArray],
    x: FloatArray,
    now: FloatArray,
    low: FloatArray,
    high: FloatArray,
    damping: float,
) -> tuple[FloatArray, FloatArray, float] | None:
    """A better place, its residuals and the next damping; None where there is none."""
    weight = 1 / np.sqrt(1 + (now / SOFT) ** 2)
    slopes = np.empty((len(now), len(x)))
    for column in range(len(x)):
        other = x.copy()
        other[column] += DIFFERENCE if x[column] + DIFFERENCE <= high[column] else -DIFFERENCE
        slopes[:, column] = (residual(other) - now) / (other[column] - x[column])
    square, slope = slopes.T @ (slopes * weight[:, None]), slopes.T @ (now * weight)
    free = np.flatnonzero(~(((x <= low) & (slope > 0)) | ((x >= high) & (slope < 0))))
    if not len(free):
        return None
    inner, before = square[np.ix_(free, free)], _loss(now)
    for _ in range(TRIALS):
        change = np.zeros_like(x)
        damped = inner + damping * np.diag(np.diag(inner) + 1e-9)
        change[free] = -np.linalg.solve(damped, slope[free])
        there = np.clip(x + np.clip(change, -1, 1), low, high)
        then = residual(there)
        if _loss(then) < before:
            return there, then, max(damping / 5, 1e-9)
        damping *= 4
    return None


def left_out_errors(points: Points, parameters: Sequence[Parameter]) -> FloatArray:
    """Error of each point under a fit that saw no point of its shape.

    Every shape is left out in turn; of more than MOST_FOLDS shapes several at a time, far apart in
    size.
    """
    shapes = sorted(set(points.groups))
    fold_of = {shape: place % MOST_FOLDS for place, shape in enumerate(shapes)}
    fold = np.array([fold_of[group] for group in points.groups])
    errors = np.zeros(len(fold))
    for number in range(min(len(shapes), MOST_FOLDS)):
        hidden = np.flatnonzero(fold == number)
        values = fit(points, parameters, np.flatnonzero(fold != number))
        errors[hidden] = points.seconds(values, hidden) / points.measured_s[hidden] - 1
    return errors
