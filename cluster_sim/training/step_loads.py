"""A priced step as activities on a ground: kernels on SMs and memory, collectives and sends on
links, folded to the resources that show all limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cluster_sim.collectives.network import Axis
from cluster_sim.engine.fluid_fold import alike, fullest
from cluster_sim.machine.classes import Ints
from cluster_sim.perf.train_stage import Called, Transfers
from cluster_sim.training.ground import Ground, Load, Use, called, compute, ground_of, sent
from cluster_sim.training.priced import Pass, Priced
from cluster_sim.training.schedule import Schedule
from cluster_sim.training.step_work import Phases, StepWork
from cluster_sim.work import Activity, Phase, kernel, pause, traffic

STREAMING = ("elementwise", "permute")  # parts that are all memory traffic
KERNELS = ("gemm", "attention", "experts", "head", *STREAMING)
WAITS = ("host", "offload")
RING = {"ring": "send_recv", "all_gather": "all_gather", "all_to_all": "all_to_all"}
SAME = 1 - 1e-9  # links this near to the one that takes longest take as long

Uses = tuple[tuple[Use, float], ...]


class Part(NamedTuple):
    """Something that takes time: what it uses, of links or as kernels, and what it holds at its
    ends; nothing: a pause.
    """

    name: str
    seconds: float
    uses: Uses = ()
    ends: Uses = ()


Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The parts of a step of some replicas, as ``StepWork`` has them."""

    forward: tuple[Parts, ...]
    backward: tuple[Parts, ...]
    weight: tuple[Parts, ...]
    send_forward: tuple[Part | None, ...]
    send_backward: tuple[Part | None, ...]
    gradients: tuple[Parts, ...]
    gathers: tuple[Parts, ...]
    optimizer: tuple[Part | None, ...]

    def all(self) -> Iterator[Part]:
        """Each part once."""
        for passes in (self.forward, self.backward, self.weight, self.gradients, self.gathers):
            for parts in passes:
                yield from dict.fromkeys(parts)
        for some in (self.send_forward, self.send_backward, self.optimizer):
            yield from (part for part in some if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A step on fewer resources: for each resource ``shown`` is the first that carries the same
    share of what it can (-1: nobody uses it); ``loads`` are those of each use.
    """

    works: tuple[StepWork, ...]
    shown: Ints
    loads: dict[Use, Load]


def work_of(priced: Priced, plan: Schedule) -> StepWork:
    """A step of a schedule on the smallest ground that shows what the machine does."""
    column = column_of(priced, plan, 0)
    return fold(priced, plan, ground_of(priced, axes_of((column,))), (column,)).works[0]


def axes_of(columns: Iterable[Column]) -> set[Axis]:
    """The axes along which a step's collectives run."""
    parts = (part for column in columns for part in column.all())
    return {use.axis for part in parts for use, _ in part.uses if use.axis is not None}


def fold(
    priced: Priced,
    plan: Schedule,
    ground: Ground,
    columns: Sequence[Column],
    apart: Iterable[int] | None = None,
) -> Folded:
    """The step on a ground, of its resources those that set the limits, by new numbers.

    With ``apart`` one of all that are loaded alike, by its own number; those apart are with nobody.
    """
    uses = dict.fromkeys(
        use for column in columns for part in column.all() for use, _ in (*part.uses, *part.ends)
    )
    loads = {use: ground.load(use) for use in uses}
    capacity = ground.capacity
    shown = alike(loads.values(), capacity, apart or ())
    kept = np.flatnonzero(shown == np.arange(len(shown)))
    number = np.arange(len(shown))
    if apart is None:
        kept = kept[fullest(list(loads.values()), capacity, kept)]
        number[kept] = np.arange(len(kept))
    is_kept = np.zeros(len(shown), np.bool_)
    is_kept[kept] = True
    small: dict[Use, list[tuple[int, float]]] = {}
    for use, (resources, amounts) in loads.items():
        there = is_kept[resources]
        pairs = zip(number[resources[there]].tolist(), amounts[there].tolist(), strict=True)
        small[use] = list(pairs)
    carries = (capacity[kept] if apart is None else capacity).tolist()
    made = _Maker(small, carries)
    works = tuple(_work(priced, plan, column, made, tuple(carries)) for column in columns)
    return Folded(works=works, shown=shown, loads=loads)


class _Maker:
    """Turns parts into activities; equal ones are one."""

    def __init__(
        self, small: Mapping[Use, list[tuple[int, float]]], capacity: Sequence[float]
    ) -> None:
        self.small, self.capacity = small, capacity
        self.known: dict[Part, Activity] = {}

    def activity(self, part: Part) -> Activity:
        """The activity of a part."""
        if part not in self.known:
            self.known[part] = self._activity(part)
        return self.known[part]

    def _activity(self, part: Part) -> Activity:
        demand, ends = self._demand(part.uses), self._demand(part.ends)
        if not demand:
            return pause(part.seconds)
        if part.uses[0][0].what in ("sm", "hbm"):
            return kernel(part.seconds, demand)
        return traffic(part.seconds, demand, ends, size=self._size(demand))

    def _demand(self, uses: Uses) -> dict[int, float]:
        found: dict[int, float] = {}
        for use, amount in uses:
            for resource, one in self.small[use]:
                found[resource] = found.get(resource, 0.0) + amount * one
        return found

    def _size(self, links: Mapping[int, float]) -> float:
        """Bytes on the first of the links that take longest."""
        seconds = {link: size / self.capacity[link] for link, size in links.items()}
        longest = max(seconds.values())
        return links[min(link for link in links if seconds[link] >= SAME * longest)]


def _work(
    priced: Priced, plan: Schedule, column: Column, made: _Maker, capacity: tuple[float, ...]
) -> StepWork:
    job = priced.job

    def passes(given: tuple[Parts, ...]) -> tuple[Phases, ...]:
        return tuple(
            tuple(Phase(name=part.name, activity=made.activity(part)) for part in parts)
            for parts in given
        )

    def ones(given: tuple[Part | None, ...]) -> tuple[Activity | None, ...]:
        return tuple(None if part is None else made.activity(part) for part in given)

    def buckets(given: tuple[Parts, ...]) -> tuple[tuple[Activity, ...], ...]:
        return tuple(tuple(made.activity(part) for part in parts) for parts in given)

    return StepWork(
        schedule=plan,
        forward=passes(column.forward),
        backward=passes(column.backward),
        weight=passes(column.weight),
        send_forward=ones(column.send_forward),
        send_backward=ones(column.send_backward),
        gradients=buckets(column.gradients),
        gradients_ready="during" if job.plan.overlap_gradients else "end",
        gathers=buckets(column.gathers),
        gathers_needed="during" if job.plan.overlap_gather else "before",
        optimizer=ones(column.optimizer),
        barrier_s=priced.barrier_s,
        capacity=capacity,
    )


def column_of(priced: Priced, plan: Schedule, column: int, *, fine: bool = False) -> Column:
    """The parts of a step of the replicas of a column; ``fine``: kernels that are all memory
    traffic are a phase of their own, as it matters where others use the memory.
    """
    count, parts = plan.virtual_stages, len(priced.stages)
    home = [plan.home(v)[0] for v in range(count)]
    samples = _samples(priced)

    def phases(passes: tuple[Pass, ...]) -> tuple[Parts, ...]:
        return tuple(
            _pass(priced, passes[v % parts].parts, samples, home[v], column, fine=fine)
            for v in range(count)
        )

    def sends(ahead: int) -> tuple[Part | None, ...]:
        return tuple(
            _send(priced.sends[v % parts], home[v + ahead], home[v + 1 - ahead], column)
            if (v + 1) % parts
            else None
            for v in range(count - 1)
        )

    def buckets(*, gather: bool) -> tuple[Parts, ...]:
        return tuple(_buckets(priced, v % parts, home[v], gather=gather) for v in range(count))

    offloaded = priced.job.plan.offload.optimizer  # then it waits for the host most of the time
    optimizers = [
        sum(priced.optimizer_s[plan.virtual(stage, c) % parts] for c in range(plan.chunks))
        for stage in range(plan.stages)
    ]
    return Column(
        forward=phases(priced.forward),
        backward=phases(priced.backward),
        weight=phases(priced.weight),
        send_forward=sends(0),
        send_backward=sends(1),
        gradients=buckets(gather=False),
        gathers=buckets(gather=True),
        optimizer=tuple(
            _kernels(priced, "optimizer", seconds, 0.0 if offloaded else seconds, stage, column)
            if seconds
            else None
            for stage, seconds in enumerate(optimizers)
        ),
    )


def _samples(priced: Priced) -> dict[str, tuple[Called, float]]:
    """One call of each collective inside a pass, and its seconds."""
    case = priced.job.case
    groups, message = case.groups, case.tokens * case.model.hidden * 2
    experts = ("all_gather", groups.etp) if groups.ep.ranks == 1 else ("all_to_all", groups.ep)
    calls: tuple[tuple[str, str, Axis], ...] = (
        ("tp", "all_gather", groups.tp),
        ("cp", RING[case.plan.context], groups.cp),
        ("ep", *experts),
        ("dp", "all_gather", groups.sharded),
    )
    found = {}
    for part, operation, axis in calls:
        seconds = case.network.seconds(operation, axis, message)
        if seconds:
            algorithm = case.network.algorithm(operation, axis, message)
            found[part] = Called(operation, axis, algorithm, message), seconds
    return found


def _pass(
    priced: Priced,
    parts: Mapping[str, float],
    samples: Mapping[str, tuple[Called, float]],
    stage: int,
    column: int,
    *,
    fine: bool,
) -> Parts:
    """A pass: its kernels, its collectives one after the other, what the host takes."""
    found = []
    kernels_s = sum(parts.get(part, 0.0) for part in KERNELS)
    streamed_s = sum(parts.get(part, 0.0) for part in STREAMING)
    if kernels_s and not (fine and streamed_s):
        found.append(_kernels(priced, "compute", kernels_s, streamed_s, stage, column))
    elif kernels_s:
        math_s = kernels_s - streamed_s
        if math_s > 0:
            found.append(_kernels(priced, "compute", math_s, 0.0, stage, column))
        found.append(_kernels(priced, "memory", streamed_s, streamed_s, stage, column))
    for part, seconds in parts.items():
        if part in KERNELS or not seconds:
            continue
        if part in WAITS or part not in samples:
            found.append(Part(part, seconds))
            continue
        call, alone_s = samples[part]
        size = seconds / alone_s * call.message_bytes
        found.append(Part(part, seconds, ((called(call, stage, column), size),)))
    return tuple(found)


def _kernels(
    priced: Priced, name: str, seconds: float, streamed_s: float, stage: int, column: int
) -> Part:
    """Kernels on the devices of a stage, which move memory for some of their time."""
    uses = [(compute("sm", stage, column), seconds)]
    if streamed_s:
        size = streamed_s * priced.job.case.kernels.stream_bytes_per_s
        uses.append((compute("hbm", stage, column), size))
    return Part(name, seconds, tuple(uses))


def _send(moved: Transfers, here: int, there: int, column: int) -> Part | None:
    if not moved.seconds:
        return None
    size = sum(call.message_bytes for call in moved.calls)
    return Part("send", moved.seconds, ((sent(here, there, column), size),))


def _buckets(priced: Priced, part: int, stage: int, *, gather: bool) -> Parts:
    """The collectives of a part once a step, one bucket a layer (or of the plan's size), of all
    replicas.
    """
    held = priced.stages[part]
    total = held.gather if gather else held.gradients
    if not total.seconds:
        return ()
    count = bucket_count(priced, part)
    bucket = total.times(1 / count)
    uses = tuple((called(call, stage, -1), call.message_bytes) for call in bucket.calls)
    held_s = priced.job.case.kernels.software.comm_sms * bucket.seconds
    ends = ((compute("sm", stage, -1), held_s),) if held_s else ()
    name = "gather" if gather else "gradient"
    return (Part(name, bucket.seconds, uses, ends),) * count


def bucket_count(priced: Priced, part: int) -> int:
    """Buckets that the gradients of a part of the model come in."""
    held, plan = priced.stages[part], priced.job.plan
    if plan.bucket is None:
        return max(1, held.content.layers)
    size = held.trained * (4.0 if plan.reduce_dtype == "fp32" else 2.0)
    return max(1, round(size / plan.bucket))
