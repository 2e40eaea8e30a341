"""The timeline of a training step on one pipeline, as events that Perfetto opens: a process per
stage, with lanes for what it computes, what its collectives move and what it sends, and a counter
of the memory of a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby

import numpy as np

from cluster_sim.output.timeline import MAX_SLICES, Timeline
from cluster_sim.output.trace_events import (
    Event,
    counter_event,
    lane_events,
    pack,
    process_events,
    slice_event,
    ticks,
)
from cluster_sim.training.memory import Series
from cluster_sim.training.schedule import Schedule
from cluster_sim.training.step_work import Record

_LANES = ("compute", "collective", "p2p")
_NAMES = {"F": "forward", "B": "backward", "W": "weight gradient"}
_SENDS = {"F": "send activations", "B": "send gradients"}


def training_events(plan: Schedule, records: Sequence[Record]) -> Iterator[Event]:
    """The events of a step's records, stage by stage. What overlaps on a lane, as an overlapped
    forward and backward pass do, gets lanes of its own.
    """
    ordered = sorted(records, key=lambda r: (r.stage, _LANES.index(r.lane), r.start_s, r.end_s))
    for stage, of_stage in groupby(ordered, key=lambda record: record.stage):
        process, first = stage + 1, 1
        yield from process_events(process, f"stage {stage}")
        for lane, of_lane in groupby(of_stage, key=lambda record: record.lane):
            drawn = list(of_lane)
            starts = ticks(np.array([record.start_s for record in drawn])).tolist()
            ends = ticks(np.array([record.end_s for record in drawn])).tolist()
            numbers = pack(starts, ends)
            for number in range(max(numbers) + 1):
                name = f"{lane} {number + 1}" if number else lane
                yield from lane_events(process, first + number, name)
            for record, number, start, end in zip(drawn, numbers, starts, ends, strict=True):
                args = _args(plan, record)
                yield slice_event(process, first + number, _name(record), start, end, args)
            first += max(numbers) + 1


def memory_events(memory: Sequence[Series]) -> Iterator[Event]:
    """The memory of each stage, where it changes."""
    for stage, series in enumerate(memory):
        before = None
        for at, (_, held) in zip(ticks(np.array([at for at, _ in series])), series, strict=True):
            value = round(held / 2**30, 3)
            if value != before:
                yield counter_event(stage + 1, "memory", "GiB", int(at), value)
            before = value


def training_timeline(
    plan: Schedule, records: Sequence[Record], memory: Sequence[Series]
) -> Timeline:
    """The timeline of a step on one pipeline; of a very long one the first operations."""
    drawn = sorted(records, key=lambda record: record.start_s)[:MAX_SLICES]
    about = {"schedule": plan.name, "stages": plan.stages, "micro_batches": plan.micro_batches}
    note = f"one pipeline of {plan.stages} stages, {len(records):,} operations"
    if len(drawn) < len(records):
        note += f", of which the first {len(drawn):,} are drawn"
    return Timeline(
        events=chain(training_events(plan, drawn), memory_events(memory)),
        about={**about, "notes": [note]},
        note=note,
    )


def _name(record: Record) -> str:
    names = _SENDS if record.lane == "p2p" else _NAMES
    name = names.get(record.kind, record.kind)
    return f"{name} {record.micro_batch}" if record.micro_batch >= 0 else name


def _args(plan: Schedule, record: Record) -> dict[str, int] | None:
    if record.kind == "optimizer":
        return None
    return {"virtual_stage": plan.virtual(record.stage, record.chunk)}
