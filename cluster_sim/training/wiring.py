"""Who waits for whom in a schedule, turned around: what follows when an operation is done."""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.training.orders import Kind
from cluster_sim.training.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Per node of a schedule: how many others it waits for, the next of its stage (-1: none), who
    gets its results over which boundary (-1: within the stage), and the virtual stage of which it
    computes weight gradients (-1: none).

    Per virtual stage: the node of its first forward pass and of its last weight gradient, both in
    the order of nodes, and the number of its weight gradients. ``nodes_of``: of each stage.
    """

    waits: tuple[int, ...]
    next: tuple[int, ...]
    gets: tuple[tuple[tuple[int, int, Kind], ...], ...]
    completes: tuple[int, ...]
    first_forward: dict[int, int]
    last_gradient: dict[int, int]
    gradients: tuple[int, ...]
    nodes_of: tuple[int, ...]


def wire(plan: Schedule) -> Wiring:
    """The wiring of a schedule."""
    count = len(plan.nodes)
    follows, completes, waits = [-1] * count, [-1] * count, [0] * count
    gets: list[tuple[tuple[int, int, Kind], ...]] = [()] * count
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    gradients, nodes_of = [0] * plan.virtual_stages, [0] * plan.stages
    for number, (stage, ops, _, _, before, needs) in enumerate(plan.nodes):
        nodes_of[stage] += 1
        waits[number] = len(needs)
        if before >= 0:
            follows[before] = number
            waits[number] += 1
        for source, boundary, kind in needs:
            gets[source] += ((number, boundary, kind),)
        for op in ops:
            if op.kind == "F":
                first.setdefault(plan.virtual(stage, op.chunk), number)
            elif op.whole or op.kind == "W":
                virtual = plan.virtual(stage, op.chunk)
                gradients[virtual] += 1
                completes[number], last[virtual] = virtual, number
    return Wiring(
        waits=tuple(waits),
        next=tuple(follows),
        gets=tuple(gets),
        completes=tuple(completes),
        first_forward=first,
        last_gradient=dict(sorted(last.items(), key=lambda item: item[1])),
        gradients=tuple(gradients),
        nodes_of=tuple(nodes_of),
    )
