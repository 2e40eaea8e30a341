"""The activities that share resources while they are few: plain numbers instead of arrays.

A change is solved for all who are joined to it through resources that they share: the filling of
the others would be the same, number for number. ``fitting`` moves all to a ``Pool`` once they are
many, and back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cluster_sim.engine.fluid_loops import TIE
from cluster_sim.engine.fluid_pool import NOTHING_LEFT, Member, Pool
from cluster_sim.engine.fluid_solver import FEW_ENTRIES, REST, Fill, fill_few

# Many are few again when they use less than this share of what few may. Source: assumed.
FEW_AGAIN = 0.75


class _Row:
    """An activity that shares, as in ``Pool``; its level is -1 before it is solved."""

    __slots__ = (
        "alone_s",
        "ceiling",
        "end_s",
        "kernel",
        "left_s",
        "level",
        "member",
        "pace",
        "per_level",
        "resources",
        "since_s",
    )

    def __init__(self, member: Member, left_s: float, now_s: float) -> None:
        activity = member.activity
        self.member, self.kernel = member, activity.kind == "kernel"
        self.resources = activity.resources
        per_demand = activity.weight / activity.size
        self.per_level = [demand * per_demand for demand in activity.demand]
        self.ceiling = activity.size / (activity.alone_s * activity.weight)
        self.alone_s, self.left_s, self.since_s = activity.alone_s, left_s, now_s
        self.level, self.pace, self.end_s = -1.0, 0.0, math.inf

    def left_at(self, now_s: float) -> float:
        return self.left_s - (now_s - self.since_s) * self.pace

    def go(self, level: float, now_s: float) -> None:
        """Run at this level from now on."""
        left = self.left_at(now_s)
        if not left > NOTHING_LEFT * self.alone_s:
            left = 0.0
        self.level, self.pace = level, level / self.ceiling
        self.left_s, self.since_s = left, now_s
        if not left:
            self.end_s = now_s
        else:
            self.end_s = now_s + left / self.pace if self.pace > 0 else math.inf


class Few:
    """Running activities that share resources, in order of arrival; ``settle`` solves for all
    changes since the last time. ``fill`` is that of the pool that they move to, ``uses`` how many
    resources they use, each on its own.
    """

    def __init__(self, capacity: Sequence[float], fill: Fill) -> None:
        self.capacity, self.fill = list(capacity), fill
        self.peak = [0.0] * len(self.capacity)
        self.uses = self._arrivals = 0
        self._rows: dict[int, _Row] = {}
        # Of traffic and of kernels: what they use, and the resources on which something changed.
        self._used = ([0.0] * len(self.capacity), [0.0] * len(self.capacity))
        self._touched: tuple[set[int], set[int]] = (set(), set())

    @property
    def members(self) -> list[Member]:
        """Who is here, in order of arrival."""
        return [row.member for row in self._rows.values()]

    def add(self, member: Member, left_s: float, now_s: float) -> None:
        """Take in an activity of which ``left_s`` seconds alone are left."""
        member.row = self._arrivals
        self._arrivals += 1
        self._rows[member.row] = row = _Row(member, left_s, now_s)
        self._touched[row.kernel].update(row.resources)
        self.uses += len(row.resources)

    def remove(self, number: int) -> None:
        """Let an activity go."""
        row = self._rows.pop(number)
        self._touched[row.kernel].update(row.resources)
        self.uses -= len(row.resources)

    def resize(self, resource: int, capacity: float) -> None:
        """Change a capacity."""
        self.capacity[resource] = capacity
        self._touched[False].add(resource)

    def left_at(self, number: int, now_s: float) -> float:
        """Seconds alone that are left of an activity."""
        return max(self._rows[number].left_at(now_s), 0.0)

    def next_end_s(self) -> float:
        """When the next activity ends; inf when none does."""
        return min((row.end_s for row in self._rows.values()), default=math.inf)

    def due(self, now_s: float) -> list[Member]:
        """Who ends now, in order of arrival."""
        return [row.member for row in self._rows.values() if row.end_s <= now_s]

    def settle(self, now_s: float) -> None:
        """Solve for the changes and set the ends of those whose level changed."""
        touched, more = self._touched
        self._settle_round(False, touched, now_s)
        touched |= more
        self._settle_round(True, touched, now_s)
        (traffic, kernels), capacity, peak = self._used, self.capacity, self.peak
        for r in touched:  # in any order
            if capacity[r] > 0:
                peak[r] = max(peak[r], (traffic[r] + kernels[r]) / capacity[r])
        self._touched = (set(), set())

    def _settle_round(self, kernel: bool, touched: set[int], now_s: float) -> None:
        """Settle all who are joined to what was touched, and add what they touch."""
        rows, used = self._joined(kernel, touched), self._used[kernel]
        levels = self._fill_one(rows[0]) if len(rows) == 1 else self._fill(rows)
        for r in touched:
            used[r] = 0.0
        for row, level in zip(rows, levels, strict=True):
            for r, per_level in zip(row.resources, row.per_level, strict=True):
                used[r] += per_level * level
            if level != row.level:
                row.go(level, now_s)

    def _joined(self, kernel: bool, touched: set[int]) -> list[_Row]:
        while True:
            rows = [
                row
                for row in self._rows.values()
                if row.kernel is kernel and not touched.isdisjoint(row.resources)
            ]
            before = len(touched)
            for row in rows:
                touched.update(row.resources)
            if len(touched) == before:
                return rows

    def _free(self, kernel: bool, resource: int) -> float:
        """What there is of a resource: kernels get what traffic leaves, if it is not rounding."""
        whole = self.capacity[resource]
        left = whole - self._used[False][resource] if kernel else whole
        return left if left > REST * whole else 0.0

    def _fill_one(self, row: _Row) -> list[float]:
        """The level of one that is joined to nobody."""
        lowest = row.ceiling
        for r, per_level in zip(row.resources, row.per_level, strict=True):
            lowest = min(lowest, self._free(row.kernel, r) / per_level)
        return [row.ceiling if row.ceiling <= lowest * (1 + TIE) else lowest]

    def _fill(self, rows: list[_Row]) -> list[float]:
        if not rows:
            return []
        index: dict[int, int] = {}
        start, column, per_level = [0], list[int](), list[float]()
        for row in rows:
            column += [index.setdefault(r, len(index)) for r in row.resources]
            per_level += row.per_level
            start.append(len(column))
        free = [self._free(rows[0].kernel, r) for r in index]
        return fill_few(start, column, per_level, [row.ceiling for row in rows], free)


def fitting(pool: Few | Pool, now_s: float) -> Few | Pool:
    """The same activities where as many are at home."""
    few = isinstance(pool, Few)
    if few == (pool.uses <= (FEW_ENTRIES if few else FEW_AGAIN * FEW_ENTRIES)):
        return pool
    capacity = [float(value) for value in pool.capacity]
    other: Few | Pool = Pool(np.array(capacity), pool.fill) if few else Few(capacity, pool.fill)
    other.peak[:] = pool.peak
    for member in pool.members:
        if member is not None:
            other.add(member, pool.left_at(member.row, now_s), now_s)
    return other
