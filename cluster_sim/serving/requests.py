"""The requests of a run: when each arrives, how long its prompt and its answer are, what it waits
for and what it shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What requests begin with, in units of ``unit_tokens`` tokens.

    Prompt and answer of request i start with runs: entry j of ``offsets[i]:offsets[i + 1]`` is the
    first ``units[j]`` units of the endless text ``ids[j]``. Equal ids behind equal beginnings are
    equal texts.
    """

    offsets: IntArray
    ids: IntArray
    units: IntArray
    unit_tokens: int

    def of(self, request: int) -> list[tuple[int, int]]:
        """The runs of one request: text and units."""
        first, last = self.offsets[request], self.offsets[request + 1]
        return list(
            zip(self.ids[first:last].tolist(), self.units[first:last].tolist(), strict=True)
        )

    def first(self, count: int) -> Prefixes:
        """Those of the first requests."""
        end = self.offsets[count]
        return Prefixes(
            self.offsets[: count + 1], self.ids[:end], self.units[:end], self.unit_tokens
        )


def prefixes_of_runs(
    runs: Sequence[tuple[IntArray, IntArray]], unit_tokens: int
) -> Prefixes | None:
    """Prefixes from one (ids, units) pair of columns a place in the chain; runs of no unit are left
    out. None if nothing is left.
    """
    ids = np.stack([column for column, _ in runs], axis=1)
    units = np.stack([column for _, column in runs], axis=1)
    there = units > 0
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64)
    if offsets[-1] == 0:
        return None
    return Prefixes(offsets, ids[there], units[there], unit_tokens)


@dataclass(frozen=True, slots=True)
class Requests:
    """Arrival times (s) and lengths (tokens), one entry a request; times do not fall.

    In a closed loop ``arrival_s`` is the earliest time: the first ``concurrency`` requests start at
    0, the next ones at the instant of a finish. ``skipped_rows`` counts rows of a trace that were
    left out on request, ``failed_rows`` those that record a request without an answer; ``timed``:
    they come at their own times, ``assumed`` is what their trace did not say.

    Turns of a session: ``after[i]`` < i is the request whose end request i waits for (-1: none); it
    arrives ``think_s[i]`` after that, and not before its own ``arrival_s``. ``slo_class[i]`` is its
    class in ``class_names``, ``priority[i]`` its urgency (lower first). ``prefixes`` are what a
    prefix cache can share.
    """

    arrival_s: FloatArray
    isl: IntArray
    osl: IntArray
    skipped_rows: int = 0
    failed_rows: int = 0
    after: IntArray | None = None
    think_s: FloatArray | None = None
    slo_class: IntArray | None = None
    class_names: tuple[str, ...] = ()
    priority: IntArray | None = None
    prefixes: Prefixes | None = None
    timed: bool = True
    assumed: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.isl)

    @property
    def starts(self) -> int:
        """Requests that wait for no other: sessions, or all."""
        return len(self) if self.after is None else int((self.after < 0).sum())

    def at_rate(self, rate_per_s: float) -> Requests:
        """The same requests with gaps scaled so that sessions start (without sessions: requests
        come) at a mean rate.
        """
        span = float(self.arrival_s[-1])
        scale = self.starts / (rate_per_s * span) if span > 0 else 0.0
        return replace(self, arrival_s=self.arrival_s * scale)

    def faster(self, factor: float) -> Requests:
        """The same requests with all gaps divided by a factor."""
        return replace(self, arrival_s=self.arrival_s / factor)

    def take(self, places: IntArray) -> Requests:
        """Those at some places, in that order; for requests that neither wait for others nor share
        anything. Times are no longer in order.
        """

        def pick(values: NDArray[Any] | None) -> Any:
            return None if values is None else values[places]

        return replace(
            self,
            arrival_s=self.arrival_s[places],
            isl=self.isl[places],
            osl=self.osl[places],
            slo_class=pick(self.slo_class),
            priority=pick(self.priority),
        )

    def first(self, count: int) -> Requests:
        """The first ``count`` requests; who waits for another still finds it among them."""

        def cut(values: NDArray[Any] | None) -> Any:
            return None if values is None else values[:count]

        return replace(
            self,
            arrival_s=self.arrival_s[:count],
            isl=self.isl[:count],
            osl=self.osl[:count],
            after=cut(self.after),
            think_s=cut(self.think_s),
            slo_class=cut(self.slo_class),
            priority=cut(self.priority),
            prefixes=self.prefixes.first(count) if self.prefixes is not None else None,
        )


def all_at_once(requests: Requests) -> Requests:
    """The same requests, all queued at time 0: the offline case, and what saturation is measured
    with.
    """
    return replace(requests, arrival_s=np.zeros(len(requests)))


def without_pauses(requests: Requests) -> Requests:
    """All at once, and every turn at the end of the former one."""
    if requests.after is None:
        return all_at_once(requests)
    return replace(all_at_once(requests), think_s=np.zeros(len(requests)))
