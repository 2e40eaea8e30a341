"""The steady part of a run: where it begins and ends, and how sure what is measured in it is.

The machine is under its full load from the end of the warm-up to the instant at which nothing new
comes and nothing waits any more; what follows is drain. Everything that is divided by a time is
counted in that window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cluster_sim.serving.records import StepLog
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Run

FloatArray = NDArray[np.float64]
BINS = 256  # of the time in which the warm-up is looked for
LATEST = 0.5  # share of the time that the warm-up may take
SERVICES = 3.0  # a window holds so many services at least: half of it would be one and a half
BATCHES, FEWEST = 20, 5  # equal parts of a window, for the error of a mean
CONFIDENCE = 0.95
MOST_ERROR = 0.3  # half of the 95 % interval of a throughput: beyond it there is none


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a run (s), after its start and up to its end."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Seconds between its ends."""
        return max(0.0, self.end_s - self.start_s)

    def holds(self, at_s: FloatArray) -> NDArray[np.bool_]:
        """Which times lie in it; NaN does not."""
        return (at_s > self.start_s) & (at_s <= self.end_s)

    def parts(self, count: int) -> FloatArray:
        """The ends of so many equal parts, with the start in front."""
        return np.linspace(self.start_s, self.end_s, count + 1)


@dataclass(frozen=True, slots=True)
class Steady:
    """The steady window of a run, the time that a request is usually in service (s), and why there
    is no window that supports a rate (empty: there is one).
    """

    window: Window
    service_s: float
    reason: str


def steady_window(run: Run, requests: Requests) -> Steady:
    """Find the steady window.

    Model: full load lasts until the last start of a session (or request), and where a backlog is
    left then until the first queue of a rank is empty: its last first token. The warm-up ends where
    MSER has its least value over the tokens emitted in ``BINS`` equal parts of that time, and not
    before one usual service (first to last token). ``reason`` says why a window is too short: it
    holds fewer than ``SERVICES`` of them, or its throughput is known within ``MOST_ERROR`` only.
    Source: White, An effective truncation heuristic for bias reduction in simulation output (1997).
    Limits: a queue that grows while throughput stays is no warm-up; see ``growth_per_s``.
    """
    outcomes = run.outcomes
    arrival, first, finish = (
        np.array(values) for values in (outcomes.arrival_s, outcomes.first_s, outcomes.finish_s)
    )
    served = ~np.isnan(finish)
    if not served.any():
        return Steady(Window(0.0, 0.0), 0.0, "no request was finished")
    start_s = float(np.nanmin(np.where(np.isnan(first), np.nan, arrival)))
    starts = ~np.isnan(arrival) if requests.after is None else requests.after < 0
    last_s = float(np.nanmax(arrival[starts]))
    end_s = min(max(last_s, _first_queue_empty_s(run, first)), run.known_s, run.end_s)
    service_s = usual_stay_s((finish - first)[served])
    if end_s <= start_s:
        return Steady(Window(start_s, start_s), service_s, "all requests were in service at once")
    whole = Window(start_s, end_s)
    begin_s = max(warm_up_s(run.logs, whole), min(start_s + service_s, end_s))
    window = Window(begin_s, end_s)
    reason = _too_unsure(run.logs, Steady(window, service_s, ""))
    if window.length_s < SERVICES * service_s or window.length_s <= 0:
        reason = (
            f"{window.length_s:.3g} s of steady load are too short for requests that are in "
            f"service for {service_s:.3g} s"
            if window.length_s > 0
            else f"the load ends before it is steady; requests are in service for {service_s:.3g} s"
        )
    return Steady(window, service_s, reason)


def _too_unsure(logs: Sequence[StepLog], steady: Steady) -> str:
    tokens = tokens_in(logs, steady.window.parts(batches_for(steady)))
    if not tokens.any():
        return f"no token came in the {steady.window.length_s:.3g} s of steady load"
    error = relative_error(tokens)
    if error is None or error <= MOST_ERROR:
        return ""
    return f"rates are known within +-{min(error, 9.99) * 100:.0f} % only"


def usual_stay_s(stays_s: FloatArray) -> float:
    """How long those stay that one finds inside at any instant: long ones more often.

    Model: sum of squares over sum; NaN is left out, 0 if nothing is left.

    >>> usual_stay_s(np.array([1.0, 1.0, 4.0, np.nan]))
    3.0
    """
    known = stays_s[~np.isnan(stays_s)]
    total = float(known.sum())
    return float((known * known).sum()) / total if total > 0 else 0.0


