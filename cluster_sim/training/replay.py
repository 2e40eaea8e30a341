"""A graph of compute and communication played on a machine.

Model: a node starts when all that it waits for is done; a collective when all its ranks have come;
a receive is done when its message is. Kernels of one device share its SMs, traffic shares links,
max-min fair (``engine.fluid``). Links that every activity loads alike are one. Limits: collectives
take no SMs; a message leaves before its receive is posted; the host is not limited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from simpy.core import Environment

from cluster_sim.engine.fluid import FluidEngine
from cluster_sim.engine.fluid_fold import alike, on_fewer
from cluster_sim.engine.tasks import Graph, Player
from cluster_sim.engine.tasks import Task as Work
from cluster_sim.errors import DoesNotFitError
from cluster_sim.training.causality import Task, link_ranks, sort_tasks
from cluster_sim.training.replay_price import Phases, Place, Prices, capacities
from cluster_sim.training.task_graph import Node, TaskGraph
from cluster_sim.work import Phase

FloatArray = NDArray[np.float64]
Progress = Callable[[str, float], None]
REPORTS = 200  # of the progress in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What was played: start and end (s) of each task, NaN where it was not reached, and its time
    alone. ``partial``: it was interrupted. ``resources`` were left after folding alike ones.
    """

    graph: TaskGraph
    place: Place
    tasks: list[Task]
    start_s: FloatArray
    end_s: FloatArray
    alone_s: FloatArray
    partial: bool
    resources: int

    @property
    def makespan_s(self) -> float:
        """When the last task ended."""
        done = self.end_s[np.isfinite(self.end_s)]
        return float(done.max(initial=0.0))

    def node(self, task: int) -> Node:
        """The first node of a task, which says what it is."""
        return self.graph.nodes[self.tasks[task].nodes[0]]


def check_place(graph: TaskGraph, devices: Sequence[int], available: int) -> None:
    """Raise DoesNotFitError unless there is a device for every rank, each its own."""
    if len(devices) < graph.ranks:
        raise DoesNotFitError(
            f"{graph.ranks} ranks need as many devices, there are {len(devices)}; take a larger "
            "--topo, on a pod --chips, or for text workloads fewer --ranks"
        )
    worst = max(devices[: graph.ranks])
    if worst >= available:
        raise DoesNotFitError(f"device {worst}: the machine has devices 0 to {available - 1}")


def replay(graph: TaskGraph, place: Place, progress: Progress | None = None) -> Replay:
    """Check a graph and play it; an interrupt keeps what was played until then.

    Raises SpecError for a graph that could never run, DoesNotFitError without room for its ranks.
    """
    check_place(graph, place.devices, place.machine.devices)
    report = progress or (lambda stage, share: None)
    report("check", 0.0)
    tasks = link_ranks(graph)
    prices = Prices(graph=graph, place=place)
    alone: list[Phases] = []
    for number, task in enumerate(tasks):
        alone.append(prices.of(graph.nodes[task.nodes[0]]))
        if number % max(1, len(tasks) // REPORTS) == 0:
            report("price", number / len(tasks))
    alone_s = [sum(phase.activity.alone_s for phase in phases) for phases in alone]
    works, capacity = _folded(prices, capacities(place))
    run = Graph(
        tasks=[works[id(phases)] for phases in alone],
        after=[task.after for task in tasks],
        name=lambda number: graph.where(graph.nodes[tasks[number].nodes[0]]),
    )
    env = Environment()
    player = Player(FluidEngine(env, capacity), run, _watch(report, len(tasks)))
    partial_ = False
    try:
        player.begin()
        env.run()
    except KeyboardInterrupt:
        partial_ = True
    else:
        player.check()
    return Replay(
        graph=graph,
        place=place,
        tasks=tasks,
        start_s=np.array(player.start_s),
        end_s=np.array(player.end_s),
        alone_s=np.array(alone_s),
        partial=partial_,
        resources=len(capacity),
    )


def _folded(prices: Prices, capacity: FloatArray) -> tuple[dict[int, Work], list[float]]:
    """Each phases' task (by id) on as few resources as show all limits, and what those carry."""
    known = prices.known.values()
    activities = [phase.activity for phases in known for phase in phases]
    shown = alike([(one.resources, one.demand) for one in activities], capacity)
    kept = np.flatnonzero(shown == np.arange(len(shown)))
    number = np.full(len(shown), -1)
    number[kept] = np.arange(len(kept))
    works = {
        id(phases): Work(
            phases=tuple(
                Phase(name=phase.name, activity=on_fewer(phase.activity, shown, number))
                for phase in phases
            )
        )
        for phases in known
    }
    return works, capacity[kept].tolist()


def _watch(report: Progress, count: int) -> Callable[[int], None]:
    """Report so many times in all how much of a replay is done."""
    every = max(1, count // REPORTS)

    def watch(left: int) -> None:
        if left % every == 0:
            report("replay", 1 - left / count)

    return watch


def critical_path_s(played: Replay) -> float:
    """The longest chain of times alone: no replay can be shorter."""
    after = [task.after for task in played.tasks]
    order, _ = sort_tasks(after)
    ends = [0.0] * len(after)
    for number in order:
        begin = max((ends[one] for one in after[number]), default=0.0)
        ends[number] = begin + float(played.alone_s[number])
    return max(ends, default=0.0)
