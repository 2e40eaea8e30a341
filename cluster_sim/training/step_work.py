"""What a training step is made of: the work of each virtual stage, and what it sends and reduces.

The types that prices fill in and ``events`` plays; resources are known by their index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from cluster_sim.training.pipeline import Times
from cluster_sim.training.schedule import Schedule
from cluster_sim.work import Activity, Phase

Phases = tuple[Phase, ...]
Lane = Literal["compute", "p2p", "collective"]
# When buckets of gradients are ready: bucket by bucket during the last pass over the virtual stage,
# after it, or after all passes of the stage.
Ready = Literal["during", "after", "end"]
# What of its parameters a virtual stage needs: a bucket for as large a part of its first pass, or
# all before it.
Needed = Literal["during", "before"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """One step of a pipeline on its resources.

    Per virtual stage: phases of a ``forward`` pass, of a ``backward`` pass (the gradient of its
    inputs), of its ``weight`` gradient, and of the overlapped ``forward_backward`` pair of its
    forward pass with a whole backward pass of the stage's other chunk (None: those one after the
    other); ``gradients``: buckets, reduced from when they are ready on; ``gathers``: buckets of
    parameters, gathered from the start of the step on for its first forward pass.

    Per boundary (v: between virtual stages v and v + 1): the sends, None where they take no time;
    those within a stage are not used. Per stage: the ``optimizer``, None for none. ``barrier_s``
    passes after all stages have all gradients, before any optimizer: the global norm.

    Raises ValueError where the lengths do not fit the schedule, or a resource has no capacity.
    """

    schedule: Schedule
    forward: tuple[Phases, ...]
    backward: tuple[Phases, ...]
    weight: tuple[Phases, ...]
    forward_backward: tuple[Phases, ...] | None = None
    send_forward: tuple[Activity | None, ...] | None = None
    send_backward: tuple[Activity | None, ...] | None = None
    gradients: tuple[tuple[Activity, ...], ...] | None = None
    gradients_ready: Ready = "after"
    gathers: tuple[tuple[Activity, ...], ...] | None = None
    gathers_needed: Needed = "before"
    optimizer: tuple[Activity | None, ...] | None = None
    barrier_s: float = 0.0
    capacity: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        virtual = self.schedule.virtual_stages
        for count, per, names in (
            (virtual, "virtual stage", ("forward", "backward", "weight", "forward_backward")),
            (virtual, "virtual stage", ("gradients", "gathers")),
            (virtual - 1, "boundary", ("send_forward", "send_backward")),
            (self.schedule.stages, "stage", ("optimizer",)),
        ):
            for name in names:
                given = getattr(self, name)
                if given is not None and len(given) != count:
                    raise ValueError(f"{name}: {len(given)} given, must be one per {per}({count})")
        if not 0 <= self.barrier_s < math.inf:
            raise ValueError(f"barrier_s(={self.barrier_s}) must be finite and not negative")
        highest = max(
            (r for activity in self._activities() for r in activity.resources), default=-1
        )
        if highest >= len(self.capacity):
            raise ValueError(f"resource {highest} has no capacity: {len(self.capacity)} are given")

    def _activities(self) -> Iterator[Activity]:
        for phases_of in (self.forward, self.backward, self.weight, self.forward_backward):
            for phases in phases_of or ():
                yield from (phase.activity for phase in phases)
        for buckets_of in (self.gradients, self.gathers):
            for buckets in buckets_of or ():
                yield from buckets
        for some in (self.send_forward, self.send_backward, self.optimizer):
            yield from (activity for activity in some or () if activity is not None)


class Record(NamedTuple):
    """Something that a stage did. Kinds of the compute lane: F, B, W, optimizer; of p2p: F, B (sent
    by this stage); of collective: gather, gradient, one record per bucket. ``micro_batch`` is -1
    where it is of none. The two of an overlapped pair have the same times.
    """

    stage: int
    lane: Lane
    kind: str
    micro_batch: int
    chunk: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """Where the time of a stage goes, which adds up to the step: ``slowed_s`` is part of the busy
    time and ``p2p_exposed_s`` of the bubble.

    ``slowed_s``: by how much operations took longer than alone.
    ``gather_exposed_s``: it had everything but parameters, before or in an operation.
    ``gradient_exposed_s``: from its last operation to its last gradient bucket. ``norm_s``: the
    norm of all gradients. ``bubble_s``: it waited for other stages. ``p2p_exposed_s``: what it
    needed was done but still on its way.
    """

    busy_s: float
    slowed_s: float
    gather_exposed_s: float
    gradient_exposed_s: float
    norm_s: float
    optimizer_s: float
    bubble_s: float
    p2p_exposed_s: float


def alone_s(phases: Sequence[Phase]) -> float:
    """How long phases take one after the other when nobody else is there."""
    return sum(phase.activity.alone_s for phase in phases)


def part_of(phases: Phases, parts: int) -> Phases:
    """One of so many equal parts of phases."""
    if parts == 1:
        return phases
    return tuple(
        replace(
            phase,
            activity=replace(
                phase.activity,
                alone_s=phase.activity.alone_s / parts,
                size=phase.activity.size / parts,
                demand=tuple(demand / parts for demand in phase.activity.demand),
            ),
        )
        for phase in phases
    )


def times_alone(work: StepWork) -> Times:
    """The times of a step's work when nothing shares, for the closed form."""

    def sends(given: tuple[Activity | None, ...] | None) -> list[float] | float:
        if given is None:
            return 0.0
        return [activity.alone_s if activity else 0.0 for activity in given]

    pair = work.forward_backward
    return Times(
        forward_s=[alone_s(phases) for phases in work.forward],
        backward_s=[alone_s(phases) for phases in work.backward],
        weight_s=[alone_s(phases) for phases in work.weight],
        forward_backward_s=None if pair is None else [alone_s(phases) for phases in pair],
        send_forward_s=sends(work.send_forward),
        send_backward_s=sends(work.send_backward),
    )
