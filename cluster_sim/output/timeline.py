"""The timeline of a run, as a trace that Perfetto opens: what happened on each replica, and when.

A pure function of the recorded facts. A long run is sampled: whole windows of time show every step
with its operators, the rest shows runs of equal steps, and counters cover all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from cluster_sim import __version__
from cluster_sim.errors import SpecError
from cluster_sim.facts import Facts
from cluster_sim.output.timeline_counters import COUNTERS, counter_events, power_w
from cluster_sim.output.timeline_requests import Drawn, choose_requests, request_events
from cluster_sim.output.timeline_steps import (
    ReplicaSteps,
    Windows,
    new_runs,
    replica_steps,
    step_events,
)
from cluster_sim.output.trace_events import (
    Event,
    FloatArray,
    lane_events,
    process_events,
    slice_event,
    ticks,
)
from cluster_sim.result import Result

MAX_SLICES = 200_000  # in all: above it viewers get slow
DETAIL_SLICES = 100_000  # of them for steps with their operators
OVERVIEW_SLICES = 50_000  # for runs of equal steps between the windows
REQUEST_SLICES = MAX_SLICES - DETAIL_SLICES - OVERVIEW_SLICES
COUNTER_VALUES = 100_000  # in all
WINDOWS = 20  # of a sampled run
BISECTIONS = 40  # of the length of a window


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Events in the order of the file, what else the file says about itself, and the same in a
    line for the reader.
    """

    events: Iterator[Event]
    about: dict[str, Any]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What is drawn: between which times (s), the windows that show every step, whether the rest
    shows runs of steps, and which requests.
    """

    span: tuple[float, float]
    windows: Windows
    overview: bool
    drawn: Drawn

    @property
    def whole(self) -> bool:
        """Whether nothing was left out."""
        return list(self.windows) == [self.span]


def timeline(result: Result, window: tuple[float, float] | None = None) -> Timeline:
    """The timeline of a recorded run, or of a part of it (s).

    Raises SpecError if the run was not recorded.
    """
    facts = result.facts
    if facts is None:
        raise SpecError("the run was not recorded: simulate(..., record=True)")
    run, ranks = facts.run, facts.choice.layout.ranks
    span = window or (0.0, run.end_s)
    replicas = [replica_steps(tape, ranks, facts.price.families) for tape in run.tapes]
    choice = _choose(facts, replicas, span)
    about = _about(facts, result, replicas, choice)
    return Timeline(
        events=_events(facts, result, replicas, choice),
        about=about,
        note="; ".join(about["notes"]),
    )


def _choose(facts: Facts, replicas: Sequence[ReplicaSteps], span: tuple[float, float]) -> _Choice:
    """What fits the number of slices."""
    ranks = facts.choice.layout.ranks
    slices_a_step = ranks * (1 + len(facts.price.families) + (ranks > 1))
    starts_s = np.sort(np.concatenate([replica.starts_s for replica in replicas]))
    windows = choose_windows(starts_s, DETAIL_SLICES // slices_a_step, span)
    return _Choice(
        span=span,
        windows=windows,
        overview=_overview_slices(replicas, span) <= OVERVIEW_SLICES,
        drawn=choose_requests(facts.run, *span, REQUEST_SLICES),
    )


def choose_windows(starts_s: FloatArray, most: int, span: tuple[float, float]) -> Windows:
    """The whole span, or equal windows spread evenly from its beginning to its end, as long as at
    most ``most`` steps start in them.
    """

    def count(windows: Windows) -> int:
        edges = np.searchsorted(starts_s, np.array(windows))
        return int((edges[:, 1] - edges[:, 0]).sum())

    def of(length_s: float) -> Windows:
        gap_s = (span[1] - span[0] - length_s) / (WINDOWS - 1)
        begins = [span[0] + number * gap_s for number in range(WINDOWS)]
        return [(begin, begin + length_s) for begin in begins]

    if count([span]) <= most:
        return [span]
    low, high = 0.0, (span[1] - span[0]) / WINDOWS
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if count(of(middle)) <= most else (low, middle)
    return of(low)


def _overview_slices(replicas: Sequence[ReplicaSteps], span: tuple[float, float]) -> int:
    """At most so many slices show runs of equal steps; windows and waiting cut them up."""
    total = WINDOWS
    for replica in replicas:
        seen = (replica.starts_s >= span[0]) & (replica.starts_s < span[1])
        for steps in replica.ranks:
            drawn = seen[steps.number]
            pauses = np.diff(steps.number) > 1
            total += int((new_runs(replica, steps) & drawn).sum()) + int(pauses.sum())
            total += 2 + 2 * WINDOWS
    return total


def _events(
    facts: Facts, result: Result, replicas: Sequence[ReplicaSteps], choice: _Choice
) -> Iterator[Event]:
    layout, families = facts.choice.layout, facts.price.families
    chips = layout.devices / facts.machine.chip.devices_per_chip
    points = max(1, COUNTER_VALUES // (COUNTERS * len(replicas)))
    rank_name = "engine"
    if layout.ranks > 1:
        rank_name = "micro-batch" if layout.pp > 1 else "attention group"
    rest = [choice.span] if choice.overview else []
    for index, replica in enumerate(replicas):
        process = index + 1
        power = power_w(facts.machine, families, replica, chips)
        yield from chain(
            process_events(process, f"replica {index}"),
            counter_events(process, index, facts.run, replica, power, choice.span, points),
            step_events(process, replica, families, choice.windows, rest, rank_name),
            request_events(process, index, facts.run, choice.drawn, result.requests),
        )
    if not choice.whole:
        process = len(replicas) + 1
        yield from process_events(process, "what is drawn")
        yield from lane_events(process, 1, "every step")
        for start, end in ticks(np.array(choice.windows)).tolist():
            if end > start:
                yield slice_event(process, 1, "every step", start, end)


def _about(
    facts: Facts, result: Result, replicas: Sequence[ReplicaSteps], choice: _Choice
) -> dict[str, Any]:
    """What the file says about itself, with notes on what was left out."""
    first_s, last_s = choice.span
    steps = sum(len(replica.starts_s) for replica in replicas)
    drawn = choice.drawn
    notes = []
    if choice.whole:
        notes.append("every step is drawn")
    else:
        length_s = choice.windows[0][1] - choice.windows[0][0]
        share = length_s * len(choice.windows) / (last_s - first_s)
        notes.append(
            f"{len(choice.windows)} windows of {length_s:.3g} s, evenly over the time, "
            f"show every step ({share:.1%} of it)"
        )
        between = "runs of equal steps are one slice" if choice.overview else "no steps are drawn"
        notes.append(f"between them {between}")
    if drawn.every > 1:
        notes.append(f"one request in {drawn.every} is drawn")
    if first_s >= facts.run.end_s:
        notes.append(f"the run ends at {facts.run.end_s:.3f} s, before this window")
    return {
        "notes": notes,
        "run_id": result.summary["run_id"],
        "version": __version__,
        "seed": facts.job.workload.seed,
        "span_s": [first_s, last_s],
        "windows_s": [list(window) for window in choice.windows],
        "engine_steps": steps,
        "requests_drawn": len(drawn.number),
        "requests_in_span": drawn.of,
        "partial": result.partial,
    }
