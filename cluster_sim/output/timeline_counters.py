"""Counters on a timeline: batch, queue, KV blocks and power of each replica over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cluster_sim.kernels.power import chip_power_w
from cluster_sim.output.timeline_steps import ReplicaSteps, step_parts
from cluster_sim.output.trace_events import Event, FloatArray, IntArray, counter_event, ticks
from cluster_sim.perf.family import Family
from cluster_sim.serving.records import Status
from cluster_sim.serving.service import Run
from cluster_sim.serving.tape import Move, moves_of
from cluster_sim.specs.inputs import TopologyInput

COUNTERS = 4
Series = tuple[FloatArray, FloatArray]  # times (s), not falling, and the value from each on


def counter_events(
    process: int,
    index: int,
    run: Run,
    replica: ReplicaSteps,
    power: Series | None,
    span: tuple[float, float],
    points: int,
) -> Iterator[Event]:
    """The counters of a replica between two times, at most ``points`` values each; power only where
    it is known.
    """
    queue, batch = _requests(run, index)
    counters = [
        ("batch", "sequences", batch, 0, False),
        ("queue", "requests", queue, 0, False),
        ("kv_cache", "blocks", _blocks(replica), 0, False),
    ]
    if power is not None:
        counters.append(("power", "W", power, 1, True))
    for name, unit, series, digits, mean in counters:
        at_s, values = _thinned(series, *span, points, mean=mean)
        rounded = np.round(values, digits)
        keep = np.concatenate([[True], np.diff(rounded) != 0])
        for at, value in zip(ticks(at_s)[keep].tolist(), rounded[keep].tolist(), strict=True):
            yield counter_event(process, name, unit, at, value if digits else int(value))


def _requests(run: Run, index: int) -> tuple[Series, Series]:
    """Requests that wait and sequences that hold blocks."""
    outcomes = run.outcomes
    mine = np.array(outcomes.replica) == index
    done = mine & (np.array(outcomes.status) == Status.FINISHED)
    _, kind, moved_s = moves_of(run.tapes[index])
    arrived_s = np.array(outcomes.arrival_s)[mine]
    finished_s = np.array(outcomes.finish_s)[done]
    joined = (kind == Move.ADMITTED).astype(np.int64) - (kind == Move.PREEMPTED)
    at_s = np.concatenate([arrived_s, moved_s, finished_s])
    ones, none = np.ones(len(arrived_s), dtype=np.int64), np.zeros(len(finished_s), dtype=np.int64)
    queue = np.concatenate([ones, -joined, none])
    batch = np.concatenate([0 * ones, joined, none - 1])
    return _running_sum(at_s, queue), _running_sum(at_s, batch)


def _running_sum(at_s: FloatArray, change: IntArray) -> Series:
    """What changes add up to once all of an instant have happened."""
    times, where = np.unique(at_s, return_inverse=True)
    total = np.zeros(len(times), dtype=np.int64)
    np.add.at(total, where, change)
    return times, np.cumsum(total)


def _blocks(replica: ReplicaSteps) -> Series:
    """KV blocks in use by all ranks: as each step starts, none while the replica is idle."""
    used = np.zeros(len(replica.starts_s))
    for steps in replica.ranks:
        used[steps.number] += steps.blocks
    return _with_idle(replica, used, 0.0)


def power_w(
    machine: TopologyInput, families: Sequence[Family], replica: ReplicaSteps, chips: float
) -> Series | None:
    """Power (W) of the chips of a replica: their mean over each step, idle power between; None
    where the chip's power is not known.

    Model: the power of each operator family while it runs; a rank that waits draws what the host
    phase does. Every rank stands for an equal share of the chips.
    """
    took_s = replica.ends_s - replica.starts_s
    waiting_w, idle_w = (chip_power_w(machine, {state: 1.0}) for state in ("bubble", "idle"))
    if waiting_w is None or idle_w is None:
        return None
    energy_j = np.zeros(len(took_s))
    for steps in replica.ranks:
        names, parts = step_parts(replica, steps, families)
        rank_j, known_s = np.zeros(len(took_s)), np.zeros(len(took_s))
        for name, seconds in zip(names, parts, strict=True):
            watts = waiting_w if name == "wait" else chip_power_w(machine, {name: 1.0}) or 0.0
            rank_j[steps.number] += watts * seconds
            known_s[steps.number] += seconds
        energy_j += rank_j + waiting_w * np.maximum(took_s - known_s, 0.0)
    mean_w = chips / len(replica.ranks) * energy_j / np.where(took_s > 0, took_s, 1.0)
    return _with_idle(replica, mean_w, chips * idle_w)


def _with_idle(replica: ReplicaSteps, values: FloatArray, idle: float) -> Series:
    """A value a step, and another one before the first, in gaps and after the last."""
    starts_s, ends_s = replica.starts_s, replica.ends_s
    gaps = np.ones(len(ends_s), dtype=bool)
    gaps[:-1] = starts_s[1:] > ends_s[:-1]
    at_s = np.concatenate([[0.0], starts_s, ends_s[gaps]])
    order = np.argsort(at_s, kind="stable")
    return at_s[order], np.concatenate([[idle], values, np.full(gaps.sum(), idle)])[order]


def _thinned(series: Series, first_s: float, last_s: float, points: int, *, mean: bool) -> Series:
    """A series between two times: all of it, or ``points`` values on an even grid; either the value
    at the time, or the mean until the next.
    """
    at_s, values = series
    inside = (at_s > first_s) & (at_s <= last_s)
    if int(inside.sum()) < points:
        now = np.searchsorted(at_s, first_s, side="right") - 1
        before = values[now] if now >= 0 else 0
        return np.concatenate([[first_s], at_s[inside]]), np.concatenate([[before], values[inside]])
    grid = np.linspace(first_s, last_s, points + 1)
    if mean:
        until = np.concatenate([[0.0], np.cumsum(values[:-1] * np.diff(at_s))])
        # Beyond the last change the value stays.
        at_s = np.append(at_s, max(last_s, at_s[-1]))
        until = np.append(until, until[-1] + values[-1] * (at_s[-1] - at_s[-2]))
        return grid[:-1], np.diff(np.interp(grid, at_s, until)) / np.diff(grid)
    latest = np.searchsorted(at_s, grid[:-1], side="right") - 1
    return grid[:-1], np.where(latest >= 0, values[np.maximum(latest, 0)], 0)
