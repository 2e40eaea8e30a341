"""A graph of compute and communication played on a machine.

Model: a node starts when all that it waits for is done; a collective when all its ranks have come;
a receive is done when its message is. Kernels of one device share its SMs, traffic shares links,
max-min fair (``engine.fluid``). Links that every activity loads alike are one. Limits: collectives
take no SMs; a message leaves before its receive is posted; the host is not limited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from simpy.core import Environment
from simpy.events import Event

from cluster_sim.engine.fluid import FluidEngine
from cluster_sim.errors import DoesNotFitError, SimulationError
from cluster_sim.training.causality import Task, link_ranks, sort_tasks
from cluster_sim.training.replay_price import (
    Phases,
    Place,
    Prices,
    capacities,
    fold_links,
    on_fewer,
)
from cluster_sim.training.task_graph import Node, TaskGraph

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
    capacity = capacities(place)
    shown = fold_links(list(prices.known.values()), capacity)
    kept = np.flatnonzero(shown == np.arange(len(shown)))
    number_of = np.full(len(shown), -1)
    number_of[kept] = np.arange(len(kept))
    fewer = {
        id(phases): tuple(on_fewer(one, shown, number_of) for one in phases)
        for phases in prices.known.values()
    }
    run = _Run(
        tasks=tasks,
        phases=[fewer[id(phases)] for phases in alone],
        capacity=capacity[kept].tolist(),
        report=report,
    )
    partial_ = run.play()
    if not partial_ and run.left:
        raise SimulationError(f"{run.left} tasks of a replay never started", run.env.now)
    return Replay(
        graph=graph,
        place=place,
        tasks=tasks,
        start_s=run.start_s,
        end_s=run.end_s,
        alone_s=np.array([sum(one.alone_s for one in phases) for phases in alone]),
        partial=partial_,
        resources=len(kept),
    )


@dataclass(slots=True, kw_only=True)
class _Run:
    """The tasks on the clock."""

    tasks: list[Task]
    phases: list[Phases]
    capacity: list[float]
    report: Progress
    env: Environment = field(default_factory=Environment)
    engine: FluidEngine = field(init=False)
    start_s: FloatArray = field(init=False)
    end_s: FloatArray = field(init=False)
    waiting: list[int] = field(init=False)
    then: list[list[int]] = field(init=False)
    left: int = 0

    def __post_init__(self) -> None:
        count = len(self.tasks)
        self.engine = FluidEngine(self.env, self.capacity)
        self.start_s, self.end_s = np.full(count, math.nan), np.full(count, math.nan)
        self.waiting = [len(task.after) for task in self.tasks]
        self.then = [[] for _ in range(count)]
        for number, task in enumerate(self.tasks):
            for before in task.after:
                self.then[before].append(number)
        self.left = count

    def play(self) -> bool:
        """Run to the end; returns whether an interrupt came before."""
        try:
            self._start([number for number, count in enumerate(self.waiting) if not count])
            self.env.run()
        except KeyboardInterrupt:
            return True
        return False

    def _start(self, ready: list[int]) -> None:
        """Start tasks, and at once those that follow tasks without any time."""
        while ready:
            later: list[int] = []
            for number in ready:
                self.start_s[number] = self.env.now
                if self.phases[number]:
                    self._go(number, 0)
                else:
                    later += self._finish(number)
            ready = later

    def _go(self, number: int, phase: int) -> None:
        running = self.engine.start(self.phases[number][phase])
        assert running.callbacks is not None
        running.callbacks.append(partial(self._next, number, phase + 1))

    def _next(self, number: int, phase: int, event: Event) -> None:
        if phase < len(self.phases[number]):
            self._go(number, phase)
        else:
            self._start(self._finish(number))

    def _finish(self, number: int) -> list[int]:
        """Note the end of a task; returns those that can start now."""
        self.end_s[number] = self.env.now
        self.left -= 1
        count = len(self.tasks)
        if self.left % max(1, count // REPORTS) == 0:
            self.report("replay", 1 - self.left / count)
        ready = []
        for one in self.then[number]:
            self.waiting[one] -= 1
            if not self.waiting[one]:
                ready.append(one)
        return ready


def critical_path_s(played: Replay) -> float:
    """The longest chain of times alone: no replay can be shorter."""
    after = [task.after for task in played.tasks]
    order, _ = sort_tasks(after)
    ends = [0.0] * len(after)
    for number in order:
        begin = max((ends[one] for one in after[number]), default=0.0)
        ends[number] = begin + float(played.alone_s[number])
    return max(ends, default=0.0)
