"""A training step as a graph of tasks: who waits for whom, and what each task is.

Model: a stage does the operations of its schedule one after the other. What it sends goes at once,
beside the next operation, and is needed at the other end. Collectives of a stage run one after the
other on a lane of their own: parameters from the start of the step in the order in which they are
needed, gradients when they are ready. After all stages have all gradients comes the norm, then each
stage's optimizer. An operation during which buckets are needed or become ready has as many equal
parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from cluster_sim.engine.tasks import Graph, Task
from cluster_sim.training.exclusive import Does, Exclusive, exclusive, phases_of
from cluster_sim.training.schedule import Schedule
from cluster_sim.training.step_work import Lane, Phases, Record, StepWork, alone_s, part_of
from cluster_sim.training.wiring import Wiring, wire
from cluster_sim.work import Activity, Phase, pause

_Label = tuple[int, Lane, str, int, int]  # a record without its times


@dataclass(slots=True, kw_only=True)
class ColumnTasks:
    """The tasks of a column, by number: from ``sends`` on sends, from ``operations`` on the
    schedule's operations in order, those of several ``parts`` by their first; ``last`` is the last
    part of each. ``seconds`` are those of what operations do.
    """

    seconds: dict[Does, float]
    sends: int = 0
    operations: int = 0
    last: list[int] = field(default_factory=list)
    parts: dict[int, list[int]] = field(default_factory=dict)
    optimizers: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class StepGraph:
    """The graph of a step of one column of replicas or several, and which tasks are what: the first
    ones are ``buckets`` by stage, of all columns. ``labels`` are the records that the end of a task
    gives.
    """

    graph: Graph
    buckets: list[list[int]]
    labels: list[tuple[_Label, ...]] = field(default_factory=list)
    columns: list[ColumnTasks] = field(default_factory=list)
    barrier: int = -1

    def name(self, number: int) -> str:
        """What a task is, in words."""
        if not self.labels[number]:
            return "the norm of all gradients" if number == self.barrier else "part of an operation"
        stage, lane, kind, micro_batch, _ = self.labels[number][0]
        of = f" of micro-batch {micro_batch}" if micro_batch >= 0 else ""
        return f"{lane} {kind}{of} on stage {stage}"

    def records(
        self, column: int, ended: Sequence[int], start_s: Sequence[float], end_s: Sequence[float]
    ) -> list[Record]:
        """What happened in a column, in order of ends."""
        tasks = self.columns[column]
        begun = {parts[-1]: parts[0] for parts in tasks.parts.values()}
        if len(self.columns) > 1:
            mine = set(self._tasks_of(column))
            ended = [number for number in ended if number in mine]
        return [
            Record(*label, start_s[begun.get(number, number)], end_s[number])
            for number in ended
            for label in self.labels[number]
        ]

    def _tasks_of(self, column: int) -> list[int]:
        """Its own, and the buckets of all; the norm has no records."""
        buckets, optimizers = range(self.columns[0].sends), self.columns[column].optimizers
        return [*buckets, *range(*self._own(column)), *optimizers.values()]

    def _own(self, column: int) -> tuple[int, int]:
        """The first of the sends and operations of a column, and what comes after the last."""
        last = column + 1 == len(self.columns)
        after = self.barrier if last else self.columns[column + 1].sends
        return self.columns[column].sends, after

    def same(self, before: StepGraph, columns: Sequence[int]) -> list[int]:
        """For each task that of a coarser graph which did its work, where column c was a part of
        ``columns[c]``.
        """
        found = list(range(self.columns[0].sends))
        for old in columns:
            found += range(*before._own(old))
        found.append(before.barrier)
        for old in columns:
            found += before.columns[old].optimizers.values()
        return found

    def add(self, task: Task, labels: tuple[_Label, ...], after: Sequence[int]) -> int:
        """One more task, with its records."""
        self.labels.append(labels)
        return self.graph.add(task, after)


def step_graph(works: Sequence[StepWork], *, instants: bool) -> StepGraph:
    """The graph of a step of columns of replicas, which reduce and gather together (as the first of
    them says); with ``instants`` what never shares needs no engine, for one column.
    """
    work, plan = works[0], works[0].schedule
    wiring = wire(plan)
    step = StepGraph(
        graph=Graph(tasks=[], after=[], groups=2 * plan.stages),
        buckets=[[] for _ in range(plan.stages)],
    )
    step.graph.name = step.name
    gathered = _add_buckets(step, plan, "gather", work.gathers, wiring.first_forward)
    reduced = _add_buckets(step, plan, "gradient", work.gradients, wiring.last_gradient)
    for work in works:
        _add_column(step, work, _parts_of(work, wiring), instants=instants and len(works) == 1)
    _wait_for_buckets(step, works[0], wiring, gathered, reduced)
    _finish(step, works)
    return step


def _add_column(
    step: StepGraph, work: StepWork, counts: Mapping[int, int], *, instants: bool
) -> None:
    plan = work.schedule
    phases: dict[Does, Phases] = {}
    for node in plan.nodes:
        if (node.doing, node.virtual) not in phases:
            phases[node.doing, node.virtual] = phases_of(work, node)
    seconds = {does: alone_s(some) for does, some in phases.items()}
    free = exclusive(work, phases, seconds) if instants else Exclusive()
    tasks = {does: _operation(plan, free, does, some, seconds) for does, some in phases.items()}
    column = ColumnTasks(seconds=seconds)
    step.columns.append(column)
    _add_operations(step, column, plan, tasks, _send_tasks(work, free), counts)


def _add_buckets(
    step: StepGraph,
    plan: Schedule,
    kind: str,
    given: tuple[tuple[Activity, ...], ...] | None,
    order: Mapping[int, int],
) -> dict[int, list[int]]:
    """The buckets of each virtual stage, in the order of the operations that they belong to."""
    known: dict[int, Task] = {}
    found: dict[int, list[int]] = {}
    for virtual in order if given is not None else ():
        assert given is not None
        stage, chunk = plan.home(virtual)
        label: _Label = (stage, "collective", kind, -1, chunk)
        for bucket in given[virtual]:
            if id(bucket) not in known:
                known[id(bucket)] = _one(kind, bucket, group=stage, lane=True)
            number = step.add(known[id(bucket)], (label,), ())
            found.setdefault(virtual, []).append(number)
            step.buckets[stage].append(number)
    return found


def _one(name: str, activity: Activity, **more: Any) -> Task:
    phases = (Phase(name=name, activity=activity),) if activity.alone_s else ()
    return Task(phases=phases, alone_s=activity.alone_s, **more)


def _send_tasks(work: StepWork, free: Exclusive) -> dict[tuple[str, int], Task]:
    """The sends that take time, by kind and boundary."""
    plan, found = work.schedule, dict[tuple[str, int], Task]()
    for kind, sends in (("F", work.send_forward), ("B", work.send_backward)):
        for boundary, activity in enumerate(sends or ()):
            if activity is None or not activity.alone_s:
                continue
            stage = plan.home(boundary if kind == "F" else boundary + 1)[0]
            group, key = plan.stages + stage, (kind, boundary)
            quiet: tuple[int, ...] | None = None
            if key in free.sends:
                quiet = ()
            elif key in free.sends_beside_idle_lane:
                quiet = (stage, group)
            found[key] = _one(kind, activity, group=group, quiet=quiet)
    return found


def _operation(
    plan: Schedule, free: Exclusive, does: Does, phases: Phases, seconds: Mapping[Does, float]
) -> Task:
    quiet: tuple[int, ...] | None = None
    if does in free.always:
        quiet = ()
    elif does in free.beside_idle_lane:
        quiet = (plan.home(does[1])[0],)
    return Task(phases=phases, alone_s=seconds[does], mixed=True, quiet=quiet)


def _add_operations(
    step: StepGraph,
    column: ColumnTasks,
    plan: Schedule,
    does: Mapping[Does, Task],
    sent: Mapping[tuple[str, int], Task],
    counts: Mapping[int, int],
) -> None:
    """Sends, then operations: so numbered, what starts together starts in this order."""
    graph, nodes = step.graph, plan.nodes
    column.sends = len(graph.tasks)
    sends = sum((kind, boundary) in sent for node in nodes for _, boundary, kind in node.needs)
    column.operations = first = column.sends + sends
    more = first + len(nodes)
    column.last = list(range(first, more))
    for number, count in counts.items():
        parts = [first + number, *range(more, more := more + count - 1)]
        column.parts[number], column.last[number] = parts, parts[-1]
    last, tasks, after = column.last, list[Task](), list[list[int]]()
    for _, _, doing, virtual, before, needs in nodes:
        ways = []
        for source, boundary, kind in needs:
            send = sent.get((kind, boundary))
            if send is None:
                ways.append(last[source])
                continue
            stage, others, *_ = nodes[source]
            op = others[-1] if kind == "B" else others[0]
            label: _Label = (stage, "p2p", kind, op.micro_batch, op.chunk)
            ways.append(step.add(send, (label,), (last[source],)))
        if before >= 0:
            ways.append(last[before])
        tasks.append(does[doing, virtual])
        after.append(ways)
    graph.tasks += tasks
    graph.after += after
    step.labels += [
        tuple([(stage, "compute", op.kind, op.micro_batch, op.chunk) for op in ops])
        for stage, ops, *_ in nodes
    ]
    _cut(step, column)


def _cut(step: StepGraph, column: ColumnTasks) -> None:
    """Cut operations into their parts; the last one gives the records."""
    graph, cut = step.graph, dict[tuple[int, int], Task]()
    for first, *others in column.parts.values():
        count, whole, labels = len(others) + 1, graph.tasks[first], step.labels[first]
        key = (id(whole), count)
        if key not in cut:
            phases = part_of(whole.phases, count)
            cut[key] = replace(whole, phases=phases, alone_s=whole.alone_s / count)
        graph.tasks[first], step.labels[first] = cut[key], ()
        for before, number in pairwise((first, *others)):
            own = labels if number == others[-1] else ()
            step.add(cut[key], own, [before])


def _wait_for_buckets(
    step: StepGraph,
    work: StepWork,
    wiring: Wiring,
    gathered: Mapping[int, list[int]],
    reduced: Mapping[int, list[int]],
) -> None:
    """Operations wait for parameters, buckets of gradients for the operations of all columns."""
    after, ends = step.graph.after, last_nodes(work.schedule)
    for virtual, buckets in gathered.items():
        number = wiring.first_forward[virtual]
        needed = buckets[-1:] if work.gathers_needed == "before" else buckets
        for column in step.columns:
            parts = column.parts.get(number, [column.operations + number])
            for part, bucket in zip(parts, needed, strict=False):
                after[part] = [*after[part], bucket]
    for virtual, buckets in reduced.items():
        number = wiring.last_gradient[virtual]
        if work.gradients_ready == "end":
            number = ends[work.schedule.home(virtual)[0]]
        for place, bucket in enumerate(buckets):
            ready = []
            for column in step.columns:
                parts = [column.last[number]]
                if work.gradients_ready == "during":
                    parts = column.parts.get(number, parts)
                ready.append(parts[min(place, len(parts) - 1)])
            after[bucket] = ready


def _finish(step: StepGraph, works: Sequence[StepWork]) -> None:
    """The norm of all gradients, and the optimizers."""
    waits = [number for buckets in step.buckets for number in buckets]
    for work, column in zip(works, step.columns, strict=True):
        waits += [column.last[number] for number in last_nodes(work.schedule)]
    step.barrier = step.add(_one("norm", pause(works[0].barrier_s)), (), waits)
    for work, column in zip(works, step.columns, strict=True):
        for stage, activity in enumerate(work.optimizer or ()):
            if activity is not None and activity.alone_s:
                label: _Label = (stage, "compute", "optimizer", -1, 0)
                task = _one("optimizer", activity)
                column.optimizers[stage] = step.add(task, (label,), (step.barrier,))


def _parts_of(work: StepWork, wiring: Wiring) -> dict[int, int]:
    """The nodes that have several parts: first passes that need parameters bucket by bucket, and
    last ones after which gradients are ready so.
    """
    parts: dict[int, int] = {}
    if work.gathers is not None and work.gathers_needed == "during":
        parts.update({n: len(work.gathers[v]) for v, n in wiring.first_forward.items()})
    if work.gradients is not None and work.gradients_ready == "during":
        parts.update({n: len(work.gradients[v]) for v, n in wiring.last_gradient.items()})
    return {number: count for number, count in parts.items() if count > 1}


def last_nodes(plan: Schedule) -> list[int]:
    """The last operation of each stage."""
    found = [-1] * plan.stages
    for number, node in enumerate(plan.nodes):
        found[node.stage] = number
    return found
