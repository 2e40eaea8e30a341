"""Memory of a training job by stage, whether it fits, and the smallest changes that would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from cluster_sim.errors import ClusterSimError, DoesNotFitError
from cluster_sim.machine.host import domain_devices
from cluster_sim.perf.train_memory import (
    StageMemory,
    stage_memory,
    stored_bytes,
    working_bytes,
)
from cluster_sim.perf.train_stage import Stage
from cluster_sim.specs.inputs import TopologyInput, TrainingInput
from cluster_sim.specs.training import Module, Offload, TrainingPlan
from cluster_sim.training.job import Job, make_job
from cluster_sim.training.priced import Priced, player_of, price, schedule_of
from cluster_sim.training.schedule import Schedule
from cluster_sim.training.step_work import Record

Series = tuple[tuple[float, float], ...]  # times (s), not falling, and bytes from each on
OFFERED = 4  # changes that the error names


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes by stage, and what a device has."""

    stages: tuple[StageMemory, ...]
    capacity: float

    @property
    def fullest(self) -> StageMemory:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def missing(self) -> float:
        """Bytes that the fullest stage lacks; not positive if it fits."""
        return self.fullest.total - self.capacity


def memory_of(priced: Priced) -> Memory:
    """The memory of each stage: of a schedule the most activations that it holds at a time."""
    job = priced.job
    plan = player_of(job, _few(job)).plan
    capacity = job.machine.chip.device_memory
    found = []
    for stage in range(plan.stages):
        parts = _parts(priced, plan, stage)
        peak = _peak_bytes(plan, stage, _kept(priced, parts))
        found.append(stage_memory(job.case, parts, peak, capacity))
    return Memory(stages=tuple(found), capacity=capacity)


def _parts(priced: Priced, plan: Schedule, stage: int) -> list[Stage]:
    """The parts of the model that are the chunks of a stage."""
    count = len(priced.stages)
    return [priced.stages[plan.virtual(stage, c) % count] for c in range(plan.chunks)]


def _kept(priced: Priced, parts: list[Stage]) -> list[float]:
    """Bytes on the device of a micro-batch's activations of each chunk."""
    case = priced.job.case
    return [stored_bytes(case, part) * (1 - case.plan.offload.activations) for part in parts]


def _peak_bytes(plan: Schedule, stage: int, each: list[float]) -> float:
    """The most bytes of activations that a stage holds at a time."""
    if max(each) == min(each):
        return plan.peak_alive[stage] * each[0]
    held = peak = 0.0
    for op in plan.ops[stage]:
        if op.kind == "F":
            held += each[op.chunk]
            peak = max(peak, held)
        elif op.whole or op.kind == "W":
            held -= each[op.chunk]
    return peak


def memory_over_time(priced: Priced, memory: Memory, records: Sequence[Record]) -> list[Series]:
    """The bytes of a device of each stage over a played step.

    Model: a micro-batch's activations of a chunk from the end of its forward pass to the end of its
    last backward operation; all else, the logits too, for the whole step.
    """
    plan = schedule_of(priced.job)
    ends: dict[tuple[int, int, int], list[float]] = {}
    for record in sorted(records, key=lambda r: r.end_s):
        if record.lane == "compute" and record.micro_batch >= 0:
            key = record.stage, record.chunk, record.micro_batch
            ends.setdefault(key, []).append(record.end_s)
    found: list[Series] = []
    for stage in range(plan.stages):
        parts = _parts(priced, plan, stage)
        each, changes = _kept(priced, parts), []
        for (home, chunk, _), times in ends.items():
            if home == stage:
                changes += [(times[0], -each[chunk]), (times[-1], each[chunk])]
        held = memory.stages[stage]
        bytes_ = held.total - held.activations + working_bytes(priced.job.case, parts)
        series = [(0.0, bytes_)]
        for at_s, less in sorted(changes):  # of an overlapped pair the new ones come first
            bytes_ -= less
            series.append((at_s, bytes_))
        found.append(tuple(series))
    return found


def _few(job: Job) -> int:
    """So many micro-batches fill a pipeline; more keep it as full."""
    p, m = job.plan.pp, job.micro_batches
    most = 4 * p * max(1, job.plan.vpp)
    if m <= most or job.schedule.startswith(("dualpipe", "gpipe")):
        return m
    return most + m % p


