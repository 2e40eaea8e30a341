"""The requests of a run: when each arrives and how long its prompt and its answer are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cluster_sim.specs.workload import Lengths

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What prompts begin with: request i starts with the units ``ids[offsets[i]:offsets[i + 1]]``
    of ``unit_tokens`` tokens each; equal ids after equal ids hold equal tokens.
    """

    offsets: IntArray
    ids: IntArray
    unit_tokens: int

    def of(self, request: int) -> list[int]:
        """The units of one request."""
        first, last = self.offsets[request], self.offsets[request + 1]
        units: list[int] = self.ids[first:last].tolist()
        return units


@dataclass(frozen=True, slots=True)
class Requests:
    """Arrival times (s, not falling) and lengths (tokens), one entry a request.

    In a closed loop ``arrival_s`` is the earliest time: the first ``concurrency`` requests start at
    0, the next ones at the instant of a finish. ``skipped_rows`` counts rows of a trace that were
    left out on request.

    Turns of a session: ``after[i]`` is the request whose end request i waits for (-1: none), it
    arrives ``think_s[i]`` later; its ``arrival_s`` is that of the first turn. ``slo_class[i]``
    numbers the class of a mix, ``priority[i]`` is its urgency (lower first). ``prefixes`` are what
    a prefix cache can share.
    """

    arrival_s: FloatArray
    isl: IntArray
    osl: IntArray
    skipped_rows: int = 0
    after: IntArray | None = None
    think_s: FloatArray | None = None
    slo_class: IntArray | None = None
    priority: IntArray | None = None
    prefixes: Prefixes | None = None

    def __len__(self) -> int:
        return len(self.isl)

    def at_rate(self, rate_per_s: float) -> Requests:
        """The same requests with gaps scaled so that they come at a mean rate (arrivals per
        second).
        """
        span = float(self.arrival_s[-1])
        scale = len(self) / (rate_per_s * span) if span > 0 else 0.0
        return replace(self, arrival_s=self.arrival_s * scale)


def draw_lengths(lengths: Lengths, count: int, rng: np.random.Generator) -> IntArray:
    """Token counts from a fixed length or by inverting the piecewise-linear quantile function;
    shape (count,).
    """
    if lengths.fixed is not None:
        return np.full(count, lengths.fixed, dtype=np.int64)
    shares, tokens = zip(*(lengths.quantiles or ()), strict=True)
    drawn = np.interp(rng.random(count), shares, tokens)
    tokens_drawn: IntArray = np.maximum(1, np.rint(drawn)).astype(np.int64)
    return tokens_drawn


def draw_requests(isl: Lengths, osl: Lengths, cv: float, count: int, seed: int) -> Requests:
    """Seeded requests with Gamma gaps of mean 1 s and coefficient of variation ``cv`` (shape
    1/cv^2; 1 is Poisson).

    Gaps, prompts and answers come from three streams spawned from the seed, so that changing one
    leaves the others.
    """
    gaps, prompts, answers = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)
    )
    shape = 1.0 / cv**2
    arrival_s = np.cumsum(gaps.gamma(shape, 1.0 / shape, count))
    return Requests(arrival_s, draw_lengths(isl, count, prompts), draw_lengths(osl, count, answers))


def all_at_once(requests: Requests) -> Requests:
    """The same requests, all queued at time 0: the offline case, and what saturation is measured
    with.
    """
    return replace(requests, arrival_s=np.zeros(len(requests)))
