"""A priced step as events: stages on their SMs, memory and links, with what overlaps beside them.

Every stage is one representative device: its SM time, memory bandwidth, links into the domain and
NIC are its resources, since all replicas and all ranks of a stage do the same at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from cluster_sim.collectives.network import Axis
from cluster_sim.kernels.stream import hbm_bytes_per_s
from cluster_sim.perf.train_layer import Case
from cluster_sim.perf.train_stage import Transfers
from cluster_sim.training.closed import (
    STEADY,
    Step,
    books,
    middle_round,
    played_rounds,
    round_p2p_s,
    run_of,
)
from cluster_sim.training.events import PlayedStep, play
from cluster_sim.training.jitter import straggler_s
from cluster_sim.training.priced import Pass, Priced, schedule_of
from cluster_sim.training.schedule import Schedule
from cluster_sim.training.step_work import Phases, Record, StepWork
from cluster_sim.work import Activity, Phase, kernel, pause, traffic

SM, HBM, LINK, NIC = range(4)
PER_STAGE = 4
STREAMING = ("elementwise", "permute")  # parts that are all memory traffic
KERNELS = ("gemm", "attention", "experts", "head", *STREAMING)
WAITS = ("host", "offload")
Rates = Mapping[str, tuple[float, float]]  # bytes/s on links and NIC while a part runs


def work_of(priced: Priced, plan: Schedule) -> StepWork:
    """A step of a schedule as activities on the resources of its stages."""
    job = priced.job
    count, parts = plan.virtual_stages, len(priced.stages)
    rates, case = _rates(job.case), job.case
    home = [plan.home(v)[0] for v in range(count)]

    def phases(passes: tuple[Pass, ...]) -> tuple[Phases, ...]:
        return tuple(_phases(case, passes[v % parts].parts, rates, home[v]) for v in range(count))

    def sends(ahead: int) -> tuple[Activity | None, ...]:
        return tuple(
            _send(priced.sends[v % parts], home[v + ahead]) if (v + 1) % parts else None
            for v in range(count - 1)
        )

    sms = case.kernels.software.comm_sms
    gradients = tuple(_buckets(priced, v % parts, home[v], sms, gather=False) for v in range(count))
    gathers = tuple(_buckets(priced, v % parts, home[v], sms, gather=True) for v in range(count))
    optimizers = tuple(
        sum(priced.optimizer_s[plan.virtual(stage, c) % parts] for c in range(plan.chunks))
        for stage in range(plan.stages)
    )
    return StepWork(
        schedule=plan,
        forward=phases(priced.forward),
        backward=phases(priced.backward),
        weight=phases(priced.weight),
        send_forward=sends(0),
        send_backward=sends(1),
        gradients=gradients,
        gradients_ready="during" if job.plan.overlap_gradients else "end",
        gathers=gathers,
        gathers_needed="during" if job.plan.overlap_gather else "before",
        optimizer=tuple(pause(seconds) if seconds else None for seconds in optimizers),
        barrier_s=priced.barrier_s,
        capacity=_capacity(case, plan.stages),
    )


def _capacity(case: Case, stages: int) -> tuple[float, ...]:
    """Of a stage's device. Links are all that it has into its domain, or to the other device of
    its package; in a mesh a pair alone has fewer.
    """
    network = case.network
    links = max(network.axis(n, 1).shape.link_bytes_per_s for n in (2, max(2, network.domain)))
    one = (1.0, hbm_bytes_per_s(case.kernels.machine), links, network.nic_bytes_per_s)
    return one * stages


def _rates(case: Case) -> Rates:
    """Bytes/s of the collectives inside a pass, from one call of each."""
    groups, message = case.groups, case.tokens * case.model.hidden * 2
    calls: tuple[tuple[str, str, Axis], ...] = (
        ("tp", "all_gather", groups.tp),
        ("cp", "send_recv", groups.cp),
        ("ep", "all_to_all", groups.ep),
        ("dp", "all_gather", groups.sharded),
    )
    found = {}
    for part, operation, axis in calls:
        seconds = case.network.seconds(operation, axis, message)
        if seconds:
            link, nic = case.network.moved(operation, axis, message)
            found[part] = link / seconds, nic / seconds
    return found


def _phases(case: Case, parts: Mapping[str, float], rates: Rates, stage: int) -> Phases:
    """A pass: its kernels, its collectives one after the other, what the host takes."""
    base, found = PER_STAGE * stage, []
    kernels_s = sum(parts.get(part, 0.0) for part in KERNELS)
    if kernels_s:
        streamed = sum(parts.get(part, 0.0) for part in STREAMING)
        demand = {base + SM: kernels_s}
        if streamed:
            demand[base + HBM] = streamed * case.kernels.stream_bytes_per_s
        found.append(Phase(name="compute", activity=kernel(kernels_s, demand)))
    for part, seconds in parts.items():
        if part in KERNELS or not seconds:
            continue
        if part in WAITS:
            found.append(Phase(name=part, activity=pause(seconds)))
            continue
        link, nic = rates.get(part, (0.0, 0.0))
        moved = Transfers(seconds, link * seconds, nic * seconds)
        activity = _traffic(moved, base, 0.0) or pause(seconds)
        found.append(Phase(name=part, activity=activity))
    return tuple(found)


def _traffic(moved: Transfers, base: int, sms: float) -> Activity | None:
    """Transfers on the links of a stage, with the SMs that they hold."""
    links = {base + LINK: moved.link_bytes, base + NIC: moved.nic_bytes}
    used = {link: size for link, size in links.items() if size > 0}
    if not used or not moved.seconds:
        return None
    ends = {base + SM: sms * moved.seconds} if sms else None
    return traffic(moved.seconds, used, ends)


def _send(moved: Transfers, stage: int) -> Activity | None:
    return _traffic(moved, PER_STAGE * stage, 0.0)


def _buckets(
    priced: Priced, part: int, stage: int, sms: float, *, gather: bool
) -> tuple[Activity, ...]:
    """The collectives of a part once a step, one bucket a layer (or of the plan's size)."""
    held = priced.stages[part]
    total = held.gather if gather else held.gradients
    if not total.seconds:
        return ()
    buckets = bucket_count(priced, part)
    one = _traffic(total.times(1 / buckets), PER_STAGE * stage, sms)
    return () if one is None else (one,) * buckets


def bucket_count(priced: Priced, part: int) -> int:
    """Buckets that the gradients of a part of the model come in."""
    held, plan = priced.stages[part], priced.job.plan
    if plan.bucket is None:
        return max(1, held.content.layers)
    size = held.trained * (4.0 if plan.reduce_dtype == "fp32" else 2.0)
    return max(1, round(size / plan.bucket))


def played_step(priced: Priced, *, whole: bool = False) -> tuple[Step, PlayedStep]:
    """Play a step on the clock, and close its books.

    Of many micro-batches the first are played, and what they repeat is counted on, unless the
    ``whole`` step is wanted; a pipeline that does not repeat is always played whole.
    """
    job = priced.job
    rounds, extra = (job.micro_batches, 0) if whole else played_rounds(job)
    plan = schedule_of(job, rounds)
    played = play(work_of(priced, plan))
    middle = _middle(priced, plan, played) if extra else None
    if extra and middle is None:
        plan = schedule_of(job)
        played = play(work_of(priced, plan))
    end_s = played.end_s
    spent = [
        {
            "dp": seconds.gather_exposed_s
            + seconds.gradient_exposed_s
            + seconds.norm_s
            + seconds.slowed_s,
            "pp": seconds.p2p_exposed_s,
            "optimizer": seconds.optimizer_s,
        }
        for seconds in played.stages
    ]
    if middle is not None:
        again = extra / plan.stages
        end_s += again * middle.round_s
        for own, slowed_s, p2p_s in zip(spent, middle.slowed_s, middle.p2p_s, strict=True):
            own["dp"] += again * slowed_s
            own["pp"] += again * p2p_s
    sigma, seed = job.case.job.jitter, job.case.job.seed
    if sigma is None:
        straggler = priced.spread * (end_s + priced.host_s)
    else:
        straggler = straggler_s(priced, sigma, seed)
    return books(priced, plan, end_s, straggler, spent), played


@dataclass(frozen=True, slots=True, kw_only=True)
class Middle:
    """A round of p micro-batches in the middle of a step: how long it takes, and of each stage what
    its passes were slowed and what of its sends showed.
    """

    round_s: float
    slowed_s: list[float]
    p2p_s: list[float]


def _middle(priced: Priced, plan: Schedule, played: PlayedStep) -> Middle | None:
    """The round that repeats; None where rounds before and after took another time, or the first
    and the last part of the model do not agree.
    """
    p, last = plan.stages, middle_round(plan)
    parts = (0, plan.virtual_stages - 1)
    ends: dict[tuple[int, int], float] = {}
    slowed = [0.0] * p
    for record in played.records:
        if record.lane != "compute" or record.micro_batch < 0:
            continue
        part = plan.virtual(record.stage, record.chunk)
        if record.kind == "F" and part in parts:
            ends[part, record.micro_batch] = record.end_s
        if last - p < record.micro_batch <= last:
            slowed[record.stage] += record.end_s - record.start_s - _alone_s(priced, plan, record)
    steps = [
        ends[part, after] - ends[part, before]
        for part in parts
        for before, after in pairwise((last - 2 * p, last - p, last, last + p))
    ]
    if max(steps) - min(steps) > STEADY * max(steps):
        return None
    alone, _ = run_of(priced, plan.micro_batches)
    p2p_s = round_p2p_s(priced, plan, alone).tolist()
    return Middle(round_s=steps[1], slowed_s=slowed, p2p_s=p2p_s)


def _alone_s(priced: Priced, plan: Schedule, record: Record) -> float:
    """Seconds of an operation when nobody else is there."""
    part = plan.virtual(record.stage, record.chunk) % len(priced.stages)
    if record.kind == "F":
        return priced.forward[part].seconds
    if record.kind == "W":
        return priced.weight[part].seconds
    whole = 0.0 if plan.split else priced.weight[part].seconds
    return priced.backward[part].seconds + whole
