"""A graph of tasks on the clock: each starts when all that it waits for is done, and shares the
machine with whatever runs beside it.

Model: a task is a list of phases, one after the other or in alternation as the layers of a model
are (``mixed``). Tasks of a lane run one at a time, in the order in which they become ready. What is
known never to share is one instant on the clock, without the engine. Limits: a task that runs
is not interrupted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from simpy.events import Event

from cluster_sim.engine.clock import ARRIVAL_RANK, END_RANK, call_at, instant
from cluster_sim.engine.fluid import FluidEngine, Handle
from cluster_sim.engine.fluid_play import play
from cluster_sim.errors import SimulationError
from cluster_sim.work import Phase

MOST_NAMED = 6  # tasks that an error names


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """What is done: ``phases``, none for what takes no time, ``alone_s`` in all.

    ``group``: the tasks that it counts to while the engine runs it; of a ``lane`` only one runs at
    a time. ``quiet``: while these groups are idle it shares nothing, whatever comes; None: it may
    always share.
    """

    phases: tuple[Phase, ...] = ()
    alone_s: float = 0.0
    mixed: bool = False
    group: int | None = None
    lane: bool = False
    quiet: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True)
class Graph:
    """``tasks``, by number what each waits for (``after``), and when it starts at the earliest.
    ``name`` says what one is, in errors; ``groups`` is how many there are.

    What waits for a task starts in the order of its numbers.
    """

    tasks: list[Task]
    after: list[Sequence[int]]
    name: Callable[[int], str] = str
    groups: int = 0
    not_before_s: Mapping[int, float] = field(default_factory=dict)

    def add(self, task: Task, after: Sequence[int] = ()) -> int:
        """One more task; returns its number."""
        self.tasks.append(task)
        self.after.append(after)
        return len(self.tasks) - 1


class Player:
    """Plays a graph on an engine, from the present time on; ``start_s`` and ``end_s`` are those of
    each task (NaN: not reached), ``ended`` the tasks in order of ends. ``watch`` is told at each
    end how many are left.
    """

    def __init__(
        self, engine: FluidEngine, graph: Graph, watch: Callable[[int], None] | None = None
    ) -> None:
        count = len(graph.tasks)
        self.engine, self.env, self.graph, self._watch = engine, engine.env, graph, watch
        self.start_s, self.end_s = [math.nan] * count, [math.nan] * count
        self.ended: list[int] = []
        self._missing = [len(after) for after in graph.after]
        self._then: list[list[int]] = [[] for _ in range(count)]
        for number, after in enumerate(graph.after):
            for before in after:
                self._then[before].append(number)
        self._waiting: list[deque[int]] = [deque() for _ in range(graph.groups)]
        self._taken = [False] * graph.groups
        self._loud = [0] * graph.groups  # of each group, how many the engine runs

    def begin(self) -> None:
        """Start all that waits for nothing."""
        for number, at_s in self.graph.not_before_s.items():
            if at_s > self.env.now:
                self._missing[number] += 1
                call_at(self.env, at_s, ARRIVAL_RANK, partial(self._come, number))
        self._start([number for number, count in enumerate(self._missing) if not count])

    def check(self) -> None:
        """Raise SimulationError for tasks that never ended, with the names of some."""
        if len(self.ended) < len(self.graph.tasks):
            raise SimulationError(self.stuck(), self.env.now)

    def stuck(self) -> str:
        """What never ended: tasks that run, or that wait for each other."""
        done = set(self.ended)
        left = [number for number in range(len(self.graph.tasks)) if number not in done]
        running = [number for number in left if not math.isnan(self.start_s[number])]
        if running:
            return f"{len(running)} tasks never ended: {self._names(running)}"
        way: dict[int, None] = {}
        number = left[0]
        while number not in way:
            way[number] = None
            number = next((one for one in self.graph.after[number] if one not in done), number)
        circle = list(way)[list(way).index(number) :]
        return f"{len(left)} tasks never started; these wait for each other: {self._names(circle)}"

    def _names(self, numbers: Sequence[int]) -> str:
        more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
        return ", ".join(self.graph.name(number) for number in numbers[:MOST_NAMED]) + more

    def _come(self, number: int) -> None:
        self._missing[number] -= 1
        if not self._missing[number]:
            self._start([number])

    def _start(self, ready: list[int]) -> None:
        """Start tasks, and at once those that follow tasks without any time."""
        tasks, start_s, now_s = self.graph.tasks, self.start_s, self.env.now
        while ready:
            later: list[int] = []
            for number in ready:
                task = tasks[number]
                if task.lane:
                    assert task.group is not None
                    if self._taken[task.group]:
                        self._waiting[task.group].append(number)
                        continue
                    self._taken[task.group] = True
                start_s[number] = now_s
                if task.phases:
                    self._go(number, task, now_s)
                else:
                    later += self._finish(number, task)
            ready = later

    def _go(self, number: int, task: Task, now_s: float) -> None:
        then = partial(self._end, number)
        if task.quiet is not None and not (
            task.quiet and any(self._loud[group] for group in task.quiet)
        ):
            instant(self.env, now_s + task.alone_s, END_RANK, then)
            return
        if task.group is not None:
            self._loud[task.group] += 1
        if task.mixed:
            _after(play(self.engine, [task.phases]), then)
        else:
            self._go_on(number, 0)

    def _go_on(self, number: int, phase: int) -> None:
        phases = self.graph.tasks[number].phases
        last = phase + 1 == len(phases)
        then = partial(self._end, number) if last else partial(self._next, number, phase + 1)
        _after(self.engine.start(phases[phase].activity), then)

    def _next(self, number: int, phase: int, event: Event) -> None:
        self._go_on(number, phase)

    def _end(self, number: int, event: Event) -> None:
        task = self.graph.tasks[number]
        if task.group is not None and isinstance(event, Handle):
            self._loud[task.group] -= 1
        self._start(self._finish(number, task))

    def _finish(self, number: int, task: Task) -> list[int]:
        """Note the end of a task; returns those that can start now, first the next of its lane."""
        self.end_s[number] = self.env.now
        self.ended.append(number)
        ready, missing = [], self._missing
        if task.lane:
            assert task.group is not None
            self._taken[task.group] = False
            if self._waiting[task.group]:
                ready.append(self._waiting[task.group].popleft())
        if self._watch is not None:
            self._watch(len(missing) - len(self.ended))
        for one in self._then[number]:
            missing[one] -= 1
            if not missing[one]:
                ready.append(one)
        return ready


def _after(event: Event, then: Callable[[Event], None]) -> None:
    assert event.callbacks is not None
    event.callbacks.append(then)
