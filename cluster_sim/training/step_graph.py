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
class StepGraph:
    """The graph, and which tasks are what, by number: the first ones are buckets (``buckets`` by
    stage), from ``sends`` on sends, from ``operations`` on the schedule's operations in order,
    those of several ``parts`` by their first.

    ``labels`` are the records that the end of a task gives.
    """

    graph: Graph
    labels: list[tuple[_Label, ...]]
    buckets: list[list[int]]
    sends: int
    operations: int
    last: list[int]
    parts: dict[int, list[int]]
    seconds: dict[Does, float]
    barrier: int = -1
    optimizers: dict[int, int] = field(default_factory=dict)

    def name(self, number: int) -> str:
        """What a task is, in words."""
        if not self.labels[number]:
            return "the norm of all gradients" if number == self.barrier else "part of an operation"
        stage, lane, kind, micro_batch, _ = self.labels[number][0]
        of = f" of micro-batch {micro_batch}" if micro_batch >= 0 else ""
        return f"{lane} {kind}{of} on stage {stage}"

    def records(
        self, ended: Sequence[int], start_s: Sequence[float], end_s: Sequence[float]
    ) -> list[Record]:
        """What happened, in order of ends."""
        begun = {parts[-1]: parts[0] for parts in self.parts.values()}
        return [
            Record(*label, start_s[begun.get(number, number)], end_s[number])
            for number in ended
            for label in self.labels[number]
        ]

    def add(self, task: Task, labels: tuple[_Label, ...], after: Sequence[int]) -> int:
        """One more task, with its records."""
        self.labels.append(labels)
        return self.graph.add(task, after)


def step_graph(work: StepWork, *, instants: bool) -> StepGraph:
    """The graph of a step; with ``instants`` what never shares needs no engine."""
    plan, wiring = work.schedule, wire(work.schedule)
    phases: dict[Does, Phases] = {}
    for node in plan.nodes:
        if (node.doing, node.virtual) not in phases:
            phases[node.doing, node.virtual] = phases_of(work, node)
    seconds = {does: alone_s(some) for does, some in phases.items()}
    free = exclusive(work, phases, seconds) if instants else Exclusive()
    step = StepGraph(
        graph=Graph(tasks=[], after=[], groups=2 * plan.stages),
        labels=[],
        buckets=[[] for _ in range(plan.stages)],
        sends=0,
        operations=0,
        last=[],
        parts={},
        seconds=seconds,
    )
    step.graph.name = step.name
    gathered = _add_buckets(step, plan, "gather", work.gathers, wiring.first_forward)
    reduced = _add_buckets(step, plan, "gradient", work.gradients, wiring.last_gradient)
    counts = _parts_of(work, wiring)
    tasks = {does: _operation(plan, free, does, some, seconds) for does, some in phases.items()}
    _add_operations(step, plan, tasks, _send_tasks(work, free), counts)
    _wait_for_buckets(step, work, wiring, gathered, reduced)
    _finish(step, work)
    return step


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
    plan: Schedule,
    does: Mapping[Does, Task],
    sent: Mapping[tuple[str, int], Task],
    counts: Mapping[int, int],
) -> None:
    """Sends, then operations: so numbered, what starts together starts in this order."""
    graph, nodes = step.graph, plan.nodes
    step.sends = len(graph.tasks)
    sends = sum((kind, boundary) in sent for node in nodes for _, boundary, kind in node.needs)
    step.operations = first = step.sends + sends
    more = first + len(nodes)
    step.last = list(range(first, more))
    for number, count in counts.items():
        parts = [first + number, *range(more, more := more + count - 1)]
        step.parts[number], step.last[number] = parts, parts[-1]
    last, tasks, after = step.last, list[Task](), list[list[int]]()
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
    _cut(step)


def _cut(step: StepGraph) -> None:
    """Cut operations into their parts; the last one gives the records."""
    graph, cut = step.graph, dict[tuple[int, int], Task]()
    for first, *others in step.parts.values():
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
    """Operations wait for parameters, buckets of gradients for operations."""
    after, ends = step.graph.after, last_nodes(work.schedule)

    def parts_of(number: int) -> list[int]:
        return step.parts.get(number, [step.last[number]])

    for virtual, buckets in gathered.items():
        parts = parts_of(wiring.first_forward[virtual])
        if work.gathers_needed == "before":
            buckets = buckets[-1:]
        for part, bucket in zip(parts, buckets, strict=False):
            after[part] = [*after[part], bucket]
    for virtual, buckets in reduced.items():
        number = wiring.last_gradient[virtual]
        if work.gradients_ready == "during":
            ready = parts_of(number)
        elif work.gradients_ready == "after":
            ready = [step.last[number]]
        else:
            ready = [step.last[ends[work.schedule.home(virtual)[0]]]]
        for place, bucket in enumerate(buckets):
            after[bucket] = (ready[min(place, len(ready) - 1)],)


def _finish(step: StepGraph, work: StepWork) -> None:
    """The norm of all gradients, and the optimizers."""
    waits = [number for buckets in step.buckets for number in buckets]
    waits += [step.last[number] for number in last_nodes(work.schedule)]
    step.barrier = step.add(_one("norm", pause(work.barrier_s)), (), waits)
    for stage, activity in enumerate(work.optimizer or ()):
        if activity is not None and activity.alone_s:
            label: _Label = (stage, "compute", "optimizer", -1, 0)
            task = _one("optimizer", activity)
            step.optimizers[stage] = step.add(task, (label,), (step.barrier,))


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
