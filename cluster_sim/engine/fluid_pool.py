"""The activities that share resources, as arrays: their levels and when each of them ends.

A change is felt by few. Nothing that froze below the level at which the change acts can move (the
filling is the same up to there), so at most the activities above are solved again. Before that,
growth tries fewer: those that the change leaves without a full resource that holds them, then those
that these disturb, until everybody is held again, which is the condition of max-min fairness.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster_sim.engine.fluid_loops import TIE
from cluster_sim.engine.fluid_solver import (
    Bools,
    Fill,
    Floats,
    Ints,
    entries_of,
    fill_some,
    left_over,
)
from cluster_sim.work import Activity

# Growth gives up once it touches more than this share of the activities. Source: assumed; solving
# all of them above the level of the change is then as fast.
GROWTH_SHARE = 0.05
# After growth gave up so often in a row, it is not tried for 2, 4 ... so many changes.
LONGEST_BACK_OFF = 64
# Relative difference below which an activity counts as held by a full resource; well below the
# certificate's tolerance and above rounding.
HELD = 1e-13
# Rounding of the sum of many uses, relative to the capacity.
SUM_ROUNDING = 4e-15
# With more entries than this share of all resources, renumbering them does not pay. Source:
# assumed.
WIDE = 0.25
# Of its time alone: an activity of which less is left is complete.
NOTHING_LEFT = 1e-12
# Dead rows are dropped once they are more than half and more than this.
FEW_ROWS = 64

_ROW_COLUMNS = (
    ("first", np.int64),
    ("count", np.int64),
    ("alive", np.bool_),
    ("kernel", np.bool_),
    ("ceiling", np.float64),
    ("level", np.float64),
    ("alone_s", np.float64),
    ("left_s", np.float64),
    ("pace", np.float64),
    ("since_s", np.float64),
    ("end_s", np.float64),
)
_ENTRY_COLUMNS = (("resource", np.int64), ("per_level", np.float64), ("of", np.int64))


class Member(Protocol):
    """What the pool knows of whoever runs an activity, and the row that it gives to it."""

    activity: Activity
    row: int


class Pool:
    """Running activities that share resources. Rows stand in order of arrival; ``settle`` solves
    for all changes since the last time.

    ``level`` is at most ``ceiling``, the level at the alone rate; ``pace`` is the ratio of the two;
    ``left_s`` is what was left at ``since_s``, in seconds alone.
    """

    first: Ints
    count: Ints
    alive: Bools
    kernel: Bools
    ceiling: Floats
    level: Floats
    alone_s: Floats
    left_s: Floats
    pace: Floats
    since_s: Floats
    end_s: Floats
    resource: Ints
    per_level: Floats
    of: Ints

    def __init__(self, capacity: Floats, fill: Fill) -> None:
        self.capacity, self.fill = capacity.copy(), fill
        resources = len(capacity)
        self.used, self.top = np.zeros((2, resources)), np.zeros((2, resources))
        self.peak = np.zeros(resources)
        self.members: list[Member | None] = []
        self.rows = self.entries = self.uses = self.dead = self._kernels = 0
        for name, kind in (*_ROW_COLUMNS, *_ENTRY_COLUMNS):
            setattr(self, name, np.zeros(FEW_ROWS, kind))
        self._flag, self._index = np.zeros(resources, np.bool_), np.zeros(resources, np.int64)
        self._free = np.array([capacity, capacity])  # what each round had at the last time
        self._skip = self._failures = 0
        self._forget()

    def _forget(self) -> None:
        self._fresh: list[int] = []
        self._touched: tuple[list[int], list[int]] = ([], [])
        self._resized: list[int] = []

    def add(self, member: Member, left_s: float, now_s: float) -> None:
        """Take in an activity of which ``left_s`` seconds alone are left."""
        activity, row, at = member.activity, self.rows, self.entries
        more = len(activity.resources)
        self._make_room(_ROW_COLUMNS, row, 1)
        self._make_room(_ENTRY_COLUMNS, at, more)
        self.first[row], self.count[row] = at, more
        self.alive[row], self.kernel[row] = True, activity.kind == "kernel"
        self.ceiling[row] = activity.size / (activity.alone_s * activity.weight)
        self.level[row], self.pace[row], self.alone_s[row] = 0.0, 0.0, activity.alone_s
        self.left_s[row], self.since_s[row], self.end_s[row] = left_s, now_s, np.inf
        self.resource[at : at + more] = activity.resources
        self.per_level[at : at + more] = activity.demand
        self.per_level[at : at + more] *= activity.weight / activity.size
        self.of[at : at + more] = row
        self._kernels += int(self.kernel[row])
        self.rows, self.entries = row + 1, at + more
        self.uses += more
        self.members.append(member)
        member.row = row
        self._fresh.append(row)
        self._touched[int(self.kernel[row])].extend(activity.resources)

    def remove(self, row: int) -> None:
        """Let an activity go."""
        kind = int(self.kernel[row])
        at = self.first[row]
        self._touched[kind].extend(self.resource[at : at + self.count[row]].tolist())
        self.alive[row], self.end_s[row], self.members[row] = False, np.inf, None
        self.dead += 1
        self.uses -= int(self.count[row])
        self._kernels -= kind

    def resize(self, resource: int, capacity: float) -> None:
        """Change a capacity."""
        self.capacity[resource] = capacity
        self._resized.append(resource)

    def left_at(self, row: int, now_s: float) -> float:
        """Seconds alone that are left of an activity."""
        left = self.left_s[row] - (now_s - self.since_s[row]) * self.pace[row]
        return max(float(left), 0.0)

    def next_end_s(self) -> float:
        """When the next activity ends; inf when none does."""
        return float(self.end_s[: self.rows].min()) if self.rows else np.inf

    def due(self, now_s: float) -> list[Member]:
        """Who ends now, in order of arrival."""
        rows = np.flatnonzero(self.end_s[: self.rows] <= now_s)
        return [member for row in rows.tolist() if (member := self.members[row]) is not None]

    def settle(self, now_s: float) -> None:
        """Solve for the changes and set the ends of those whose level changed."""
        before = self.level[: self.rows].copy()
        before[self._fresh] = -1.0
        columns = self._distinct(self._touched[0] + self._resized)
        moved = self._round(0, columns, self.capacity[columns])
        if self._kernels or self._touched[1]:
            columns = self._distinct(self._touched[1] + self._resized, moved)
            free = left_over(self.capacity[columns], self.used[0, columns])
            moved = self._distinct([], moved, self._round(1, columns, free))
        self._note_peak(moved)
        self._retime(np.flatnonzero(self.level[: self.rows] != before), now_s)
        self._forget()
        if self.dead > FEW_ROWS and 2 * self.dead > self.rows:
            self._compact()

    def _note_peak(self, columns: Ints) -> None:
        used, capacity = self.used[0, columns] + self.used[1, columns], self.capacity[columns]
        share = np.divide(used, capacity, out=np.zeros(len(columns)), where=capacity > 0)
        self.peak[columns] = np.maximum(self.peak[columns], share)

    def _retime(self, rows: Ints, now_s: float) -> None:
        left = self.left_s[rows] - (now_s - self.since_s[rows]) * self.pace[rows]
        # Else one that ends at the instant of a change could stall for what rounding left of it.
        left = np.where(left > NOTHING_LEFT * self.alone_s[rows], left, 0.0)
        pace = self.level[rows] / self.ceiling[rows]
        takes = np.divide(left, pace, out=np.full(len(rows), np.inf), where=pace > 0)
        self.left_s[rows], self.pace[rows], self.since_s[rows] = left, pace, now_s
        self.end_s[rows] = np.where(left > 0, now_s + takes, now_s)
        self.end_s[rows[~self.alive[rows]]] = np.inf

    def _round(self, kind: int, columns: Ints, free: Floats) -> Ints:
        """Solve one round after changes on ``columns``; returns the columns whose use is new."""
        self._free[kind, columns] = free
        mine = self.alive[: self.rows] & (self.kernel[: self.rows] == kind)
        if not len(columns) or not mine.any():
            self.used[kind, columns] = self.top[kind, columns] = 0.0
            return columns
        users = self._users(columns, mine)
        self._measure(kind, columns, *users)
        seeds, floor = self._disturbed(kind, columns, mine, *users)
        if not len(seeds):
            return columns
        above = mine & (self.level[: self.rows] >= floor * (1 - HELD))
        above[seeds] = True
        limit = int(GROWTH_SHARE * np.count_nonzero(mine))
        if len(seeds) <= limit < np.count_nonzero(above):
            if self._skip:
                self._skip -= 1
            else:
                grown = self._grow(kind, mine, seeds, limit)
                if grown is not None:
                    self._failures = 0
                    return self._distinct([], columns, grown)
                self._failures = min(self._failures + 1, LONGEST_BACK_OFF.bit_length() - 1)
                self._skip = 2**self._failures
        if int(self.count[: self.rows][above].sum()) > WIDE * len(self.capacity):
            solved = self._solve_wide(kind, mine, above)
        else:
            solved, _, _ = self._solve(kind, mine, above)
        return self._distinct([], columns, solved)

    def _disturbed(
        self, kind: int, columns: Ints, mine: Bools, row: Ints, entry: Ints, local: Ints
    ) -> tuple[Ints, float]:
        """Whose level cannot stay, and below which level nobody's changes."""
        fresh = np.array([r for r in self._fresh if mine[r]], np.int64)
        wants = self.level[: self.rows].copy()
        wants[fresh] = self.ceiling[fresh]
        need, free = self.per_level[entry] * wants[row], self._free[kind, columns]
        over = np.bincount(local, need, len(columns)) > free * (1 + TIE)
        crowd = np.flatnonzero(over[local])
        floor, lowered = np.inf, np.zeros(0, np.int64)
        if len(crowd):
            # The level at which each crowded resource is full if its users want no more than this.
            start, ceiling = np.arange(len(crowd) + 1), wants[row[crowd]]
            coefficient = self.per_level[entry[crowd]]
            level = fill_some(start, local[crowd], coefficient, ceiling, free, self.fill)
            less = level < ceiling
            lowered = row[crowd[less]]
            floor = float(level[less].min(initial=np.inf))
        seeds = self._flagged(np.concatenate([row, lowered]))
        loose = seeds[~self._held(kind, seeds)]
        risers = loose[~np.isin(loose, fresh)]
        floor = min(floor, float(self.level[risers].min(initial=np.inf)))
        return self._flagged(np.concatenate([fresh, loose, lowered])), floor

    def _grow(self, kind: int, mine: Bools, seeds: Ints, limit: int) -> Ints | None:
        """Solve the seeds and whom they disturb, until everybody is held; None, with all levels as
        they were, when that touches more than ``limit``.
        """
        before = self.level[: self.rows].copy()
        chosen = np.zeros(self.rows, np.bool_)
        chosen[seeds] = True
        while np.count_nonzero(chosen) <= limit:
            columns, row, local = self._solve(kind, mine, chosen)
            neighbours = self._flagged(row)
            loose = neighbours[~self._held(kind, neighbours)]
            if not len(loose):
                return columns
            # One that is held back by a larger neighbour on a full resource needs it to give way.
            low = np.full(self.rows, np.inf)
            low[loose] = self.level[loose]
            lowest = np.full(len(columns), np.inf)
            np.minimum.at(lowest, local, np.where(chosen[row], low[row], np.inf))
            larger = self.level[row] > lowest[local] * (1 + HELD)
            more = np.concatenate([loose, row[larger]])
            more = more[~chosen[more]]
            if not len(more):
                break
            chosen[more] = True
        self.level[: self.rows] = before
        return None

    def _solve(self, kind: int, mine: Bools, chosen: Bools) -> tuple[Ints, Ints, Ints]:
        """Solve the chosen rows beside the others as they are; returns the columns that they use,
        and row and column number of each use of those.
        """
        rows = np.flatnonzero(chosen)
        entries, start = entries_of(self.first, self.count, rows)
        resource = self.resource[entries]
        columns = self._distinct(resource)
        row, entry, local = self._users(columns, mine)
        free = self._free[kind, columns]
        stay = ~chosen[row]
        use = self.per_level[entry[stay]] * self.level[row[stay]]
        free = np.maximum(free - np.bincount(local[stay], use, len(columns)), 0.0)
        column, coefficient = self._index[resource], self.per_level[entries]
        self.level[rows] = fill_some(
            start, column, coefficient, self.ceiling[rows], free, self.fill
        )
        self._measure(kind, columns, row, entry, local)
        return columns, row, local

    def _solve_wide(self, kind: int, mine: Bools, above: Bools) -> Ints:
        """The same for many rows, without renumbering: those above a level that nobody else
        reaches.
        """
        of, resource = self.of[: self.entries], self.resource[: self.entries]
        per_level, columns = self.per_level[: self.entries], len(self.capacity)
        stay = np.where(mine & ~above, self.level[: self.rows], 0.0)
        used = np.bincount(resource, per_level * stay.take(of), columns)
        free = np.maximum(self._free[kind] - used, 0.0)
        rows, entries = np.flatnonzero(above), np.flatnonzero(above.take(of))
        resource, per_level = resource.take(entries), per_level.take(entries)
        count = self.count[rows]
        start = np.concatenate([[0], np.cumsum(count)])
        solved = fill_some(start, resource, per_level, self.ceiling[rows], free, self.fill)
        self.level[rows] = solved
        level = np.repeat(solved, count)
        self.used[kind] = used + np.bincount(resource, per_level * level, columns)
        moved = self._distinct(resource)
        self.top[kind, moved] = 0.0
        np.maximum.at(self.top[kind], resource, level)
        return moved

    def _measure(self, kind: int, columns: Ints, row: Ints, entry: Ints, local: Ints) -> None:
        """Use and largest level of some columns, from all their users."""
        level = self.level[row]
        self.used[kind, columns] = np.bincount(local, self.per_level[entry] * level, len(columns))
        top = np.zeros(len(columns))
        np.maximum.at(top, local, level)
        self.top[kind, columns] = top

    def _held(self, kind: int, rows: Ints) -> Bools:
        """Which rows run at their ceiling or use a full resource on which nobody of their round has
        a larger level.
        """
        entries, start = entries_of(self.first, self.count, rows)
        resource, level = self.resource[entries], np.repeat(self.level[rows], self.count[rows])
        slack = self._free[kind, resource] - self.used[kind, resource]
        rounding = HELD * self.per_level[entries] * level + SUM_ROUNDING * self.capacity[resource]
        held = (slack <= rounding) & (level >= self.top[kind, resource] * (1 - HELD))
        at_ceiling = self.level[rows] >= self.ceiling[rows] * (1 - HELD)
        return np.logical_or.reduceat(held, start[:-1]) | at_ceiling if len(rows) else at_ceiling

    def _users(self, columns: Ints, mine: Bools) -> tuple[Ints, Ints, Ints]:
        """Row, entry and place in ``columns`` of all uses of these columns."""
        self._flag[columns] = True
        entry = np.flatnonzero(self._flag.take(self.resource[: self.entries]))
        self._flag[columns] = False
        row = self.of[entry]
        counts = mine.take(row)
        row, entry = row[counts], entry[counts]
        self._index[columns] = np.arange(len(columns))
        return row, entry, self._index.take(self.resource[entry])

    def _distinct(self, columns: list[int] | Ints, *more: Ints) -> Ints:
        """Columns in order, each once."""
        every = np.concatenate([np.asarray(columns, np.int64), *more])
        return np.flatnonzero(np.bincount(every, minlength=len(self._index)))

    def _flagged(self, rows: Ints) -> Ints:
        return np.flatnonzero(np.bincount(rows, minlength=self.rows))

    def _make_room(self, names: tuple[tuple[str, type], ...], used: int, more: int) -> None:
        for name, kind in names:
            old = getattr(self, name)
            if used + more <= len(old):
                return
            new: NDArray[Any] = np.zeros(2 * (used + more), kind)
            new[:used] = old[:used]
            setattr(self, name, new)

    def _compact(self) -> None:
        """Drop the rows that left; the others keep their order."""
        alive = self.alive[: self.rows].copy()
        rows = np.flatnonzero(alive)
        kept = alive[self.of[: self.entries]]
        for name, _ in _ROW_COLUMNS:
            getattr(self, name)[: len(rows)] = getattr(self, name)[: self.rows][alive]
        for name, _ in _ENTRY_COLUMNS:
            values = getattr(self, name)[: self.entries][kept]
            getattr(self, name)[: len(values)] = values
        self.entries = int(np.count_nonzero(kept))
        self.of[: self.entries] = np.repeat(np.arange(len(rows)), self.count[: len(rows)])
        self.first[: len(rows)] = np.cumsum(self.count[: len(rows)]) - self.count[: len(rows)]
        members = [member for member in self.members if member is not None]
        for row, member in enumerate(members):
            member.row = row
        self.members, self.rows, self.dead = list(members), len(rows), 0
