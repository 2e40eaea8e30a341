"""A pipeline step in closed form: when each operation starts and ends, without contention.

Model: max-plus. An operation starts when the former of its stage has ended and all that it needs
has arrived: ``start = max(end of the former, end of what it needs + time to send it)``. Sends are
asynchronous: they occupy no stage. In one pass over operations in a valid order; with times of many
data-parallel ranks each pass step is one array operation.

Limits: nothing shares a link or a chip; ``events`` plays the same step with contention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cluster_sim.training.schedule import (
    BACKWARD,
    FORWARD,
    PAIR,
    WEIGHT,
    WHOLE_BACKWARD,
    Schedule,
)

FloatArray = NDArray[np.float64]
_KINDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of each operation alone: one number for all, or an array of one per virtual stage,
    (virtual stages, ranks), or (virtual stages, micro-batches, ranks).

    ``backward_s`` is the gradient of inputs, ``weight_s`` that of weights; a whole backward pass
    takes both. ``forward_backward_s``: of the overlapped pair of a virtual stage's forward pass
    with a whole backward pass of the stage's other chunk; None: one after the other. Sends are per
    boundary (v: between virtual stages v and v + 1): one number, (boundaries,) or (boundaries,
    ranks); those within a stage, or between the two pipelines of DualPipe, are not used.
    """

    forward_s: ArrayLike
    backward_s: ArrayLike
    weight_s: ArrayLike = 0.0
    forward_backward_s: ArrayLike | None = None
    send_forward_s: ArrayLike = 0.0
    send_backward_s: ArrayLike = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the nodes and stages of a schedule did; all times from the start of the step.

    Shapes: (nodes,) or (nodes, ranks), and (stages,) or (stages, ranks). ``bubble_s`` is what a
    stage waits from the start of the step to the end of its last stage. ``p2p_exposed_s`` is the
    part of it in which what the stage needs was done but still on its way, ``on_way_s`` that of
    each node.
    """

    start_s: FloatArray
    end_s: FloatArray
    first_start_s: FloatArray
    last_end_s: FloatArray
    busy_s: FloatArray
    bubble_s: FloatArray
    p2p_exposed_s: FloatArray
    on_way_s: FloatArray

    @property
    def step_s(self) -> FloatArray:
        """The end of the last stage."""
        end: FloatArray = self.last_end_s.max(axis=0)
        return end


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Player:
    """A schedule laid out to be played many times; ``rows`` hold, per node: the row of its
    duration, its micro-batch, the node before and up to two needs with the rows of their sends.
    """

    plan: Schedule
    rows: tuple[tuple[int, int, int, int, int, int, int], ...]
    stage: NDArray[np.intp]
    micro_batch: NDArray[np.intp]  # of the first operation of a node
    first: NDArray[np.intp]  # nodes of the stages
    last: NDArray[np.intp]


def player(plan: Schedule) -> Player:
    """Lay out a schedule."""
    virtual, boundaries = plan.virtual_stages, plan.virtual_stages - 1
    rows = []
    first, last = [-1] * plan.stages, [-1] * plan.stages
    for number, node in enumerate(plan.nodes):
        needs = [
            (source, 0 if boundary < 0 else 1 + boundary + (boundaries if kind == "B" else 0))
            for source, boundary, kind in node.needs
        ]
        needs += [(-1, 0)] * (2 - len(needs))
        duration = node.doing * virtual + node.virtual
        rows.append((duration, node.ops[0].micro_batch, node.before, *needs[0], *needs[1]))
        if node.before < 0:
            first[node.stage] = number
        last[node.stage] = number
    return Player(
        plan=plan,
        rows=tuple(rows),
        stage=np.array([node.stage for node in plan.nodes]),
        micro_batch=np.array([node.ops[0].micro_batch for node in plan.nodes]),
        first=np.array(first),
        last=np.array(last),
    )


def play(laid_out: Player, times: Times) -> Played:
    """Play a step.

    >>> from cluster_sim.training.schedule import schedule
    >>> played = play(player(schedule("1f1b", 4, 8)), Times(forward_s=1.0, backward_s=2.0))
    >>> float(played.step_s), played.bubble_s.tolist()
    (33.0, [9.0, 9.0, 9.0, 9.0])

    Raises ValueError for times that do not fit the schedule, or are negative or not finite.
    """
    plan = laid_out.plan
    durations = _durations(plan, times)
    sends = _sends(plan, times)
    ranks = _ranks(durations, sends)
    if ranks is None:
        start, end, on_way = _play_one(laid_out, durations, sends)
    else:
        start, end, on_way = _play_many(laid_out, durations, sends, ranks)
    shape = (plan.stages, *end.shape[1:])
    busy, exposed = np.zeros(shape), np.zeros(shape)
    np.add.at(busy, laid_out.stage, end - start)
    np.add.at(exposed, laid_out.stage, on_way)
    last_end = end[laid_out.last]
    return Played(
        start_s=start,
        end_s=end,
        first_start_s=start[laid_out.first],
        last_end_s=last_end,
        busy_s=busy,
        bubble_s=last_end.max(axis=0) - busy,
        p2p_exposed_s=exposed,
        on_way_s=on_way,
    )


def _play_one(
    laid_out: Player, durations: FloatArray, sends: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """With plain numbers: some 0.5 us per operation."""
    seconds: list[float] = durations[:, 0].tolist()
    send: list[float] = sends.tolist()
    count = len(laid_out.rows)
    ends, starts, ways = [0.0] * (count + 1), [0.0] * count, [0.0] * count  # ends[-1]: no node
    for number, row in enumerate(laid_out.rows):
        duration, _, before, need_a, send_a, need_b, send_b = row
        done = ends[before]
        if need_a >= 0:
            other = ends[need_a]
            arrived = other + send[send_a]
            if other > done:
                done = other
            if need_b >= 0:
                other = ends[need_b]
                second = other + send[send_b]
                if other > done:
                    done = other
                if second > arrived:
                    arrived = second
            if arrived > done:
                ways[number] = arrived - done
                done = arrived
        starts[number] = done
        ends[number] = done + seconds[duration]
    return np.array(starts), np.array(ends[:-1]), np.array(ways)


def _play_many(
    laid_out: Player, durations: FloatArray, sends: FloatArray, ranks: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """With an array over ranks."""
    count = len(laid_out.rows)
    ends, starts = np.zeros((count + 1, ranks)), np.zeros((count, ranks))
    ways = np.zeros((count, ranks))
    per_op = durations.shape[1] > 1
    for number, row in enumerate(laid_out.rows):
        duration, micro_batch, before, need_a, send_a, need_b, send_b = row
        begin, done = starts[number], ends[before]
        if need_a >= 0:
            done = np.maximum(done, ends[need_a])
            np.add(ends[need_a], sends[send_a], out=begin)
            if need_b >= 0:
                done = np.maximum(done, ends[need_b])
                np.maximum(begin, ends[need_b] + sends[send_b], out=begin)
            np.maximum(begin, done, out=begin)
            np.subtract(begin, done, out=ways[number])
        else:
            begin[:] = done
        np.add(begin, durations[duration, micro_batch if per_op else 0], out=ends[number])
    return starts, ends[:-1], ways


def _durations(plan: Schedule, times: Times) -> FloatArray:
    """(kinds x virtual stages, 1 or micro-batches[, ranks])."""
    forward = _per_virtual(plan, "forward_s", times.forward_s)
    backward = _per_virtual(plan, "backward_s", times.backward_s)
    weight = _per_virtual(plan, "weight_s", times.weight_s)
    whole = _sum(backward, weight)
    if times.forward_backward_s is not None:
        pair = _per_virtual(plan, "forward_backward_s", times.forward_backward_s)
    else:
        partners = range(plan.virtual_stages)
        if plan.v_shaped:
            partners = partners[::-1]
        pair = _sum(forward, whole[list(partners)])
    table = {FORWARD: forward, BACKWARD: backward, WHOLE_BACKWARD: whole, WEIGHT: weight}
    table[PAIR] = pair
    parts = _alike([table[kind] for kind in range(_KINDS)])
    return np.concatenate(parts)


def _sends(plan: Schedule, times: Times) -> FloatArray:
    """(1 + forward boundaries + backward boundaries[, ranks]); the first is none."""
    boundaries = plan.virtual_stages - 1
    both = []
    for name in ("send_forward_s", "send_backward_s"):
        given = np.asarray(getattr(times, name), dtype=np.float64)
        if given.ndim == 0:
            given = np.full(boundaries, float(given))
        if given.ndim > 2 or len(given) != boundaries:
            raise ValueError(f"{name}: {given.shape} must be one per boundary({boundaries})")
        _check_seconds(name, given)
        both.append(given)
    forward, backward = _alike(both)
    return np.concatenate([np.zeros((1, *forward.shape[1:])), forward, backward])


def _per_virtual(plan: Schedule, name: str, given: ArrayLike) -> FloatArray:
    """(virtual stages, 1 or micro-batches[, ranks])."""
    seconds = np.asarray(given, dtype=np.float64)
    virtual, micro_batches = plan.virtual_stages, plan.micro_batches
    if seconds.ndim == 0:
        seconds = np.full(virtual, float(seconds))
    if not 1 <= seconds.ndim <= 3 or len(seconds) != virtual:
        raise ValueError(f"{name}: {seconds.shape} must be one per virtual stage({virtual})")
    if seconds.ndim == 3 and seconds.shape[1] != micro_batches:
        raise ValueError(f"{name}: {seconds.shape} must be one per micro-batch({micro_batches})")
    _check_seconds(name, seconds)
    return seconds if seconds.ndim == 3 else seconds[:, None]


def _check_seconds(name: str, seconds: FloatArray) -> None:
    if not (np.isfinite(seconds).all() and (seconds >= 0).all()):
        raise ValueError(f"{name}: must be finite and not negative")


def _alike(arrays: Sequence[FloatArray]) -> list[FloatArray]:
    """The same number of axes and the same sizes behind the first."""
    if len({array.shape[1:] for array in arrays}) == 1:
        return list(arrays)
    most = max(array.ndim for array in arrays)
    arrays = [array.reshape(array.shape + (1,) * (most - array.ndim)) for array in arrays]
    behind = np.broadcast_shapes(*(array.shape[1:] for array in arrays))
    return [np.broadcast_to(array, (len(array), *behind)) for array in arrays]


def _sum(one: FloatArray, other: FloatArray) -> FloatArray:
    first, second = _alike([one, other])
    return first + second


def _ranks(durations: FloatArray, sends: FloatArray) -> int | None:
    """The ranks of a table of durations (3 axes) or of sends (2 axes); None where neither has."""
    sizes = [
        int(array.shape[-1]) for array, axes in ((durations, 3), (sends, 2)) if array.ndim == axes
    ]
    if not sizes:
        return None
    if len({size for size in sizes if size > 1}) > 1:
        raise ValueError(f"ranks: durations have {sizes[0]} and sends {sizes[1]}")
    return max(sizes)
