"""Max-min fair rates of activities that share resources: progressive filling, exactly.

Model: an activity with progress rate r has the level phi = r x size / weight. All levels rise
together; an activity freezes at its alone rate (its ceiling) or when one of its resources is full.
Traffic is filled first, kernels get what is left. In terms of levels, an activity uses
``demand x weight / size`` of a resource per unit of its level, whatever its alone rate.

The filling does not raise the level in small steps: a resource that gives all its unfrozen
activities no more than any other of their resources does is where they will freeze, so all such
resources freeze in one round (a "local bottleneck").

Source: Bertsekas and Gallager, Data Networks, 2nd edition, section 6.5.2 (max-min fairness and
filling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.engine.fluid_loops import TIE, fill_loops
from cluster_sim.work import Activity

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# (first entry of each row and the end, column, use per level, ceiling, free capacity) -> levels
Fill = Callable[[Ints, Ints, Floats, Floats, Floats], Floats]

TOLERANCE = 1e-9  # relative, of the certificate
# Of a capacity: a smaller rest that traffic leaves is rounding. Source: assumed.
REST = 1e-12
# Up to so many entries plain loops over lists beat the fixed cost of numpy calls. Source: measured
# with tests/bench/test_fluid_speed.py.
FEW_ENTRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Activities as arrays: entries ``start[i]`` to ``start[i + 1]`` belong to activity i."""

    start: Ints
    resource: Ints
    demand: Floats
    alone_s: Floats
    size: Floats
    weight: Floats
    kernel: Bools
    capacity: Floats

    @property
    def count(self) -> Ints:
        """Entries per activity."""
        return np.diff(self.start)

    @property
    def per_level(self) -> Floats:
        """Use per unit of level, an entry each."""
        return self.demand * np.repeat(self.weight / self.size, self.count)


def problem_of(activities: Sequence[Activity], capacity: Sequence[float] | Floats) -> Problem:
    """Activities and the capacities of their resources as arrays.

    Raises ValueError when an activity uses a resource that is not there.
    """
    counts = [len(activity.resources) for activity in activities]
    start = np.concatenate([[0], np.cumsum(np.array(counts, dtype=np.int64))]).astype(np.int64)
    resource = np.fromiter((r for a in activities for r in a.resources), np.int64, start[-1])
    if resource.size and resource.max() >= len(capacity):
        raise ValueError(f"resource(={resource.max()}) must be < {len(capacity)}")
    return Problem(
        start=start,
        resource=resource,
        demand=np.fromiter((d for a in activities for d in a.demand), np.float64, start[-1]),
        alone_s=np.array([a.alone_s for a in activities], dtype=np.float64),
        # Without resources neither counts.
        size=np.array([a.size if a.resources else 1.0 for a in activities], dtype=np.float64),
        weight=np.array([a.weight for a in activities], dtype=np.float64),
        kernel=np.array([a.kind == "kernel" for a in activities], dtype=np.bool_),
        capacity=np.array(capacity, dtype=np.float64),
    )


def solve(problem: Problem, fill: Fill | None = None) -> Floats:
    """The progress rate of each activity, per second; one that takes no time has rate inf."""
    count, per_level = problem.count, problem.per_level
    with np.errstate(divide="ignore"):
        rate = 1 / problem.alone_s
    free = problem.capacity
    for kernel in (False, True):
        rows = np.flatnonzero((problem.kernel == kernel) & (count > 0))
        ceiling = problem.size[rows] / (problem.alone_s[rows] * problem.weight[rows])
        entries, start = entries_of(problem.start, count, rows)
        resource, coefficient = problem.resource[entries], per_level[entries]
        columns = np.flatnonzero(np.bincount(resource, minlength=len(free)))
        column = np.searchsorted(columns, resource)
        level = fill_some(start, column, coefficient, ceiling, free[columns], fill or fill_rounds)
        rate[rows] = level / ceiling / problem.alone_s[rows]
        used = totals(resource, coefficient * np.repeat(level, count[rows]), len(free))
        free = left_over(problem.capacity, used)
    return rate


def totals(index: Ints, values: Floats, length: int) -> Floats:
    """The sum of the values of each index, added in their order."""
    return np.asarray(np.bincount(index, values, length), np.float64)


def left_over(capacity: Floats, used: Floats) -> Floats:
    """What the first round leaves; what is left by rounding alone is nothing."""
    left: Floats = capacity - used
    return np.where(left > REST * capacity, left, 0.0)


