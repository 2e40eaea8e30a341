"""What is done: activities that drain shared resources, and the phases of a step.

These are the types that prices and the clock exchange. Resources are known by their index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["traffic", "kernel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Work that takes ``alone_s`` when nobody else is there.

    ``demand[i]`` is the TOTAL amount (bytes, SM-seconds) that it uses of ``resources[i]`` over its
    whole life. ``size`` is the number in which fairness counts: of activities that share a full
    resource, all that are held back by it progress at the same ``size / weight`` per second.
    ``weight`` is 1, or m for m folded flows. ``traffic`` goes before ``kernel``: kernels get what
    traffic leaves.

    Raises ValueError for numbers without meaning.
    """

    kind: Kind
    alone_s: float
    size: float
    resources: tuple[int, ...] = ()
    demand: tuple[float, ...] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.alone_s < math.inf:
            raise ValueError(f"alone_s(={self.alone_s}) must be finite and not negative")
        if len(self.resources) != len(self.demand):
            raise ValueError(
                f"{len(self.resources)} resources(={self.resources}) need as many amounts"
                f" in demand(={self.demand})"
            )
        if not self.resources:
            return
        if not self.alone_s > 0:
            raise ValueError("alone_s(=0) must be > 0 where resources are used")
        if not 0 < self.size < math.inf or not 0 < self.weight < math.inf:
            raise ValueError(
                f"size(={self.size}) and weight(={self.weight}) must be > 0 and finite"
            )
        if not (min(self.demand) > 0 and max(self.demand) < math.inf):
            raise ValueError(f"demand(={self.demand}) must be > 0 and finite; leave out zeros")
        if len(set(self.resources)) < len(self.resources) or min(self.resources) < 0:
            raise ValueError(f"resources(={self.resources}) must be distinct and not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A named part of a step."""

    name: str
    activity: Activity


def traffic(
    alone_s: float,
    links: Mapping[int, float],
    ends: Mapping[int, float] | None = None,
    weight: float = 1.0,
    size: float | None = None,
) -> Activity:
    """Bytes over ``links``; its fairness counts the bytes on the most loaded of them, or ``size``.
    ``ends`` are the SM time and memory bytes that it takes at its ends.
    """
    demand = {**links, **(ends or {})}
    return Activity(
        kind="traffic",
        alone_s=alone_s,
        size=max(links.values()) if size is None else size,
        resources=tuple(demand),
        demand=tuple(demand.values()),
        weight=weight,
    )


def kernel(alone_s: float, demand: Mapping[int, float]) -> Activity:
    """A kernel that uses ``demand`` of SM time and memory bytes; its fairness counts its time
    alone.
    """
    return Activity(
        kind="kernel",
        alone_s=alone_s,
        size=alone_s,
        resources=tuple(demand),
        demand=tuple(demand.values()),
    )


def pause(seconds: float) -> Activity:
    """Time that passes without a shared resource, such as the host's."""
    return Activity(kind="kernel", alone_s=seconds, size=seconds)
