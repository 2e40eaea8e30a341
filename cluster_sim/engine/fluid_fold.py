"""Folding: activities that no difference tells apart run at the same rate, so one of them stands
for all; resources that every activity loads alike set the same limit, so one of them is enough.

Model: colour refinement. Activities begin with a colour each for kind, time alone, size and weight,
resources for their capacity; then each is told apart by the amounts and colours that it is joined
to, until no class splits any more. All activities of a class then run alike, and one resource of
each class shows what all of them carry. Whatever is not symmetric splits the classes: a link with
another capacity, a path that collides, an activity of a user on one chip.

Source: Grohe, Kersting, Mladenov and Selman, Dimension reduction via colour refinement, ESA 2014.

``alike`` needs no refinement: it looks at which share of a resource each activity takes, whenever
that runs.

Limits: colours are hashes of 64 bits; that two classes of n are mixed up has a probability of about
n^2 / 2^64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cluster_sim.engine.fluid_solver import Floats, Ints, Problem, totals
from cluster_sim.work import Activity

Hashes = NDArray[np.uint64]
DIGITS = 12  # to which an activity loads two resources alike
EQUAL = 1e-12  # relative difference of loads that are the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """``problem`` has one activity and one resource for each class.

    ``activity_class`` and ``resource_class`` say where the folded ones are (-1: nobody uses the
    resource); ``activities`` and ``resources`` how many each class has.
    """

    problem: Problem
    activity_class: Ints
    resource_class: Ints
    activities: Ints
    resources: Ints

    def unfold(self, per_class: Floats) -> Floats:
        """A value of each class, such as its rate, for each activity."""
        return per_class[self.activity_class]


def fold(problem: Problem, marks: Sequence[int] | None = None) -> Folding:
    """Fold symmetric activities; those with different ``marks`` (when they start, which pipeline)
    stay apart.
    """
    count = problem.count
    row = np.repeat(np.arange(len(count)), count)
    used = np.bincount(problem.resource, minlength=len(problem.capacity)) > 0
    mark = np.zeros(len(count)) if marks is None else np.array(marks, dtype=np.float64)
    activity = np.zeros(len(count), np.uint64)
    of_each = (problem.kernel, problem.alone_s, problem.size, problem.weight, mark)
    for values in of_each:
        activity = _mix(activity, _bits(values))
    resource = _mix(np.zeros(len(used), np.uint64), _bits(problem.capacity))
    resource[~used] = 0
    amount = _bits(problem.demand)
    classes = 0
    while classes < (classes := len(np.unique(activity)) + len(np.unique(resource))):
        joined = _sum(row, _mix(amount, resource[problem.resource]), len(count))
        seen = _sum(problem.resource, _mix(amount, activity[row]), len(used))
        activity, resource = _mix(activity, joined), _mix(resource, seen)
        resource[~used] = 0
    return _folding(problem, row, used, activity, resource)


def _folding(
    problem: Problem, row: Ints, used: NDArray[np.bool_], activity: Hashes, resource: Hashes
) -> Folding:
    first, activity_class, activities = _classes(activity)
    there = np.flatnonzero(used)
    shown, there_class, resources = _classes(resource[there])
    resource_class = np.full(len(used), -1)
    resource_class[there] = there_class
    # What all activities of a class together use of one resource of a class.
    representative = np.zeros(len(used), np.bool_)
    representative[there[shown]] = True
    entries = np.flatnonzero(representative[problem.resource])
    columns = max(len(shown), 1)
    key = activity_class[row[entries]] * columns + resource_class[problem.resource[entries]]
    pairs, pair = np.unique(key, return_inverse=True)
    counts = np.bincount(pairs // columns, minlength=len(first))
    folded = Problem(
        start=np.concatenate([[0], np.cumsum(counts)]),
        resource=pairs % columns,
        demand=totals(pair, problem.demand[entries], len(pairs)),
        alone_s=problem.alone_s[first],
        size=problem.size[first],
        weight=problem.weight[first],
        kernel=problem.kernel[first],
        capacity=problem.capacity[there[shown]],
    )
    return Folding(
        problem=folded,
        activity_class=activity_class,
        resource_class=resource_class,
        activities=activities,
        resources=resources,
    )


def alike(
    loads: Iterable[tuple[Sequence[int] | Ints, Sequence[float] | Floats]],
    capacity: Floats,
    apart: Iterable[int] = (),
) -> Ints:
    """For each resource the first that all loads (resources, and amounts on them) load alike,
    relative to its capacity; those ``apart`` are with nobody. -1: nobody uses it.
    """
    code, used = np.zeros(len(capacity), np.uint64), np.zeros(len(capacity), np.bool_)
    for number, (resources, demand) in enumerate(loads):
        at = np.asarray(resources, dtype=np.int64)
        share = np.asarray(demand, dtype=np.float64) / capacity[at]
        scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(share)))
        value = (np.rint(share * scale) / scale).view(np.uint64) + np.uint64(number)
        code[at], used[at] = _mix(code[at], value), True
    for number, resource in enumerate(apart):
        code[resource] = _mix(code[[resource]], np.full(1, number, np.uint64))[0]
    there = np.flatnonzero(used)
    _, first, kind = np.unique(code[there], return_index=True, return_inverse=True)
    shown = np.full(len(capacity), -1)
    shown[there] = there[first[kind]]
    return shown


def fullest(
    loads: Sequence[tuple[Ints, Floats]], capacity: Floats, among: Ints
) -> NDArray[np.bool_]:
    """Which of some resources can be full first: of the others each is never fuller, by any of the
    loads, than one of these, which therefore sets the limit.
    """
    place = np.full(len(capacity), -1)
    place[among] = np.arange(len(among))
    share = np.zeros((len(among), len(loads)))
    for number, (resources, amounts) in enumerate(loads):
        at = place[resources]
        share[at[at >= 0], number] = (amounts / capacity[resources])[at >= 0]
    kept = np.zeros((0, len(loads)))
    found = np.zeros(len(among), np.bool_)
    for one in np.argsort(-share.sum(axis=1), kind="stable").tolist():
        if not (kept >= share[one] * (1 - EQUAL)).all(axis=1).any():
            kept, found[one] = np.concatenate([kept, share[[one]]]), True
    return found


def on_fewer(activity: Activity, shown: Ints, number: Ints) -> Activity:
    """The activity on the resources that are ``shown``, by their new numbers."""
    pairs = [
        (int(number[one]), amount)
        for one, amount in zip(activity.resources, activity.demand, strict=True)
        if shown[one] == one
    ]
    return replace(
        activity,
        resources=tuple(one for one, _ in pairs),
        demand=tuple(amount for _, amount in pairs),
    )


def activities_of(problem: Problem) -> list[Activity]:
    """The activities of a problem as the engine takes them."""
    ends = zip(problem.start[:-1].tolist(), problem.start[1:].tolist(), strict=True)
    return [
        Activity(
            kind="kernel" if problem.kernel[i] else "traffic",
            alone_s=float(problem.alone_s[i]),
            size=float(problem.size[i]),
            weight=float(problem.weight[i]),
            resources=tuple(problem.resource[begin:end].tolist()),
            demand=tuple(problem.demand[begin:end].tolist()),
        )
        for i, (begin, end) in enumerate(ends)
    ]


def _classes(colour: Hashes) -> tuple[Ints, Ints, Ints]:
    """First member, class of each and members of each class, in order of the first members."""
    _, first, number, members = np.unique(
        colour, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return first[order], place[number], members[order]


def _bits(values: NDArray[np.generic]) -> Hashes:
    return (values.astype(np.float64) + 0.0).view(np.uint64)


def _sum(index: Ints, values: Hashes, length: int) -> Hashes:
    total = np.zeros(length, np.uint64)
    np.add.at(total, index, values)
    return total


def _mix(one: Hashes, other: Hashes) -> Hashes:
    """A hash of two hashes in which order counts. Source: the finaliser of splitmix64 (Steele, Lea
    and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014).
    """
    value = one * np.uint64(0x9E3779B97F4A7C15) + other + np.uint64(0x632BE59BD9B4E019)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
