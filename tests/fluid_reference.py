"""The fluid rule, as plainly as it can be written: everything is solved again at every change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster_sim.work import Activity

ROUNDING = 1e-12


def naive_rates(activities: Sequence[Activity], capacity: Sequence[float]) -> list[float]:
    """Progressive filling, one freezing level after the other."""
    rate = [1 / a.alone_s if a.alone_s > 0 else math.inf for a in activities]
    used = [0.0] * len(capacity)
    for kind in ("traffic", "kernel"):
        free = [c - u if c - u > ROUNDING * c else 0.0 for c, u in zip(capacity, used, strict=True)]
        rising = [i for i, a in enumerate(activities) if a.kind == kind and a.resources]
        frozen_use = [0.0] * len(capacity)
        while rising:
            load = [0.0] * len(capacity)
            for i in rising:
                a = activities[i]
                for r, d in zip(a.resources, a.demand, strict=True):
                    load[r] += d * a.weight / a.size
            full_at = [
                max(f - u, 0.0) / x if x else math.inf
                for f, u, x in zip(free, frozen_use, load, strict=True)
            ]
            ceiling = {
                i: activities[i].size / activities[i].alone_s / activities[i].weight for i in rising
            }
            level = min(*ceiling.values(), *full_at)
            still = []
            for i in rising:
                a = activities[i]
                full = any(full_at[r] <= level * (1 + ROUNDING) for r in a.resources)
                if not full and ceiling[i] > level * (1 + ROUNDING):
                    still.append(i)
                    continue
                rate[i] = level * a.weight / a.size
                for r, d in zip(a.resources, a.demand, strict=True):
                    frozen_use[r] += d * rate[i]
            rising = still
        used = [u + f for u, f in zip(used, frozen_use, strict=True)]
    return rate


@dataclass
class Change:
    """At ``at_s``: an activity starts, one is cancelled, or a capacity changes."""

    at_s: float
    start: Activity | None = None
    cancel: int | None = None  # the number of a start
    capacity: tuple[int, float] | None = None


@dataclass
class History:
    end_s: list[float | None]  # of each start; None: cancelled or never
    done: dict[int, float]  # share done of those that were cancelled
    carried: list[float]
    busy_s: list[float]
    utilisation_s: list[float]


def naive_run(changes: Sequence[Change], capacity: Sequence[float]) -> History:
    """Play changes, in order of time, to the end; stalled activities never end."""
    capacity = list(capacity)
    started: list[Activity] = []
    share: list[float] = []
    running: list[int] = []
    history = History([], {}, *([0.0] * len(capacity) for _ in range(3)))
    todo, now = list(changes), 0.0
    while todo or running:
        rate = naive_rates([started[i] for i in running], capacity)
        ends = [
            now if share[i] >= 1 - ROUNDING else now + (1 - share[i]) / r if r > 0 else math.inf
            for i, r in zip(running, rate, strict=True)
        ]
        at = min([*ends, *(change.at_s for change in todo[:1])])
        if at == math.inf:
            break
        used = [0.0] * len(capacity)
        for i, r in zip(running, rate, strict=True):
            share[i] += (at - now) * r
            for resource, d in zip(started[i].resources, started[i].demand, strict=True):
                used[resource] += d * r
        for r, use in enumerate(used):
            history.carried[r] += use * (at - now)
            if any(r in started[i].resources for i in running):
                history.busy_s[r] += at - now
            if capacity[r] > 0:
                history.utilisation_s[r] += use / capacity[r] * (at - now)
        now = at
        for i, end in zip(list(running), ends, strict=True):
            if end <= now:
                history.end_s[i] = now
                running.remove(i)
        while todo and todo[0].at_s <= now:
            change = todo.pop(0)
            if change.start is not None:
                running.append(len(started))
                started.append(change.start)
                share.append(0.0)
                history.end_s.append(None)
            if change.cancel is not None and change.cancel in running:
                running.remove(change.cancel)
                history.done[change.cancel] = share[change.cancel]
            if change.capacity is not None:
                capacity[change.capacity[0]] = change.capacity[1]
    return history