def check_memory(machine: TopologyInput, given: TrainingInput, memory: Memory) -> None:
    """Raise DoesNotFitError if a job needs more than a device has, with what would fit."""
    if memory.missing <= 0:
        return
    full, gib = memory.fullest, 2.0**30
    stage = memory.stages.index(full)
    plan = given.workload.plan
    fits = list(islice(_that_fit(machine, given, _changes(plan)), OFFERED))
    fits = fits or list(islice(_that_fit(machine, given, _together(machine, given)), 1))
    way_out = (
        f"What would fit: {'; '.join(fits)}."
        if fits
        else "No plan that was tried fits; use more or larger chips."
    )
    raise DoesNotFitError(
        f"stage {stage} needs {full.total / gib:.1f} GiB of {memory.capacity / gib:.1f} GiB "
        f"(weights {full.weights / gib:.1f}, gradients {full.gradients / gib:.1f}, optimizer "
        f"{full.optimizer / gib:.1f}, activations {full.activations / gib:.1f}, logits "
        f"{full.logits / gib:.1f}, buffers and reserve {(full.buffers + full.reserve) / gib:.1f}): "
        f"{memory.missing / gib:.1f} GiB too much. {way_out}"
    )


def _that_fit(
    machine: TopologyInput, given: TrainingInput, changes: Iterator[tuple[str, TrainingPlan]]
) -> Iterator[str]:
    """Of changes of the plan those with which the job fits."""
    for words, plan in changes:
        changed = replace(given, workload=replace(given.workload, plan=plan))
        try:
            memory = memory_of(price(make_job(machine, changed)))
        except (ClusterSimError, ValueError):
            continue
        if memory.missing <= 0:
            yield words


def _changes(plan: TrainingPlan) -> Iterator[tuple[str, TrainingPlan]]:
    """Changes of one key, the cheapest first."""
    free = replace(plan, dp=None, layers=(), placement=())
    if plan.recompute == "none":
        yield "recompute=selective", replace(plan, recompute="selective")
    if plan.zero < 1:
        yield "zero=1", replace(plan, zero=1)
    if plan.micro_batch > 1:
        less = plan.micro_batch // 2
        yield f"micro_batch={less}", replace(plan, micro_batch=less)
    if plan.recompute != "full":
        yield "recompute=full", _all_again(plan)
    yield f"tp={2 * plan.tp}", replace(free, tp=2 * plan.tp)
    yield f"pp={2 * plan.pp}", replace(free, pp=2 * plan.pp)
    yield f"cp={2 * plan.cp}", replace(free, cp=2 * plan.cp)
    for ep in (2 * plan.ep, 4 * plan.ep):
        yield f"ep={ep}", replace(free, ep=ep)
    if plan.zero < 3:
        yield "zero=3", replace(plan, zero=3)
    if plan.offload.optimizer < 1:
        yield "offload.optimizer=100 %", replace(plan, offload=Offload(optimizer=1.0))


def _all_again(plan: TrainingPlan) -> TrainingPlan:
    """The plan with full recomputation, without what only other kinds of it read."""
    modules: tuple[Module, ...] = ("core_attention",)
    return replace(plan, recompute="full", recompute_layers=None, recompute_modules=modules)


def _together(machine: TopologyInput, given: TrainingInput) -> Iterator[tuple[str, TrainingPlan]]:
    """Changes of several keys: smaller and smaller parts of the model on a device, with full
    recomputation, experts over as many devices as can be, and at last sharded weights.
    """
    plan, moe = given.workload.plan, given.model.moe
    devices = machine.topology.chips * machine.chip.devices_per_chip
    free = replace(_all_again(plan), dp=None, vpp=1, schedule="auto", layers=(), placement=())
    counts = [2**n for n in range(devices.bit_length())]
    degrees = [
        (tp, pp) for pp in counts for tp in counts if tp <= domain_devices(machine) and tp * pp > 1
    ]
    for zero in sorted({max(1, plan.zero), 3}):
        for tp, pp in sorted(degrees, key=lambda pair: (pair[0] * pair[1], pair[1])):
            ep = math.gcd(moe.experts, devices // pp) if moe is not None else 1
            words = f"tp={tp} with pp={pp}, {f'ep={ep}, ' if ep > 1 else ''}zero={zero} and "
            yield words + "recompute=full", replace(free, tp=tp, pp=pp, ep=ep, etp=1, zero=zero)
