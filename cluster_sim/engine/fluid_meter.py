"""What each resource carried and how busy it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.work import Activity


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Per resource, up to ``at_s``: the amount that it carried, seconds with any activity, the
    largest share of its capacity in use, and the integral of that share over time.
    """

    at_s: float
    carried: NDArray[np.float64]
    busy_s: NDArray[np.float64]
    peak: NDArray[np.float64]
    utilisation_s: NDArray[np.float64]


class Meter:
    """The running counters. Amounts are added when an activity leaves, so that those of complete
    activities add up without rounding from the changes between.
    """

    def __init__(self, capacity: list[float]) -> None:
        self.capacity = capacity
        self.carried = [0.0] * len(capacity)
        self.busy_s = [0.0] * len(capacity)
        self.peak = [0.0] * len(capacity)
        self.users = [0] * len(capacity)
        self._since_s = [0.0] * len(capacity)
        # The integral up to the last change of a capacity, and what had been carried by then.
        self._utilisation_s = [0.0] * len(capacity)
        self._carried_then = [0.0] * len(capacity)

    def alone(self, activity: Activity, share: float, seconds: float) -> None:
        """A part of an activity that had its resources to itself and ran at its alone rate."""
        alone_s, capacity, peak = activity.alone_s, self.capacity, self.peak
        for r, demand in zip(activity.resources, activity.demand, strict=True):
            self.carried[r] += share * demand
            self.busy_s[r] += seconds
            if seconds > 0 and demand > peak[r] * capacity[r] * alone_s:
                peak[r] = demand / (alone_s * capacity[r])

    def carry(self, activity: Activity, share: float) -> None:
        """A part of an activity."""
        for r, demand in zip(activity.resources, activity.demand, strict=True):
            self.carried[r] += share * demand

    def enter(self, activity: Activity, now_s: float) -> None:
        """An activity begins to share its resources."""
        for r in activity.resources:
            if not self.users[r]:
                self._since_s[r] = now_s
            self.users[r] += 1

    def leave(self, activity: Activity, now_s: float) -> None:
        """An activity that shared its resources is gone."""
        for r in activity.resources:
            self.users[r] -= 1
            if not self.users[r]:
                self.busy_s[r] += now_s - self._since_s[r]

    def resize(self, resource: int, capacity: float, carried: float) -> None:
        """A capacity changes after so much has been carried."""
        self._utilisation_s[resource] += self._since_resized(resource, carried)
        self._carried_then[resource] = carried
        self.capacity[resource] = capacity

    def _since_resized(self, resource: int, carried: float) -> float:
        capacity = self.capacity[resource]
        return (carried - self._carried_then[resource]) / capacity if capacity > 0 else 0.0

    def copy(self) -> Meter:
        """A meter that reads the same and counts on its own."""
        twin = Meter(self.capacity)
        for name, values in vars(self).items():
            setattr(twin, name, values.copy())
        return twin

    def counters(self, now_s: float, peak: Sequence[float] | NDArray[np.float64]) -> Counters:
        """What the meter reads now, with the peaks of shared use."""
        busy = [
            busy + (now_s - since if users else 0.0)
            for busy, since, users in zip(self.busy_s, self._since_s, self.users, strict=True)
        ]
        utilisation = [
            before + self._since_resized(r, self.carried[r])
            for r, before in enumerate(self._utilisation_s)
        ]
        return Counters(
            at_s=now_s,
            carried=np.array(self.carried),
            busy_s=np.array(busy),
            peak=np.maximum(self.peak, peak),
            utilisation_s=np.array(utilisation),
        )
