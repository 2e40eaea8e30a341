"""A graph of tasks on the clock: each starts when all that it waits for is done, and shares the
machine with whatever runs beside it.

Model: a task is a list of phases, one after the other or in alternation as the layers of a model
are (``mixed``). Tasks of a lane run one at a time, in the order in which they become ready. What is
known never to share is one instant on the clock, without the engine. A graph may be replaced on the
way by a finer one, in which several tasks do what one stood for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from simpy.events import Event

from cluster_sim.engine.clock import ARRIVAL_RANK, END_RANK, call_at, instant
from cluster_sim.engine.fluid import FluidEngine, Handle, Running
from cluster_sim.engine.fluid_play import NOTHING, Play, Rest
from cluster_sim.errors import SimulationError
from cluster_sim.work import Phase

MOST_NAMED = 6  # tasks that an error names
ALL = Rest(left=1.0)


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
        self._then = _followers(graph)
        # What the engine runs: the phase, and the share of it that was left when it began.
        self._handles: dict[int, tuple[Handle, int, float]] = {}
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

    def replace(self, graph: Graph, same: Sequence[int]) -> None:
        """Go on with a graph in which task n does what ``same[n]`` of this one did up to now. What
        runs goes on with what is left of it; nothing may be an instant.
        """
        copies: dict[int, list[int]] = {}
        for number, old in enumerate(same):
            copies.setdefault(old, []).append(number)
        running, self._handles = self._handles, {}
        self.graph, self._then = graph, _followers(graph)
        self.start_s = [self.start_s[old] for old in same]
        self.end_s = [self.end_s[old] for old in same]
        self.ended = [number for old in self.ended for number in copies[old]]
        self._missing = [
            sum(math.isnan(self.end_s[before]) for before in after) for after in graph.after
        ]
        self._waiting = [
            deque(number for old in waiting for number in copies[old]) for waiting in self._waiting
        ]
        for group in range(graph.groups):
            self._loud[group] = 0
        for old, (handle, phase, left) in running.items():
            if isinstance(handle, Play):
                rest = handle.stop()
            elif handle.triggered:
                rest = Rest(left=0.0)
            else:
                rest = Rest(left=left - handle.cancel())
            if handle.callbacks is not None:
                handle.callbacks.clear()
            for number in copies[old]:
                self._go_on(number, phase, rest)

    def _go_on(self, number: int, phase: int, rest: Rest) -> None:
        task = self.graph.tasks[number]
        if task.group is not None:
            self._loud[task.group] += 1
        if rest.left > NOTHING:
            self._run(number, phase, rest)
            return
        ending = Running(self.engine, task.phases[phase].activity, 1.0, 0)
        self._handles[number] = (ending, phase, 0.0)
        last = task.mixed or phase + 1 == len(task.phases)
        then = partial(self._end, number) if last else partial(self._next, number, phase + 1)
        _after(ending, then)
        ending.succeed()

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
        self._run(number, 0, ALL)

    def _run(self, number: int, phase: int, rest: Rest) -> None:
        """Let the engine run what is left of a phase, of a mixed task of all."""
        task = self.graph.tasks[number]
        then = partial(self._end, number)
        handle: Handle
        if task.mixed:
            handle = series = Play(self.engine, [task.phases], rest.left)
            _after(handle, then)
            self._handles[number] = (handle, phase, rest.left)
            series.begin_with(rest)
            return
        if phase + 1 < len(task.phases):
            then = partial(self._next, number, phase + 1)
        handle = self.engine.start(task.phases[phase].activity, rest.left)
        _after(handle, then)
        self._handles[number] = (handle, phase, rest.left)

    def _next(self, number: int, phase: int, event: Event) -> None:
        self._run(number, phase, ALL)

    def _end(self, number: int, event: Event) -> None:
        task = self.graph.tasks[number]
        if self._handles.pop(number, None) is not None and task.group is not None:
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


def _followers(graph: Graph) -> list[list[int]]:
    """By task those that wait for it."""
    found: list[list[int]] = [[] for _ in graph.tasks]
    for number, after in enumerate(graph.after):
        for before in after:
            found[before].append(number)
    return found


def _after(event: Event, then: Callable[[Event], None]) -> None:
    assert event.callbacks is not None
    event.callbacks.append(then)
