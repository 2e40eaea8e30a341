"""A training step as events on the fluid engine, where all that overlaps shares the machine.

Model: the tasks of ``step_graph``. Links, SM time and memory bandwidth are shared by the engine's
max-min rule. What has its resources to itself for the whole step is put on the clock as one
instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from simpy.core import Environment

from cluster_sim.engine.fluid import FluidEngine
from cluster_sim.engine.tasks import Player
from cluster_sim.training.step_graph import ColumnTasks, StepGraph, step_graph
from cluster_sim.training.step_work import Record, StageSeconds, StepWork

# Rounds of the phases of an operation beside something else. Source: against 80 rounds, random
# steps of PP8 to PP16 differ by up to 0.05 % beside collectives (8 rounds: 0.04 %), and by up to
# 1 % where passes use the NIC that sends use (8 rounds: 0.6 %).
ALTERNATIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedStep:
    """What happened in a step, in order of ends, and where each stage's time went."""

    records: tuple[Record, ...]
    stages: tuple[StageSeconds, ...]
    end_s: float


def play(work: StepWork, *, instants: bool = True) -> PlayedStep:
    """Play a step. Without ``instants`` all of it goes through the engine, with the same result."""
    env = Environment()
    step = step_graph([work], instants=instants)
    player = Player(FluidEngine(env, work.capacity, alternations=ALTERNATIONS), step.graph)
    player.begin()
    env.run()
    player.check()
    return played(work, step, player)


def played(work: StepWork, step: StepGraph, player: Player, column: int = 0) -> PlayedStep:
    """What was played of a column, with the books closed."""
    start_s, end_s, tasks = player.start_s, player.end_s, step.columns[column]
    over_s = max(
        [end_s[step.barrier], *(end_s[n] for one in step.columns for n in one.optimizers.values())]
    )
    return PlayedStep(
        records=tuple(step.records(column, player.ended, start_s, end_s)),
        stages=_books(work, step, tasks, start_s, end_s, over_s),
        end_s=over_s,
    )


def _books(
    work: StepWork,
    step: StepGraph,
    tasks: ColumnTasks,
    start_s: list[float],
    end_s: list[float],
    over_s: float,
) -> tuple[StageSeconds, ...]:
    """Where the time of each stage went: operation by operation, then what is not known otherwise,
    the bubble.
    """
    plan, after, first = work.schedule, step.graph.after, tasks.operations
    buckets = step.columns[0].sends  # the first tasks
    busy_s, slowed_s, gather_s, p2p_s, last_s = ([0.0] * plan.stages for _ in range(5))
    for number, (stage, _, doing, virtual, _, _) in enumerate(plan.nodes):
        # When all that it waited for was done, and had arrived.
        done_s = here_s = 0.0
        for way in after[first + number]:
            if way >= buckets:
                gone_s, come_s = start_s[way] if way < first else end_s[way], end_s[way]
                done_s = gone_s if gone_s > done_s else done_s
                here_s = come_s if come_s > here_s else here_s
        begun_s, now_s = start_s[first + number], end_s[tasks.last[number]]
        gather_s[stage] += begun_s - here_s
        p2p_s[stage] += here_s - done_s
        took_s = now_s - begun_s
        if number in tasks.parts:
            paused_s = _paused_s(tasks.parts[number], start_s, end_s)
            gather_s[stage] += paused_s
            took_s -= paused_s
        busy_s[stage] += took_s
        slowed_s[stage] += took_s - tasks.seconds[doing, virtual]
        last_s[stage] = now_s
    found = []
    for stage in range(plan.stages):
        lane_s = max((end_s[number] for number in step.buckets[stage]), default=0.0)
        exposed_s = max(lane_s - last_s[stage], 0.0)
        update = tasks.optimizers.get(stage)
        optimizer_s = 0.0 if update is None else end_s[update] - start_s[update]
        known_s = busy_s[stage] + gather_s[stage] + exposed_s + work.barrier_s
        found.append(
            StageSeconds(
                busy_s=busy_s[stage],
                slowed_s=slowed_s[stage],
                gather_exposed_s=gather_s[stage],
                gradient_exposed_s=exposed_s,
                norm_s=work.barrier_s,
                optimizer_s=optimizer_s,
                bubble_s=over_s - known_s - optimizer_s,
                p2p_exposed_s=p2p_s[stage],
            )
        )
    return tuple(found)


def _paused_s(parts: Sequence[int], start_s: Sequence[float], end_s: Sequence[float]) -> float:
    """Seconds between the parts of an operation, in which it had no parameters."""
    paused_s = 0.0
    for before, after in pairwise(parts):
        if start_s[after] > end_s[before]:
            paused_s = paused_s + start_s[after] - end_s[before]
    return paused_s