def entries_of(first: Ints, count: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """The entries of some rows, and where each row starts among them (and the end)."""
    counts = count[rows]
    start = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(counts, out=start[1:])
    entries = np.arange(start[-1]) + np.repeat(first[rows] - start[:-1], counts)
    return entries, start


def fill_some(
    start: Ints, column: Ints, per_level: Floats, ceiling: Floats, free: Floats, fill: Fill
) -> Floats:
    """Fill with plain loops over lists where that is faster."""
    if len(column) > FEW_ENTRIES:
        return fill(start, column, per_level, ceiling, free)
    lists = (values.tolist() for values in (start, column, per_level, ceiling, free))
    return np.array(fill_few(*lists))


def fill_few(
    start: list[int],
    column: list[int],
    per_level: list[float],
    ceiling: list[float],
    free: list[float],
) -> list[float]:
    """Fill over lists."""
    level = [0.0] * len(ceiling)
    columns = range(len(free))
    fill_loops(
        start,
        column,
        per_level,
        ceiling,
        free.copy(),
        level,
        [0.0 for _ in columns],
        [0.0 for _ in columns],
        [0.0 for _ in columns],
        [False for _ in columns],
        list(columns),
        [0] * len(ceiling),
    )
    return level


def fill_rounds(
    start: Ints, column: Ints, per_level: Floats, ceiling: Floats, free: Floats
) -> Floats:
    """Fill with whole-array operations; the twin of ``fill_loops``, with the same additions in the
    same order.
    """
    level = np.zeros(len(ceiling))
    rows, count, first = np.arange(len(ceiling)), np.diff(start), start[:-1]
    columns = len(free)
    share = np.zeros(columns)
    users = np.bincount(column, minlength=columns)
    while len(rows):
        load = np.bincount(column, per_level, columns)
        np.divide(free, load, out=share, where=load > 0)
        offered = share.take(column)
        lowest = np.minimum(np.minimum.reduceat(offered, first), ceiling)
        bound = lowest * (1 + TIE)
        # Where all users of a resource are offered no more elsewhere, they freeze.
        lowest_there = np.flatnonzero(offered <= np.repeat(bound, count))
        there = column.take(lowest_there)
        full = np.bincount(there, minlength=columns) == users
        reached = ceiling <= bound
        frozen = reached.copy()
        row = np.repeat(np.arange(len(rows)), count)
        frozen[row.take(lowest_there[full.take(there)])] = True
        value = np.where(reached, ceiling, lowest)
        level[rows[frozen]] = value[frozen]
        gone = np.repeat(frozen, count)
        spent = per_level[gone] * np.repeat(value[frozen], count[frozen])
        free = np.maximum(free - np.bincount(column[gone], spent, columns), 0.0)
        users -= np.bincount(column[gone], minlength=columns)
        kept = ~gone
        column, per_level = column[kept], per_level[kept]
        kept = ~frozen
        rows, ceiling, count = rows[kept], ceiling[kept], count[kept]
        first = np.cumsum(count) - count
    return level


def certify(problem: Problem, rate: Floats, tolerance: float = TOLERANCE) -> list[str]:
    """What is wrong with these rates, a line each; nothing when they are the max-min fair ones.

    Rules: no resource above capacity; every activity runs at its alone rate or uses a full resource
    on which nobody of its round has a larger level.
    """
    wrong = []
    row = np.repeat(np.arange(len(rate)), problem.count)
    used = np.zeros(len(problem.capacity))
    np.add.at(used, problem.resource, problem.demand * rate[row])
    capacity = problem.capacity
    for r in np.flatnonzero(used > capacity * (1 + tolerance)):
        wrong += [f"resource {r}: {used[r]!r} used of {capacity[r]!r}"]
    round_used = np.zeros(len(capacity))
    alone = 1 / np.where(problem.alone_s > 0, problem.alone_s, np.inf)
    for kernel in (False, True):
        mine = (problem.kernel == kernel)[row]
        entry, of, where = np.flatnonzero(mine), row[mine], problem.resource[mine]
        level = np.where(problem.count > 0, rate * problem.size / problem.weight, 0.0)
        np.add.at(round_used, where, problem.demand[entry] * rate[of])
        top = np.zeros(len(capacity))
        np.maximum.at(top, where, level[of])
        full = round_used[where] >= capacity[where] * (1 - tolerance)
        held = np.zeros(len(rate), np.bool_)
        held[of[full & (level[of] >= top[where] * (1 - tolerance))]] = True
        for i in np.flatnonzero((problem.kernel == kernel) & ~held):
            if abs(rate[i] - alone[i]) > tolerance * alone[i] and problem.alone_s[i] > 0:
                wrong += [f"activity {i}: rate {rate[i]!r} of {alone[i]!r}, held by nobody"]
    return wrong
