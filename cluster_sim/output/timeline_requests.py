"""Requests on a timeline: a slice each, with its phases inside, on as few lanes as hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster_sim.output.trace_events import (
    Event,
    FloatArray,
    IntArray,
    depth,
    lane_events,
    pack,
    slice_event,
    ticks,
)
from cluster_sim.serving.records import Status
from cluster_sim.serving.service import Run
from cluster_sim.serving.tape import Move, moves_of

MAX_LANES = 256  # of requests, a replica: more than a viewer shows well
FIRST_LANE = 1000  # behind those of the ranks
_PHASE_AFTER = {Move.ADMITTED: "prefill", Move.PREEMPTED: "preempted", Move.PROMPTED: "decode"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The requests that are drawn, one in ``every`` of ``of``: number, replica, start and end
    (ticks).
    """

    number: IntArray
    replica: IntArray
    start: IntArray
    end: IntArray
    every: int
    of: int


def choose_requests(run: Run, first_s: float, last_s: float, most_slices: int) -> Drawn:
    """Those that are in the service between two times; every k-th if they make too many slices or
    lanes.
    """
    outcomes = run.outcomes
    replica = np.array(outcomes.replica, dtype=np.int64)
    finished = np.array(outcomes.status) == Status.FINISHED
    arrival_s = np.array(outcomes.arrival_s)
    end_s = np.where(finished, np.array(outcomes.finish_s), run.end_s)
    seen = (replica >= 0) & (arrival_s < last_s) & (end_s > first_s) & (end_s > arrival_s)
    number = np.flatnonzero(seen)
    replica, start, end = replica[seen], ticks(arrival_s[seen]), ticks(end_s[seen])
    # A slice for the request, and a phase for each preemption, its recompute and what follows.
    slices = int((4 + 3 * np.array(outcomes.preemptions)[seen]).sum())
    every = max(1, -(-slices // most_slices))
    while _lanes(replica[::every], start[::every], end[::every]) > MAX_LANES:
        every += max(1, every // 8)
    return Drawn(
        number=number[::every],
        replica=replica[::every],
        start=start[::every],
        end=end[::every],
        every=every,
        of=len(number),
    )


def _lanes(replica: IntArray, start: IntArray, end: IntArray) -> int:
    indices = range(int(replica.max(initial=-1)) + 1)
    return max((depth(start[replica == i], end[replica == i]) for i in indices), default=0)


def request_events(
    process: int, index: int, run: Run, drawn: Drawn, table: Mapping[str, Sequence[Any]]
) -> Iterator[Event]:
    """The requests of one replica; ``table`` has the columns of requests.csv."""
    mine = np.flatnonzero(drawn.replica == index)
    mine = mine[np.lexsort((drawn.number[mine], drawn.start[mine]))]
    numbers = drawn.number[mine].tolist()
    starts, ends = drawn.start[mine].tolist(), drawn.end[mine].tolist()
    lanes = pack(starts, ends)
    for number in range(max(lanes, default=-1) + 1):
        yield from lane_events(process, FIRST_LANE + number, f"requests {number + 1}")
    phases = _Phases(*moves_of(run.tapes[index]))
    for request, start, end, number in zip(numbers, starts, ends, lanes, strict=True):
        isl, osl = int(table["isl"][request]), int(table["osl"][request])
        name = f"request {request}: {isl:,} in, {osl:,} out"
        args = _args(request, table)
        yield slice_event(process, FIRST_LANE + number, name, start, end, args)
        for phase, begins, stops in phases.of(request, start, end):
            yield slice_event(process, FIRST_LANE + number, phase, begins, stops)


def _args(request: int, table: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    args: dict[str, Any] = {"request": request, "status": table["status"][request]}
    for column in ("isl", "osl", "replica", "preemptions"):
        args[column] = int(table[column][request])
    for column in ("ttft_ms", "tpot_ms", "e2e_ms"):
        value = float(table[column][request])
        if value == value:
            args[column] = round(value, 6)
    args["within_slo"] = bool(table["within_slo"][request])
    return args


class _Phases:
    """What the moves of a replica's requests say about their phases."""

    def __init__(self, request: IntArray, kind: IntArray, at_s: FloatArray) -> None:
        self.request, self.kind, self.at = request, kind.tolist(), ticks(at_s).tolist()

    def of(self, request: int, start: int, end: int) -> Iterator[tuple[str, int, int]]:
        """Phases of a request that have a length, from its arrival to its end."""
        phase, since = "queued", start
        first, last = np.searchsorted(self.request, (request, request + 1)).tolist()
        for at, kind in zip(self.at[first:last], self.kind[first:last], strict=True):
            if at > since:
                yield phase, since, at
            phase, since = _PHASE_AFTER[Move(kind)], at
        if end > since:
            yield phase, since, end