def _first_queue_empty_s(run: Run, first_s: FloatArray) -> float:
    """When the first queue of a rank was empty for good: its last first token."""
    outcomes, ranks = run.outcomes, len(run.counts) // max(1, len(run.logs))
    home = np.array(outcomes.replica) * ranks + np.array(outcomes.rank)
    known = ~np.isnan(first_s) & (home >= 0)
    if len(np.unique(home[known])) < len(run.counts):
        return -math.inf  # some rank never had a queue
    last = np.full(len(run.counts), -math.inf)
    np.maximum.at(last, home[known], first_s[known])
    return float(last.min())


def warm_up_s(logs: Sequence[StepLog], whole: Window) -> float:
    """When the warm-up ends: the cut d of the series y that makes var(y[d:]) / (n - d) least."""
    tokens = tokens_in(logs, whole.parts(BINS))
    most = int(LATEST * len(tokens))
    left = np.arange(len(tokens), 0, -1)
    sums = np.cumsum(tokens[::-1])[::-1]
    squares = np.cumsum((tokens * tokens)[::-1])[::-1]
    spread = (squares / left - (sums / left) ** 2) / left
    cut = int(np.argmin(spread[: most + 1]))
    return whole.start_s + whole.length_s * cut / BINS


def tokens_in(logs: Sequence[StepLog], edges: FloatArray) -> FloatArray:
    """Output tokens emitted between each pair of edges (s): after the one, up to the other."""
    total = np.zeros(len(edges) - 1)
    for log in logs:
        total += _between(log.end_s, log.emitted, edges)
    return total


def prompt_tokens_in(logs: Sequence[StepLog], edges: FloatArray) -> FloatArray:
    """Tokens of prompts done between each pair of edges, those from the prefix cache with them."""
    total = np.zeros(len(edges) - 1)
    for log in logs:
        total += _between(log.prompt_s, log.prompt_tokens, edges)
    return total


def _between(
    at_s: Sequence[float], amounts: Sequence[int], edges: FloatArray
) -> NDArray[np.float64]:
    if not len(at_s):
        return np.zeros(len(edges) - 1)
    upto = np.concatenate([[0], np.cumsum(np.frombuffer(amounts, dtype=np.intc), dtype=np.int64)])  # type: ignore[call-overload]
    places = np.searchsorted(np.frombuffer(at_s), edges, side="right")  # type: ignore[call-overload]
    found: FloatArray = np.diff(upto[places]).astype(float)
    return found


def batches_for(steady: Steady) -> int:
    """Equal parts of a window in which means are nearly independent: at most one a service."""
    if steady.service_s <= 0:
        return BATCHES
    return int(np.clip(steady.window.length_s / steady.service_s, FEWEST, BATCHES))


def relative_error(values: FloatArray, weights: FloatArray | None = None) -> float | None:
    """Half of the 95 % interval of a (weighted) mean over batches, as a share of the mean.

    Model: ratio estimator over batches: t x sqrt(sum (w (y - mean))^2 n / (n - 1)) / (sum w mean),
    with what neighbours have in common (lag 1) counted. None without two batches or with mean 0.
    """
    known = ~np.isnan(values)
    y = values[known]
    w = np.ones(len(y)) if weights is None else weights[known]
    n, total = len(y), float(w.sum())
    if n < 2 or total <= 0:
        return None
    mean = float((w * y).sum()) / total
    if mean == 0:
        return None
    off = w * (y - mean)
    square = float((off * off).sum())
    neighbours = float((off[1:] * off[:-1]).sum())
    variance = max(square, square + 2 * neighbours) * n / (n - 1)
    return student_t(n - 1) * math.sqrt(variance) / (total * abs(mean))


def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's t.

    Model: expansion in 1 / freedom around the normal quantile, within 0.5 % from 4 on.
    Source: Abramowitz and Stegun 26.7.5.

    >>> round(student_t(19), 3), round(student_t(4), 2)
    (2.093, 2.78)
    """
    z, v = NormalDist().inv_cdf(0.5 + confidence / 2), freedom
    terms = (
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4),
    )
    return z + sum(terms)
