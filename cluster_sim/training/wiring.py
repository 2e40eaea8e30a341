"""Which operations of a schedule need parameters first, and give gradients last."""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.training.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Per virtual stage: the node of its first forward pass and of its last weight gradient, both
    in the order of nodes.
    """

    first_forward: dict[int, int]
    last_gradient: dict[int, int]


def wire(plan: Schedule) -> Wiring:
    """The wiring of a schedule."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, (stage, ops, *_) in enumerate(plan.nodes):
        for op in ops:
            if op.kind == "F":
                first.setdefault(plan.virtual(stage, op.chunk), number)
            elif op.whole or op.kind == "W":
                last[plan.virtual(stage, op.chunk)] = number
    return Wiring(
        first_forward=first,
        last_gradient=dict(sorted(last.items(), key=lambda item: item[1])),
    )
